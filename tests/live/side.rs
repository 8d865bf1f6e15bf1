//! A Google as the requests need it: its endpoints, and tokens for them.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gcp_wif_core::exchange::credential_configuration::CredentialConfiguration;
use gcp_wif_core::exchange::subject_token::SubjectToken;
use gcp_wif_core::words::google::Endpoint;
use gcp_wif_core::words::secret::Secret;
use serde_json::Value;

use super::answer::{Known, Seen};
use super::client::Reply;
use crate::google::jwt::Parsed;
use crate::google::{Claims, Google, Options, ServiceAccount, Source};

const HOUR: u32 = 3600;
const LONGEST_FILE: usize = 1 << 20;

pub struct Side {
    pub configuration: CredentialConfiguration,
    pub subject_token: Secret,
    pub expired_token: Option<Secret>,
    /// The result of the first exchange.
    pub federated: Option<Secret>,
    known: Known,
}

impl Side {
    /// The Google that a credential configuration leads to.
    pub fn of_files(configuration: &Path, token: Option<&Path>, expired: Option<&Path>) -> Result<Self, String> {
        let parsed = CredentialConfiguration::parse(&read(configuration)?)
            .map_err(|problem| format!("{}: {problem}", configuration.display()))?;
        let read_token = |path: &Path| {
            let token = SubjectToken::parse(&read(path)?, &parsed.subject_token_format);
            token.map(|token| token.token().clone()).map_err(|problem| format!("{}: {problem}", path.display()))
        };
        let subject_token = read_token(token.unwrap_or(&parsed.subject_token_file))?;
        let expired_token = expired.map(read_token).transpose()?;
        Self::new(parsed, subject_token, expired_token)
    }

    fn new(
        configuration: CredentialConfiguration,
        subject_token: Secret,
        expired_token: Option<Secret>,
    ) -> Result<Self, String> {
        let claims = claims(&subject_token)?;
        let mut known = Known::default();
        known.is_secret(&subject_token);
        if let Some(token) = &expired_token {
            known.is_secret(token);
        }
        let audience = configuration.audience.as_str();
        for name in [audience, audience.trim_start_matches('/')] {
            known.stands_for(name, "AUDIENCE");
        }
        known.stands_for(claims["iss"].as_str().unwrap_or_default(), "ISSUER");
        known.stands_for(claims["sub"].as_str().unwrap_or_default(), "SUBJECT");
        Ok(Self { configuration, subject_token, expired_token, federated: None, known })
    }

    /// An embedded Google with the same provider, issuer, subject and service account, and this side of it.
    pub fn embedded(&self) -> Result<(Google, Self), String> {
        let claims = claims(&self.subject_token)?;
        let text = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
        let audience = &self.configuration.audience;
        let account = self.configuration.impersonation.as_ref().map(|impersonation| ServiceAccount {
            extended_lifetime: impersonation.lifetime.is_some_and(|seconds| seconds > HOUR),
            ..ServiceAccount::new(impersonation.service_account.as_str(), &[&text("sub")])
        });
        let mut options = Options {
            project_number: audience.project_number().to_owned(),
            pool: audience.pool().to_owned(),
            provider: self.provider().to_owned(),
            issuer: text("iss"),
            service_accounts: account.iter().cloned().collect(),
            buckets: Vec::new(),
            ..Options::default()
        };
        // If the token has another audience than the provider's own name, the provider allows that audience.
        let audiences = audiences(&claims);
        if !audiences.iter().any(|audience| options.expected_audiences().contains(audience)) {
            options.allowed_audiences = audiences;
        }
        let google = Google::start(options);
        let mint = |token: &Secret| same_claims(&google, token);
        let subject_token = mint(&self.subject_token)?;
        let expired_token = self.expired_token.as_ref().map(mint).transpose()?;
        let mut source = Source::file(&self.configuration.subject_token_file);
        source.service_account = account.map(|account| account.email);
        source.lifetime = self.configuration.lifetime().map(u64::from);
        let configuration = CredentialConfiguration::parse(google.credential_configuration_text(&source).as_bytes())?;
        let configuration = CredentialConfiguration {
            subject_token_type: self.configuration.subject_token_type.clone(),
            ..configuration
        };
        Ok((google, Self::new(configuration, subject_token, expired_token)?))
    }

    /// The provider's last name.
    pub fn provider(&self) -> &str {
        self.configuration.audience.as_str().rsplit('/').next().unwrap_or_default()
    }

    pub fn identity(&self) -> &str {
        let impersonation = self.configuration.impersonation.as_ref();
        impersonation.map_or("itself, by direct federation", |impersonation| impersonation.service_account.as_str())
    }

    /// The provider's resource name with another pool or provider in it.
    pub fn audience(&self, pool: Option<&str>, provider: Option<&str>) -> String {
        let own = &self.configuration.audience;
        format!(
            "//iam.googleapis.com/projects/{}/locations/global/workloadIdentityPools/{}/providers/{}",
            own.project_number(),
            pool.unwrap_or(own.pool()),
            provider.unwrap_or(self.provider())
        )
    }

    /// The generateAccessToken URL of the service account, or of another name in its project.
    pub fn impersonation_url(&self, name: Option<&str>) -> Result<Endpoint, &'static str> {
        let impersonation = self.configuration.impersonation.as_ref().ok_or("direct federation")?;
        let own = &impersonation.service_account;
        let domain = own.as_str().rsplit('@').next().unwrap_or_default();
        let other = name.and_then(|name| format!("{name}@{domain}").try_into().ok());
        self.configuration.impersonation_url(other.as_ref().unwrap_or(own)).map_err(|_| "it has no URL")
    }

    /// The subject token with another subject, and with its old signature.
    pub fn altered_token(&self) -> Secret {
        let token = self.subject_token.expose();
        let altered = claims(&self.subject_token).ok().and_then(|mut claims| {
            claims["sub"] = "system:serviceaccount:kube-system:altered".into();
            let (header, rest) = token.split_once('.')?;
            Some(format!("{header}.{}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()), rest.rsplit_once('.')?.1))
        });
        Secret::new(altered.unwrap_or_default())
    }

    /// The subject token with another first byte of its signature.
    pub fn badly_signed_token(&self) -> Secret {
        let (message, signature) = self.subject_token.expose().rsplit_once('.').unwrap_or_default();
        let first = if signature.starts_with('A') { 'B' } else { 'A' };
        Secret::new(format!("{message}.{first}{}", signature.get(1..).unwrap_or_default()))
    }

    /// Keeps the first federated token. Returns the comparable parts of an answer.
    pub fn learn(&mut self, reply: &Reply) -> Seen {
        if let Ok(body) = serde_json::from_slice::<Value>(&reply.body) {
            for name in ["access_token", "accessToken", "token"] {
                if let Some(token) = body[name].as_str() {
                    let token = Secret::new(token.to_owned());
                    self.known.is_secret(&token);
                    if name == "access_token" && self.federated.is_none() {
                        self.federated = Some(token);
                    }
                }
            }
        }
        Seen::of(reply, &self.known)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let content = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    if content.len() > LONGEST_FILE { Err(format!("{}: too long", path.display())) } else { Ok(content) }
}

fn claims(token: &Secret) -> Result<Value, String> {
    Parsed::parse(token.expose()).map(|token| token.claims).ok_or_else(|| "the subject token is not a JWT".to_owned())
}

fn audiences(claims: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match &claims["aud"] {
        Value::Array(all) => all.iter().filter_map(text).collect(),
        one => text(one).into_iter().collect(),
    }
}

/// A token of the embedded Google's own issuer that says the same.
fn same_claims(google: &Google, token: &Secret) -> Result<Secret, String> {
    let claims = claims(token)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let text = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
    let from_now = |name: &str| claims[name].as_i64().map_or(0, |time| time - now);
    let own = Claims {
        subject: text("sub"),
        audience: Some(audiences(&claims)),
        issuer: Some(text("iss")),
        issued_in: from_now("iat"),
        expires_in: from_now("exp"),
        ..Claims::default()
    };
    Ok(Secret::new(google.subject_token(&own)))
}
