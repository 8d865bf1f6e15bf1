//! The token endpoint at a job's port: an RFC 8693 exchange of the job's handle, so that `credentials.json` refreshes
//! in every client library. And the introspection that gcloud asks for.
#![forbid(unsafe_code)]

use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::secret::Secret;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::reply::{Call, Reply};
use super::served::Served;
use gcp_wif_core::words::time::UnixSeconds;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// Exchanges the handle for the job's access token.
pub(crate) fn exchange(call: &Call, served: &Served, now: UnixSeconds) -> Reply {
    let Some(field) = fields(call) else {
        return Reply::oauth("invalid_request", "the body is neither a form nor JSON");
    };
    if field("grant_type", "grantType").as_deref() != Some(GRANT_TYPE) {
        return Reply::oauth("unsupported_grant_type", "grant_type must be token-exchange");
    }
    let given = field("subject_token", "subjectToken").unwrap_or_default();
    if !same(given.trim(), &served.handle) {
        return Reply::oauth("invalid_grant", "the subject token is not this job's handle");
    }
    let left = served.left(now);
    if left <= 0 {
        let why = "no valid access token: Google could not be asked for a new one";
        return Reply { status: 503, ..Reply::oauth("internal_failure", why) };
    }
    Reply::json(&json!({
        "access_token": served.token.secret().expose(),
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": left,
    }))
}

/// RFC 7662. gcloud caches tokens by this name, so it must differ from job to job.
pub(crate) fn introspect(call: &Call, served: &Served, now: UnixSeconds) -> Reply {
    let given = fields(call).and_then(|field| field("token", "token")).unwrap_or_default();
    // A client that asks about the token that it just got may come after a refresh.
    let mut tokens = [&served.token].into_iter().chain(&served.earlier);
    let found = tokens.find(|token| same(&given, token.secret()));
    let Some(Token { expires_at, .. }) = found.filter(|token| token.expires_at > now) else {
        return Reply::json(&json!({"active": false}));
    };
    Reply::json(&json!({
        "active": true,
        "username": format!("{}#slurm-job-{}", served.metadata.email, served.job()),
        "exp": expires_at,
        "token_type": "Bearer",
    }))
}

/// The body's fields by their names in a form and in JSON.
fn fields(call: &Call) -> Option<impl Fn(&str, &str) -> Option<String>> {
    let is_json = call.content_type.starts_with("application/json");
    let json: Value = if is_json { serde_json::from_slice(&call.body).ok()? } else { Value::Null };
    let form: Vec<(String, String)> =
        if is_json { Vec::new() } else { form_urlencoded::parse(&call.body).into_owned().collect() };
    Some(move |name: &str, in_json: &str| {
        let of_form = form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        of_form.or_else(|| Some(json.get(in_json)?.as_str()?.to_owned()))
    })
}

/// Compares in a time that does not tell where the first difference is.
fn same(given: &str, secret: &Secret) -> bool {
    given.as_bytes().ct_eq(secret.expose().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::served::tests::{served, token_of};

    fn post(content_type: &str, body: &str) -> Call {
        Call {
            method: "POST".to_owned(),
            path: "/v1/token".to_owned(),
            query: Vec::new(),
            body: zeroize::Zeroizing::new(body.into()),
            content_type: content_type.to_owned(),
            has_flavor: false,
        }
    }

    const FORM: &str = "application/x-www-form-urlencoded,application/x-www-form-urlencoded";

    #[test]
    fn the_handle_gets_the_token_and_nothing_else_does() {
        let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=";
        let right = exchange(&post(FORM, &format!("{grant}handle")), &served(), 1000);
        let value: Value = serde_json::from_str(&right.body).unwrap();
        assert_eq!((right.status, &value["access_token"], &value["expires_in"]), (200, &json!("ya29.t"), &json!(600)));
        assert_eq!(value["token_type"], "Bearer");
        let json = format!(r#"{{"grantType":"{GRANT_TYPE}","subjectToken":"handle"}}"#);
        assert_eq!(exchange(&post("application/json", &json), &served(), 1000).status, 200);
        for body in [format!("{grant}other"), grant.to_owned(), "subject_token=handle".to_owned(), String::new()] {
            let refused = exchange(&post(FORM, &body), &served(), 1000);
            assert!(refused.status == 400 && !refused.body.contains("ya29"), "{body}");
        }
        assert_eq!(exchange(&post(FORM, &format!("{grant}handle")), &served(), 1600).status, 503);
    }

    #[test]
    fn introspection_names_identity_and_job() {
        let reply = introspect(&post(FORM, "token=ya29.t"), &served(), 1000);
        assert!(reply.body.contains("site@p.iam.gserviceaccount.com#slurm-job-7"), "{}", *reply.body);
        assert_eq!(*introspect(&post(FORM, "token=other"), &served(), 1000).body, r#"{"active":false}"#);
    }

    #[test]
    fn a_token_that_was_renewed_a_moment_ago_is_still_known() {
        let mut served = served();
        let new = Served { token: token_of("ya29.new", 900, 2000), ..served.clone() };
        served.replace(new.clone());
        // The same again, as for another job's sake.
        served.replace(new);
        for (token, now, active) in
            [("ya29.t", 1000, true), ("ya29.t", 1601, false), ("ya29.new", 1601, true), ("ya29.new", 2000, false)]
        {
            let reply = introspect(&post(FORM, &format!("token={token}")), &served, now);
            assert_eq!(reply.body.contains("slurm-job-7"), active, "{token} {now}");
        }
    }
}
