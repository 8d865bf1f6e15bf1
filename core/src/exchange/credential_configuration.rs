//! The credential configuration: the `external_account` file that `gcloud iam workload-identity-pools
//! create-cred-config` writes.
//!
//! Parsing converts the file format (`File`) to a checked value ([`CredentialConfiguration`]).
//! <https://google.aip.dev/auth/4117>
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::words::google::{Audience, Endpoint, ServiceAccountEmail, is_host_name, is_project_id};
use crate::words::json::from_json;
use crate::words::names::clip;
use crate::words::path::check_path;

/// The token type of a JWT that is not an OpenID token (RFC 8693 section 3).
pub const TOKEN_TYPE_JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const TOKEN_TYPE_ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";
const GOOGLE: &str = "googleapis.com";
const GENERATE_ACCESS_TOKEN: &str = ":generateAccessToken";
/// The lifetimes that generateAccessToken accepts, in seconds. More than an hour requires an organization policy.
const LIFETIMES: std::ops::RangeInclusive<u32> = 600..=43_200;

/// The format of the subject token file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubjectTokenFormat {
    /// The file contains only the token.
    Text,
    /// The file is a JSON object, and the token is one of its fields.
    Json {
        /// The name of that field.
        field: String,
    },
}

/// The service account to impersonate, and the lifetime of its access tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Impersonation {
    /// The URL before the email.
    base: String,
    /// The service account that the credential configuration names.
    pub service_account: ServiceAccountEmail,
    /// The requested lifetime of access tokens, in seconds. Google's default is 3600.
    pub lifetime: Option<u32>,
}

impl Impersonation {
    /// Creates the impersonation of a service account through the IAM Credentials API at an origin (`https://HOST`).
    pub fn new(origin: &str, service_account: &ServiceAccountEmail, lifetime: Option<u32>) -> Self {
        let base = format!("{origin}/v1/projects/-/serviceAccounts/");
        Self { base, service_account: service_account.clone(), lifetime }
    }
}

/// A checked credential configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialConfiguration {
    /// The universe domain: `googleapis.com` except for sovereign clouds.
    pub universe_domain: String,
    /// The resource name of the workload identity pool provider.
    pub audience: Audience,
    /// The type of the subject token, a URN from RFC 8693.
    pub subject_token_type: String,
    /// The STS endpoint.
    pub token_url: Endpoint,
    /// The introspection endpoint, used with direct federation.
    pub token_info_url: Option<Endpoint>,
    /// The path of the subject token file.
    pub subject_token_file: PathBuf,
    /// The format of that file.
    pub subject_token_format: SubjectTokenFormat,
    /// The service account to impersonate. Without one, the federated token is the access token.
    pub impersonation: Option<Impersonation>,
    /// The project for quota and billing of the job's requests, if it is not the resource's project.
    pub quota_project_id: Option<String>,
}

#[derive(Deserialize)]
struct Head {
    r#type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "type")]
    _type: String,
    universe_domain: Option<String>,
    audience: Option<String>,
    subject_token_type: Option<String>,
    token_url: Option<String>,
    token_info_url: Option<String>,
    credential_source: Option<Value>,
    service_account_impersonation_url: Option<String>,
    service_account_impersonation: Option<ImpersonationFile>,
    quota_project_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ImpersonationFile {
    token_lifetime_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourceFile {
    file: PathBuf,
    format: Option<FormatFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FormatFile {
    r#type: String,
    subject_token_field_name: Option<String>,
}

impl CredentialConfiguration {
    /// Parses the content of the file.
    ///
    /// # Errors
    /// A message that names the key and the expected value.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let head: Head = from_json(text)?;
        if head.r#type != "external_account" {
            return Err(format!(
                "type is \"{}\", but a credential configuration for workload identity federation has \
                 \"external_account\"",
                clip(&head.r#type, 40)
            ));
        }
        let file: File = from_json(text)?;
        let (subject_token_file, subject_token_format) = source(file.credential_source)?;
        let universe_domain = file.universe_domain.unwrap_or_else(|| GOOGLE.to_owned());
        if !is_host_name(&universe_domain) {
            return Err(format!("universe_domain: \"{}\" is not a domain", clip(&universe_domain, 80)));
        }
        if file.quota_project_id.as_deref().is_some_and(|project| !is_project_id(project)) {
            return Err("quota_project_id: not a project id".to_owned());
        }
        Ok(Self {
            audience: Audience::parse(&required("audience", file.audience)?).map_err(|e| format!("audience: {e}"))?,
            subject_token_type: subject_token_type(file.subject_token_type)?,
            token_url: endpoint("token_url", required("token_url", file.token_url)?)?,
            token_info_url: file.token_info_url.map(|url| endpoint("token_info_url", url)).transpose()?,
            subject_token_file,
            subject_token_format,
            impersonation: impersonation(file.service_account_impersonation_url, file.service_account_impersonation)?,
            universe_domain,
            quota_project_id: file.quota_project_id,
        })
    }

    /// Returns the generateAccessToken URL of a service account.
    ///
    /// # Errors
    /// When the URL is not valid.
    pub fn impersonation_url(&self, service_account: &ServiceAccountEmail) -> Result<Endpoint, String> {
        let base = match &self.impersonation {
            Some(impersonation) => impersonation.base.clone(),
            None => format!("https://iamcredentials.{}/v1/projects/-/serviceAccounts/", self.universe_domain),
        };
        endpoint("service_account_impersonation_url", format!("{base}{service_account}{GENERATE_ACCESS_TOKEN}"))
    }

    /// Returns the configured lifetime of access tokens, in seconds.
    pub fn lifetime(&self) -> Option<u32> {
        self.impersonation.as_ref().and_then(|impersonation| impersonation.lifetime)
    }

    /// Returns this configuration for one identity in the form that all client libraries accept, with
    /// `universe_domain`, `token_url` and an explicit `format`.
    ///
    /// # Errors
    /// When the URL of the service account is invalid.
    pub fn portable(&self, service_account: Option<&ServiceAccountEmail>) -> Result<Value, String> {
        let format = match &self.subject_token_format {
            SubjectTokenFormat::Text => json!({"type": "text"}),
            SubjectTokenFormat::Json { field } => json!({"type": "json", "subject_token_field_name": field}),
        };
        let mut file = json!({
            "universe_domain": self.universe_domain,
            "type": "external_account",
            "audience": self.audience.as_str(),
            "subject_token_type": self.subject_token_type,
            "token_url": self.token_url.as_str(),
            "credential_source": {"file": self.subject_token_file, "format": format},
        });
        let mut add = |key: &str, value: Value| {
            if let Some(object) = file.as_object_mut() {
                object.insert(key.to_owned(), value);
            }
        };
        match service_account {
            Some(email) => {
                add("service_account_impersonation_url", json!(self.impersonation_url(email)?.as_str()));
                if let Some(seconds) = self.lifetime() {
                    add("service_account_impersonation", json!({"token_lifetime_seconds": seconds}));
                }
            }
            None => {
                let url = match &self.token_info_url {
                    Some(url) => url.as_str().to_owned(),
                    None => format!("https://sts.{}/v1/introspect", self.universe_domain),
                };
                add("token_info_url", json!(url));
            }
        }
        if let Some(project) = &self.quota_project_id {
            add("quota_project_id", json!(project));
        }
        Ok(file)
    }
}

fn required(key: &str, value: Option<String>) -> Result<String, String> {
    value.filter(|text| !text.is_empty()).ok_or_else(|| format!("{key} is missing"))
}

fn endpoint(key: &str, url: String) -> Result<Endpoint, String> {
    Endpoint::parse(&url).map_err(|error| format!("{key}: {error}"))
}

fn subject_token_type(value: Option<String>) -> Result<String, String> {
    let value = required("subject_token_type", value)?;
    if [TOKEN_TYPE_JWT, TOKEN_TYPE_ID_TOKEN].contains(&value.as_str()) {
        Ok(value)
    } else {
        Err(format!(
            "subject_token_type is \"{}\", but only {TOKEN_TYPE_JWT} and {TOKEN_TYPE_ID_TOKEN} are supported",
            clip(&value, 80)
        ))
    }
}

fn source(value: Option<Value>) -> Result<(PathBuf, SubjectTokenFormat), String> {
    let value = value.ok_or("credential_source is missing")?;
    if let Some(other) =
        ["url", "executable", "environment_id", "certificate"].iter().find(|key| value.get(**key).is_some())
    {
        return Err(format!("credential_source is of type \"{other}\", but only \"file\" is supported"));
    }
    let source: SourceFile = serde_json::from_value(value)
        .map_err(|error| format!("credential_source: {}", clip(&error.to_string(), 300)))?;
    check_path("credential_source.file", &source.file)?;
    let format = match source.format {
        None => SubjectTokenFormat::Text,
        Some(FormatFile { r#type, subject_token_field_name }) => match (r#type.as_str(), subject_token_field_name) {
            ("text", _) => SubjectTokenFormat::Text,
            ("json", Some(field)) => SubjectTokenFormat::Json { field },
            ("json", None) => return Err("credential_source.format.subject_token_field_name is missing".to_owned()),
            (other, _) => {
                return Err(format!(
                    "credential_source.format.type is \"{}\", it must be \"text\" or \"json\"",
                    clip(other, 40)
                ));
            }
        },
    };
    Ok((source.file, format))
}

fn impersonation(url: Option<String>, settings: Option<ImpersonationFile>) -> Result<Option<Impersonation>, String> {
    const KEY: &str = "service_account_impersonation_url";
    let lifetime = settings.and_then(|settings| settings.token_lifetime_seconds);
    if let Some(seconds) = lifetime.filter(|seconds| !LIFETIMES.contains(seconds)) {
        return Err(format!(
            "service_account_impersonation.token_lifetime_seconds is {seconds}, it must be from 600 to 43200"
        ));
    }
    let Some(url) = url else {
        return match lifetime {
            None => Ok(None),
            Some(_) => Err(format!("service_account_impersonation needs {KEY}")),
        };
    };
    endpoint(KEY, url.clone())?;
    let (base, email) = url
        .strip_suffix(GENERATE_ACCESS_TOKEN)
        .and_then(|url| url.rsplit_once('/'))
        .filter(|(base, _)| base.ends_with("/projects/-/serviceAccounts"))
        .ok_or_else(|| {
            format!(
                "{KEY}: \"{}\" does not end in /projects/-/serviceAccounts/EMAIL{GENERATE_ACCESS_TOKEN}",
                clip(&url, 200)
            )
        })?;
    let service_account =
        ServiceAccountEmail::parse(&email.replace("%40", "@")).map_err(|error| format!("{KEY}: {error}"))?;
    Ok(Some(Impersonation { base: format!("{base}/"), service_account, lifetime }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Value {
        json!({
            "universe_domain": "googleapis.com",
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": TOKEN_TYPE_JWT,
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": {"file": "/var/run/secrets/tokens/token"},
            "service_account_impersonation_url":
                "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/sa@p.iam.gserviceaccount.com:generateAccessToken",
            "service_account_impersonation": {"token_lifetime_seconds": 1800},
        })
    }

    fn parse(value: &Value) -> Result<CredentialConfiguration, String> {
        CredentialConfiguration::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_file_from_gcloud_is_parsed() {
        let parsed = parse(&file()).unwrap();
        assert_eq!(parsed.subject_token_format, SubjectTokenFormat::Text);
        assert_eq!(parsed.lifetime(), Some(1800));
        let other = ServiceAccountEmail::parse("other@p.iam.gserviceaccount.com").unwrap();
        assert_eq!(
            parsed.impersonation_url(&other).unwrap().as_str(),
            "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/other@p.iam.gserviceaccount.com:generateAccessToken"
        );
    }

    #[test]
    fn the_portable_form_names_format_and_universe() {
        let mut value = file();
        value.as_object_mut().unwrap().remove("universe_domain");
        let parsed = parse(&value).unwrap();
        let mut expected = file();
        expected["credential_source"]["format"] = json!({"type": "text"});
        let email = ServiceAccountEmail::parse("sa@p.iam.gserviceaccount.com").unwrap();
        assert_eq!(parsed.portable(Some(&email)), Ok(expected));
        let direct = parsed.portable(None).unwrap();
        assert_eq!(direct["token_info_url"], "https://sts.googleapis.com/v1/introspect");
        assert!(direct.get("service_account_impersonation_url").is_none());
    }

    #[test]
    fn parse_errors_name_the_key() {
        let edit = |key: &str, new: Option<Value>| {
            let mut value = file();
            match new {
                Some(new) => value[key] = new,
                None => drop(value.as_object_mut().unwrap().remove(key)),
            }
            parse(&value).unwrap_err()
        };
        for (key, new, expected) in [
            ("type", Some(json!("service_account")), "type is \"service_account\""),
            ("type", None, "missing field `type`"),
            ("audience", None, "audience is missing"),
            ("audience", Some(json!("https://x")), "audience: \"https://x\" is not a provider's resource name"),
            (
                "token_url",
                Some(json!("http://sts.googleapis.com/v1/token")),
                "token_url: \"http://sts.googleapis.com/v1/token\" is not an https URL",
            ),
            ("subject_token_type", Some(json!("urn:ietf:params:aws:token-type:aws4_request")), "subject_token_type is"),
            ("credential_source", None, "credential_source is missing"),
            ("credential_source", Some(json!({"executable": {"command": "x"}})), "of type \"executable\""),
            ("credential_source", Some(json!({"environment_id": "aws1"})), "of type \"environment_id\""),
            (
                "credential_source",
                Some(json!({"file": "token"})),
                "credential_source.file: \"token\" is not an absolute path",
            ),
            ("credential_source", Some(json!({"file": "/a b"})), "credential_source.file: \"/a b\""),
            (
                "credential_source",
                Some(json!({"file": "/t", "format": {"type": "json"}})),
                "subject_token_field_name is missing",
            ),
            ("credential_source", Some(json!({"file": "/t", "format": {"type": "xml"}})), "format.type is \"xml\""),
            (
                "service_account_impersonation",
                Some(json!({"token_lifetime_seconds": 43201})),
                "it must be from 600 to \
                 43200",
            ),
            (
                "service_account_impersonation_url",
                Some(json!("https://evil.org/sa:generateAccessToken")),
                "does not end in",
            ),
            ("universe_domain", Some(json!("a b\u{1b}")), "universe_domain: \"a b\\u{1b}\" is not a domain"),
            ("quota_project_id", Some(json!("a\nb")), "quota_project_id: not a project id"),
            ("client_secret", Some(json!("x")), "unknown field `client_secret`"),
        ] {
            let refusal = edit(key, new);
            assert!(refusal.contains(expected), "{key}: {refusal:?} does not contain {expected:?}");
        }
    }
}
