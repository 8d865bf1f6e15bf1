//! The STS token exchange, <https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token>.
#![forbid(unsafe_code)]

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use zeroize::Zeroizing;

use super::credential_configuration::CredentialConfiguration;
use super::subject_token::SubjectToken;
use super::{Problem, Wanted, object, token};
use crate::words::google::{Identity, Scope};
use crate::words::secret::Secret;
use crate::world::http::{Request, Response};

/// RFC 8693 section 2.1.
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693 section 3.
const REQUESTED_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

/// The fields of the response that are used.
pub(super) struct Answer {
    pub(super) token: Secret,
    /// The lifetime in seconds, counted from the response.
    pub(super) expires_in: Option<i64>,
}

/// Builds the form-encoded request of RFC 8693. It has no Authorization header, because a workload identity pool has no
/// client credentials.
pub(super) fn request(
    configuration: &CredentialConfiguration,
    subject_token: &SubjectToken,
    wanted: Wanted<'_>,
) -> Request {
    // A federated token that is only used for impersonation needs only this scope. The job's scopes go into the second
    // request.
    let scope = match wanted.identity {
        Identity::ServiceAccount(_) => Scope::IAM.to_owned(),
        Identity::Federated => wanted.scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" "),
    };
    let fields = [
        ("grant_type", GRANT_TYPE),
        ("requested_token_type", REQUESTED_TOKEN_TYPE),
        ("audience", configuration.audience.as_str()),
        ("scope", &scope),
        ("subject_token_type", &configuration.subject_token_type),
        ("subject_token", subject_token.token().expose()),
    ];
    let mut body = Zeroizing::new(String::with_capacity(16 << 10));
    for (name, value) in fields {
        if !body.is_empty() {
            body.push('&');
        }
        body.push_str(name);
        body.push('=');
        body.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
    }
    Request {
        endpoint: configuration.token_url.clone(),
        bearer: None,
        content_type: "application/x-www-form-urlencoded",
        headers: Vec::new(),
        body: Secret::new(std::mem::take(&mut *body)),
    }
}

pub(super) fn receive(response: &Response, sent: &Secret) -> Result<Answer, Problem> {
    let object = object(response, sent)?;
    match object.get("token_type").and_then(serde_json::Value::as_str) {
        Some(kind) if kind.eq_ignore_ascii_case("Bearer") => {}
        _ => return Err(Problem::Malformed("the response's token_type is not Bearer".to_owned())),
    }
    Ok(Answer {
        token: token(&object, "access_token")?,
        expires_in: object.get("expires_in").and_then(serde_json::Value::as_i64),
    })
}
