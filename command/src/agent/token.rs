//! The token endpoint at a job's port, which exchanges the job's handle (RFC 8693), so that `credentials.json` works in
//! all client libraries; and the introspection endpoint, which gcloud uses.
#![forbid(unsafe_code)]

use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::google::Scope;
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::words::time::Moment;
use serde_json::{Map, Value, json};

use super::answer::{self, Answer};
use super::reply::{Call, Reply};
use super::served::{Served, expiry, left, same};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Exchanges the handle for an access token with the scopes that the client requests.
///
/// With a service account, a client first requests a token for impersonation here, and then its scopes from
/// generateAccessToken. The first request gets the job's access token, which also suffices for a client that skips the
/// second.
pub(crate) fn exchange(call: &Call, served: &Served, now: Moment) -> Answer {
    let Some(fields) = call.fields() else {
        return Reply::oauth("invalid_request", "the body is neither a form nor JSON").into();
    };
    if field(&fields, "grant_type", "grantType") != GRANT_TYPE {
        return Reply::oauth("unsupported_grant_type", "grant_type must be token-exchange").into();
    }
    let given = Secret::new(field(&fields, "subject_token", "subjectToken").trim().to_owned());
    if !same(&given, &served.handle) {
        return Reply::oauth("invalid_grant", "the subject token is not this job's handle").into();
    }
    let mut scopes = match answer::scopes(field(&fields, "scope", "scope")) {
        Ok(scopes) => scopes,
        Err(problem) => return Reply::oauth("invalid_scope", &problem).into(),
    };
    let impersonates = [Scope::CLOUD_PLATFORM, Scope::IAM];
    if served.grant.identity().service_account().is_some()
        && scopes.iter().all(|scope| impersonates.contains(&scope.as_str()))
    {
        scopes.clear();
    }
    Answer::access_token(served, scopes, exchanged, now)
}

fn exchanged(result: Result<Token, Failure>, grant: &Grant, now: Moment) -> Reply {
    let result = result.and_then(|token| if left(&token, now) > 0 { Ok(token) } else { Err(Failure::of_no_token()) });
    match result {
        Ok(token) => {
            let scopes: Vec<&str> = grant.scopes().iter().map(Scope::as_str).collect();
            Reply::json(&json!({
                "access_token": token.secret().expose(),
                "issued_token_type": ACCESS_TOKEN,
                "token_type": "Bearer",
                "expires_in": left(&token, now),
                // They can differ from the requested ones (RFC 8693 section 2.2.1).
                "scope": scopes.join(" "),
            }))
        }
        Err(failure) => {
            let status = answer::status(&failure);
            let error = match status {
                400 => "invalid_request",
                403 => "access_denied",
                429 => "quota_exceeded",
                _ => "internal_failure",
            };
            Reply { status, ..Reply::oauth(error, &failure.to_string()) }
        }
    }
}

/// Answers an introspection request (RFC 7662). gcloud caches a federated principal's tokens by `username`, so it must
/// differ between jobs.
pub(crate) fn introspect(call: &Call, served: &Served, now: Moment) -> Reply {
    let given =
        Secret::new(call.fields().map(|fields| field(&fields, "token", "token").to_owned()).unwrap_or_default());
    let Some(token) = served.token(&given, now) else {
        return Reply::json(&json!({"active": false}));
    };
    Reply::json(&json!({
        "active": true,
        "username": format!("{}#slurm-job-{}", served.metadata.email, served.job()),
        "exp": expiry(token, now),
        "token_type": "Bearer",
    }))
}

/// Returns a field by its name in a form or in JSON, or an empty string.
fn field<'a>(fields: &'a Map<String, Value>, name: &str, in_json: &str) -> &'a str {
    fields.get(name).or_else(|| fields.get(in_json)).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::served::tests::{moment, served, token_of};
    use gcp_wif_core::testing;
    use gcp_wif_core::words::time::UnixSeconds;

    fn post(content_type: &str, body: &str) -> Call {
        Call {
            path: "/v1/token".to_owned(),
            body: zeroize::Zeroizing::new(body.into()),
            content_type: content_type.to_owned(),
            ..Call::default()
        }
    }

    const FORM: &str = "application/x-www-form-urlencoded,application/x-www-form-urlencoded";

    fn now(call: &Call, at: UnixSeconds) -> Reply {
        match exchange(call, &served(), moment(at)) {
            Answer::Now(reply) => reply,
            later @ Answer::Later(_) => panic!("{later:?}"),
        }
    }

    #[test]
    fn a_token_for_impersonation_is_the_jobs_and_other_scopes_are_obtained_first() {
        let scope = |names: &str| {
            let url = |name: &str| format!("https://www.googleapis.com/auth/{name}");
            let scopes: Vec<_> = names.split_whitespace().map(url).collect();
            let body = json!({"grantType": GRANT_TYPE, "subjectToken": "handle", "scope": scopes.join(" ")});
            post("application/json", &body.to_string())
        };
        for own in ["", "iam", "cloud-platform", "iam cloud-platform"] {
            let body = now(&scope(own), 1000).body;
            assert!(
                body.contains("ya29.t") && body.contains(r#""scope":"https://www.googleapis.com/auth/cloud-platform""#)
            );
        }
        for other in ["drive", "iam drive"] {
            assert!(matches!(exchange(&scope(other), &served(), moment(1000)), Answer::Later(_)), "{other}");
        }
        // A federated principal gets the scopes that it requests.
        let federated = Served { grant: testing::federated(), ..served() };
        assert!(matches!(exchange(&scope("iam"), &federated, moment(1000)), Answer::Later(_)));
        assert!(matches!(exchange(&scope("cloud-platform"), &federated, moment(1000)), Answer::Now(_)));
        let malformed = post(
            "application/json",
            &json!({"grantType": GRANT_TYPE, "subjectToken": "handle", "scope": "drive"}).to_string(),
        );
        assert!(now(&malformed, 1000).body.contains("invalid_scope"));
    }

    #[test]
    fn only_the_handle_gets_the_token() {
        let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=";
        let right = now(&post(FORM, &format!("{grant}handle")), 1000);
        let value: Value = serde_json::from_str(&right.body).unwrap();
        assert_eq!((right.status, &value["access_token"], &value["expires_in"]), (200, &json!("ya29.t"), &json!(600)));
        assert_eq!(value["token_type"], "Bearer");
        let json = format!(r#"{{"grantType":"{GRANT_TYPE}","subjectToken":"handle"}}"#);
        assert_eq!(now(&post("application/json", &json), 1000).status, 200);
        for body in [format!("{grant}other"), grant.to_owned(), "subject_token=handle".to_owned(), String::new()] {
            let refused = now(&post(FORM, &body), 1000);
            assert!(refused.status == 400 && !refused.body.contains("ya29"), "{body}");
        }
        assert_eq!(now(&post(FORM, &format!("{grant}handle")), 1600).status, 503);
    }

    #[test]
    fn introspection_names_identity_and_job() {
        let reply = introspect(&post(FORM, "token=ya29.t"), &served(), moment(1000));
        assert!(reply.body.contains("site@p.iam.gserviceaccount.com#slurm-job-7"), "{}", *reply.body);
        assert_eq!(*introspect(&post(FORM, "token=other"), &served(), moment(1000)).body, r#"{"active":false}"#);
    }

    #[test]
    fn a_token_that_was_just_replaced_is_still_known() {
        let mut served = served();
        let new = Served { token: token_of("ya29.new", 900, 2000), ..served.clone() };
        served.replace(new.clone());
        // The same credentials again, as after a reload for another job.
        served.replace(new);
        for (token, now, active) in
            [("ya29.t", 1000, true), ("ya29.t", 1601, false), ("ya29.new", 1601, true), ("ya29.new", 2000, false)]
        {
            let reply = introspect(&post(FORM, &format!("token={token}")), &served, moment(now));
            assert_eq!(reply.body.contains("slurm-job-7"), active, "{token} {now}");
        }
    }
}
