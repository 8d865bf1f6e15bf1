//! Requests and responses of generateAccessToken and generateIdToken,
//! <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken>.
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::{AccessToken, Problem, Wanted, missing, object, token};
use crate::words::google::{Endpoint, Scope};
use crate::words::names::clip;
use crate::words::secret::Secret;
use crate::words::time::from_rfc3339;
use crate::world::http::{Request, Response};

/// Google's default lifetime of an access token, in seconds.
const DEFAULT_LIFETIME: u32 = 3600;

pub(super) fn request(url: &Endpoint, federated: &Secret, wanted: Wanted<'_>, reason: &str) -> Request {
    let scopes: Vec<&str> = wanted.scopes.iter().map(Scope::as_str).collect();
    let lifetime = format!("{}s", wanted.lifetime.unwrap_or(DEFAULT_LIFETIME));
    Request {
        endpoint: url.clone(),
        bearer: Some(federated.clone()),
        content_type: "application/json",
        // Cloud Audit Logs contain it as requestMetadata.requestAttributes.reason.
        headers: vec![("x-goog-request-reason", reason.to_owned())],
        body: Secret::new(json!({"scope": scopes, "lifetime": lifetime}).to_string()),
    }
}

/// Builds the request of generateIdToken,
/// <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateIdToken>.
pub(super) fn id_request(url: &Endpoint, federated: &Secret, audience: &str, reason: &str) -> Request {
    Request {
        endpoint: url.with_method("generateIdToken"),
        bearer: Some(federated.clone()),
        content_type: "application/json",
        headers: vec![("x-goog-request-reason", reason.to_owned())],
        body: Secret::new(json!({"audience": audience, "includeEmail": true}).to_string()),
    }
}

pub(super) fn id_receive(response: &Response, sent: &Secret) -> Result<AccessToken, Problem> {
    let token = token(&object(response, sent)?, "token")?;
    let claims = super::subject_token::claims(token.expose());
    let expires_at = claims.and_then(|claims| claims.expiry).ok_or_else(|| missing("JWT with an expiry"))?;
    Ok(AccessToken { token, expires_at })
}

pub(super) fn receive(response: &Response, sent: &Secret) -> Result<AccessToken, Problem> {
    let object = object(response, sent)?;
    let token = token(&object, "accessToken")?;
    let time = object.get("expireTime").and_then(Value::as_str).ok_or_else(|| missing("expireTime"))?;
    let expires_at = from_rfc3339(time)
        .ok_or_else(|| Problem::Malformed(format!("its expireTime \"{}\" is not an RFC 3339 time", clip(time, 40))))?;
    Ok(AccessToken { token, expires_at })
}
