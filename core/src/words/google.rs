//! Google's names as types. Each type checks its text when it is built.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use serde::{Deserialize, Serialize};

use super::names::InvalidName;

/// The email of a Google service account: `NAME@PROJECT.iam.gserviceaccount.com`, or one of Google's default accounts.
///
/// <https://cloud.google.com/iam/docs/service-account-types>
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceAccountEmail(String);

impl ServiceAccountEmail {
    /// The length limit of an email, in bytes (RFC 5321 section 4.5.3.1.3).
    pub const LONGEST: usize = 254;

    /// Parses an email.
    ///
    /// # Errors
    /// When the text is longer than [`Self::LONGEST`] or is not `NAME@DOMAIN`, where both parts consist of lower-case
    /// letters, digits and hyphens and the domain is below `gserviceaccount.com`.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let valid = text.len() <= Self::LONGEST
            && text.split_once('@').is_some_and(|(name, domain)| {
                label(name) && domain.split('.').all(label) && domain.ends_with(".gserviceaccount.com")
            });
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new("a service account's email (NAME@PROJECT.iam.gserviceaccount.com)", text))
        }
    }

    /// The email as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the ID of the account's project, or `None` if the email does not contain it: the emails of Compute
    /// Engine's default accounts contain the project number instead. The ID of a domain-scoped project is
    /// `example.com:NAME`.
    pub fn project(&self) -> Option<String> {
        let (name, domain) = self.0.split_once('@')?;
        if domain == "appspot.gserviceaccount.com" {
            return Some(name.to_owned());
        }
        let project = domain.strip_suffix(".iam.gserviceaccount.com")?;
        Some(match project.split_once('.') {
            Some((name, domain)) => format!("{domain}:{name}"),
            None => project.to_owned(),
        })
    }
}

impl fmt::Display for ServiceAccountEmail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ServiceAccountEmail {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}

impl From<ServiceAccountEmail> for String {
    fn from(email: ServiceAccountEmail) -> Self {
        email.0
    }
}

/// The identity of a job at Google.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// A service account that the job impersonates.
    ServiceAccount(ServiceAccountEmail),
    /// The federated principal itself, without impersonation.
    Federated,
}

impl Identity {
    /// Returns the email, if the identity is a service account.
    pub fn service_account(&self) -> Option<&ServiceAccountEmail> {
        match self {
            Self::ServiceAccount(email) => Some(email),
            Self::Federated => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAccount(email) => email.fmt(f),
            Self::Federated => f.write_str("the federated principal"),
        }
    }
}

/// The full resource name of a workload identity pool provider, the audience of the STS token exchange:
/// `//iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audience(String);

impl Audience {
    /// Parses the `audience` of a credential configuration.
    ///
    /// # Errors
    /// When the text is not such a resource name.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let segments: Vec<&str> = text.strip_prefix("//").unwrap_or_default().split('/').collect();
        let segment = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
        let valid = matches!(
            segments.as_slice(),
            [host, "projects", number, "locations", location, "workloadIdentityPools", pool, "providers", provider]
                if [host, location, pool, provider].iter().all(|s| segment(s))
                    && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        );
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                "a provider's resource name (//iam.googleapis.com/projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER)",
                text,
            ))
        }
    }

    /// The audience as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The project number of the pool.
    pub fn project_number(&self) -> &str {
        self.segment(4)
    }

    /// The ID of the pool.
    pub fn pool(&self) -> &str {
        self.segment(8)
    }

    fn segment(&self, number: usize) -> &str {
        self.0.split('/').nth(number).unwrap_or_default()
    }
}

/// An OAuth scope of Google's: an `https` URL without blanks, or one of the OpenID Connect scopes `openid`, `email` and
/// `profile`.
///
/// <https://developers.google.com/identity/protocols/oauth2/scopes>
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(String);

impl Scope {
    /// Allows everything that the identity's IAM roles allow.
    pub const CLOUD_PLATFORM: &'static str = "https://www.googleapis.com/auth/cloud-platform";
    /// Allows the IAM API only, which is enough to impersonate a service account.
    pub const IAM: &'static str = "https://www.googleapis.com/auth/iam";

    /// Returns [`Scope::CLOUD_PLATFORM`] as a scope.
    pub fn cloud_platform() -> Self {
        Self(Self::CLOUD_PLATFORM.to_owned())
    }

    /// The scope as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        let is_url = text.len() <= 256
            && text.starts_with("https://")
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"\"\\,".contains(&b));
        let valid = is_url || ["openid", "email", "profile"].contains(&text.as_str());
        if valid {
            Ok(Self(text))
        } else {
            Err(InvalidName::new("a scope (https://www.googleapis.com/auth/...)", &text))
        }
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0
    }
}

/// The URL of one of Google's endpoints: `https`, or plain `http` to a loopback address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(String);

impl Endpoint {
    /// Parses a URL.
    ///
    /// # Errors
    /// When the text is not a URL, contains user information, or is `http` to a host other than a loopback address.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        const EXPECTED: &str = "an https URL (plain http is accepted for a loopback address only)";
        let refused = || InvalidName::new(EXPECTED, text);
        let uri: Uri = text.parse().map_err(|_| refused())?;
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
            _ => false,
        };
        let named = uri.authority().is_some_and(|authority| !authority.as_str().contains('@')) && !bare.is_empty();
        // The parser takes DEL, and what is not ASCII.
        let is_plain = text.bytes().all(|b| b.is_ascii_graphic());
        if secure && named && is_plain { Ok(Self(text.to_owned())) } else { Err(refused()) }
    }

    /// Returns the URL of another method of the same resource: replaces the text after the last colon.
    pub fn with_method(&self, method: &str) -> Self {
        match self.0.rsplit_once(':') {
            Some((base, _)) => Self(format!("{base}:{method}")),
            None => self.clone(),
        }
    }

    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host name of a registry, as a netrc file has it after `machine`: no blanks, no port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RegistryHost(String);

impl RegistryHost {
    /// The host as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RegistryHost {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        if is_host_name(&text) { Ok(Self(text)) } else { Err(InvalidName::new("a registry's host name", &text)) }
    }
}

/// Whether a text can be a host's name or a domain.
pub fn is_host_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b))
        && !text.starts_with(['.', '-'])
}

/// Whether a text can be a project's id, `NAME` or `DOMAIN:NAME`.
pub fn is_project_id(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-:.".contains(&b))
}

impl From<RegistryHost> for String {
    fn from(host: RegistryHost) -> Self {
        host.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_account_emails() {
        for email in [
            "trainer@my-project.iam.gserviceaccount.com",
            "trainer@my-project.example.com.iam.gserviceaccount.com",
            "123456-compute@developer.gserviceaccount.com",
            "my-project@appspot.gserviceaccount.com",
        ] {
            assert_eq!(ServiceAccountEmail::parse(email).map(String::from), Ok(email.to_owned()));
        }
        for text in [
            "",
            "trainer",
            "@p.iam.gserviceaccount.com",
            "a@b@p.iam.gserviceaccount.com",
            "a@gserviceaccount.com.evil.org",
            "A@p.iam.gserviceaccount.com",
            "a b@p.iam.gserviceaccount.com",
            "a@p.iam.gserviceaccount.com\n",
            "a@../p.iam.gserviceaccount.com",
            "$(id)@p.iam.gserviceaccount.com",
            "alice@example.com",
        ] {
            assert!(ServiceAccountEmail::parse(text).is_err(), "{text:?} was accepted");
        }
        assert!(ServiceAccountEmail::parse(&format!("{}@p.iam.gserviceaccount.com", "a".repeat(65536))).is_err());
    }

    #[test]
    fn a_service_account_email_tells_its_project() {
        for (email, project) in [
            ("trainer@my-project.iam.gserviceaccount.com", Some("my-project")),
            ("trainer@my-project.example.com.iam.gserviceaccount.com", Some("example.com:my-project")),
            ("trainer@p.sub.example.com.iam.gserviceaccount.com", Some("sub.example.com:p")),
            ("my-project@appspot.gserviceaccount.com", Some("my-project")),
            ("123456-compute@developer.gserviceaccount.com", None),
            ("123456@cloudservices.gserviceaccount.com", None),
            ("trainer@iam.gserviceaccount.com", None),
        ] {
            assert_eq!(ServiceAccountEmail::parse(email).unwrap().project().as_deref(), project, "{email}");
        }
    }

    #[test]
    fn an_endpoint_is_https_or_on_loopback() {
        for url in ["https://sts.googleapis.com/v1/token", "http://127.0.0.1:8080/v1/token", "http://[::1]:80/v1"] {
            assert_eq!(Endpoint::parse(url).map(|e| e.as_str().to_owned()), Ok(url.to_owned()));
        }
        for url in [
            "http://sts.googleapis.com/v1/token",
            "http://localhost/v1",
            "http://127.0.0.1.evil.org/",
            "http://127.0.0.1@evil.org/",
            "https://user:password@sts.googleapis.com/",
            "ftp://127.0.0.1/",
            "sts.googleapis.com",
            "",
            "https://",
            "https://a b/",
            "https://sts.googleapis.com/\u{7f}",
            "https://sts.googleapis.com/\u{202e}",
        ] {
            assert!(Endpoint::parse(url).is_err(), "{url:?} was accepted");
        }
    }

    #[test]
    fn an_audience_is_a_providers_resource_name() {
        let name = "//iam.googleapis.com/projects/12/locations/global/workloadIdentityPools/p/providers/q";
        let audience = Audience::parse(name).unwrap();
        assert_eq!((audience.project_number(), audience.pool()), ("12", "p"));
        for text in [
            "",
            "sts.googleapis.com",
            &name.replace("12", "my-project"),
            &name.replace("//", "https://"),
            &format!("{name}/"),
            &name.replace("/q", "/"),
        ] {
            assert!(Audience::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
