//! The two methods of the IAM Credentials API that clients call for a service account, at the job's port.
//!
//! `credentials.json` contains the URL of generateAccessToken. Client libraries take the service account from it, and
//! the Go library derives the URL for OpenID tokens from it. Both methods serve only the job's identity.
//! <https://cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts>
#![forbid(unsafe_code)]

use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::time::{Moment, rfc3339};
use serde_json::{Map, Value, json};

use super::answer::{self, Answer};
use super::reply::{Call, Reply};
use super::served::{Served, expiry, left};

const ACCOUNTS: &str = "/v1/projects/-/serviceAccounts/";
const PROJECTS: &str = "/v1/projects/";

/// Answers a POST below `/v1/projects/`. Returns `None` for other paths.
pub(crate) fn answer(call: &Call, served: &Served, now: Moment) -> Option<Answer> {
    let (resource, method) = call.path.strip_prefix(PROJECTS).and(call.path.rsplit_once(':'))?;
    Some(checked(call, resource, method, served, now).unwrap_or_else(Answer::Now))
}

fn checked(call: &Call, resource: &str, method: &str, served: &Served, now: Moment) -> Result<Answer, Reply> {
    let bearer = call.bearer.as_ref().ok_or_else(|| unauthenticated("the header Authorization: Bearer is missing"))?;
    if !served.knows(bearer, now) {
        return Err(unauthenticated("the bearer token is not one of this job's"));
    }
    let Some(email) = resource.strip_prefix(ACCOUNTS) else {
        return Err(invalid("the project must be given as -, and the service account by its email"));
    };
    let permission = match method {
        "generateAccessToken" => "iam.serviceAccounts.getAccessToken",
        "generateIdToken" => "iam.serviceAccounts.getOpenIdToken",
        _ => return Err(Reply::status(404, "NOT_FOUND", "Method not found.")),
    };
    if served.grant.identity().service_account().is_none_or(|account| account.as_str() != email) {
        return Err(denied(permission));
    }
    let fields = call.fields().ok_or_else(|| invalid("the body is neither a form nor JSON"))?;
    if list(&fields, "delegates").is_none_or(|delegates| !delegates.is_empty()) {
        return Err(denied("iam.serviceAccounts.implicitDelegation"));
    }
    if method == "generateIdToken" {
        let audience = fields.get("audience").and_then(Value::as_str).filter(|audience| !audience.is_empty());
        let audience = audience.ok_or_else(|| invalid("audience is missing"))?;
        return Ok(Answer::id_token(served, audience, id_token));
    }
    let scopes = list(&fields, "scope").ok_or_else(|| invalid("scope is not a list of scopes"))?.join(" ");
    let scopes = answer::scopes(&scopes).map_err(|problem| invalid(&problem))?;
    if scopes.is_empty() {
        return Err(invalid("scope is missing"));
    }
    Ok(Answer::access_token(served, scopes, access_token, now))
}

/// Returns a list of strings, which is a single string in a form. A missing or null field is an empty list.
fn list<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<Vec<&'a str>> {
    match fields.get(name) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![text]),
        Some(Value::Array(texts)) => texts.iter().map(Value::as_str).collect(),
        Some(_) => None,
    }
}

/// Builds the reply with an access token. Its lifetime is the site's, not the requested one, because all jobs of the
/// user share the token.
fn access_token(result: Result<Token, Failure>, _: &Grant, now: Moment) -> Reply {
    match result {
        Ok(token) if left(&token, now) > 0 => {
            Reply::json(&json!({"accessToken": token.secret().expose(), "expireTime": rfc3339(expiry(&token, now))}))
        }
        Ok(_) => refused(&Failure::of_no_token()),
        Err(failure) => refused(&failure),
    }
}

fn id_token(result: Result<Token, Failure>, _: &Grant, _: Moment) -> Reply {
    match result {
        Ok(token) => Reply::json(&json!({"token": token.secret().expose()})),
        Err(failure) => refused(&failure),
    }
}

fn refused(failure: &Failure) -> Reply {
    let status = answer::status(failure);
    let code = match status {
        400 => "INVALID_ARGUMENT",
        403 => "PERMISSION_DENIED",
        429 => "RESOURCE_EXHAUSTED",
        _ => "UNAVAILABLE",
    };
    Reply::status(status, code, &failure.to_string())
}

fn unauthenticated(why: &str) -> Reply {
    Reply::status(401, "UNAUTHENTICATED", why)
}

fn invalid(why: &str) -> Reply {
    Reply::status(400, "INVALID_ARGUMENT", why)
}

/// Builds a denial with Google's wording.
fn denied(permission: &str) -> Reply {
    let text = format!("Permission '{permission}' denied on resource (or it may not exist).");
    Reply::status(403, "PERMISSION_DENIED", &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::served::tests::{moment, served};
    use gcp_wif_core::words::secret::Secret;

    const EMAIL: &str = "site@p.iam.gserviceaccount.com";
    const OWN: &str = "https://www.googleapis.com/auth/cloud-platform";
    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";

    fn post(resource: &str, bearer: &str, content_type: &str, body: &str) -> Option<Answer> {
        let call = Call {
            path: format!("/v1/projects/{resource}"),
            body: zeroize::Zeroizing::new(body.into()),
            content_type: content_type.to_owned(),
            bearer: (!bearer.is_empty()).then(|| Secret::new(bearer.to_owned())),
            ..Call::default()
        };
        answer(&call, &served(), moment(1000))
    }

    fn reply(resource: &str, bearer: &str, content_type: &str, body: &str) -> (u16, Value) {
        match post(resource, bearer, content_type, body) {
            Some(Answer::Now(reply)) => (reply.status, serde_json::from_str(&reply.body).unwrap()),
            other => panic!("{other:?}"),
        }
    }

    fn method(name: &str) -> String {
        format!("-/serviceAccounts/{EMAIL}:{name}")
    }

    #[test]
    fn a_request_for_the_jobs_scopes_gets_the_jobs_token() {
        let method = method("generateAccessToken");
        for (content_type, body) in [
            (JSON, format!(r#"{{"delegates": null, "scope": ["{OWN}"], "lifetime": "3600s"}}"#)),
            (JSON, format!(r#"{{"delegates": [], "scope": "{OWN}"}}"#)),
            (FORM, format!("scope={OWN}&lifetime=3600s")),
        ] {
            let expected = json!({"accessToken": "ya29.t", "expireTime": "1970-01-01T00:26:41Z"});
            assert_eq!(reply(&method, "ya29.t", content_type, &body), (200, expected), "{body}");
        }
    }

    #[test]
    fn other_scopes_and_open_id_tokens_are_obtained_first() {
        let other = r#"{"scope": ["https://www.googleapis.com/auth/drive", "openid"]}"#;
        let Some(Answer::Later(wanted)) = post(&method("generateAccessToken"), "ya29.t", JSON, other) else { panic!() };
        let scopes: Vec<_> = wanted.grant.scopes().iter().map(|scope| scope.as_str()).collect();
        assert_eq!((scopes, wanted.audience), (vec!["https://www.googleapis.com/auth/drive", "openid"], None));
        let body = r#"{"audience": "https://example.org", "includeEmail": true}"#;
        let Some(Answer::Later(wanted)) = post(&method("generateIdToken"), "ya29.t", JSON, body) else { panic!() };
        assert_eq!(wanted.audience.as_deref(), Some("https://example.org"));
    }

    #[test]
    fn refusals_match_the_iam_credentials_api() {
        let own = format!(r#"{{"scope": ["{OWN}"]}}"#);
        let access = method("generateAccessToken");
        let other = access.replace("site@", "other@");
        for (resource, bearer, body, status, code) in [
            (&*access, "", &*own, 401, "UNAUTHENTICATED"),
            (&access, "ya29.other", &own, 401, "UNAUTHENTICATED"),
            (&access, "handle", &own, 401, "UNAUTHENTICATED"),
            (&other, "ya29.t", &own, 403, "PERMISSION_DENIED"),
            (&access.replace("-/", "p/"), "ya29.t", &own, 400, "INVALID_ARGUMENT"),
            (&method("signBlob"), "ya29.t", &own, 404, "NOT_FOUND"),
            (&access, "ya29.t", "{}", 400, "INVALID_ARGUMENT"),
            (&access, "ya29.t", r#"{"scope": ["drive"]}"#, 400, "INVALID_ARGUMENT"),
            (&access, "ya29.t", r#"{"scope": [1]}"#, 400, "INVALID_ARGUMENT"),
            (&access, "ya29.t", "[", 400, "INVALID_ARGUMENT"),
            (&access, "ya29.t", r#"{"scope": ["openid"], "delegates": ["x"]}"#, 403, "PERMISSION_DENIED"),
            (&method("generateIdToken"), "ya29.t", r#"{"audience": ""}"#, 400, "INVALID_ARGUMENT"),
        ] {
            let (got, body_got) = reply(resource, bearer, JSON, body);
            assert_eq!((got, &body_got["error"]["status"]), (status, &json!(code)), "{resource} {bearer} {body}");
            assert_eq!(body_got["error"]["code"], status);
        }
        assert!(post("p", "ya29.t", JSON, &own).is_none());
    }
}
