//! The exchange: what STS accepts and what it refuses.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::client::*;
use crate::google::jwt::Key;
use crate::google::*;

#[test]
fn exchange_by_form_and_by_json() {
    let google = Google::start(Options::default());
    let token = google.subject_token(&Claims::default());
    let good = fields(&google, &token);
    let reply = exchange(&google, &good);
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["issued_token_type"], ACCESS_TOKEN);
    assert_eq!(answer["token_type"], "Bearer");
    assert!((3598..=3599).contains(&answer["expires_in"].as_i64().unwrap()), "{answer}");

    // google-cloud-cpp sends the content type twice.
    let twice = format!("{FORM},{FORM}");
    let reply = send(&google, "POST", "/v1/token", &[("Content-Type", &twice)], &form(&good));
    assert_eq!(reply.status, 200);

    let camel = json!({
        "grantType": GRANT_TYPE, "requestedTokenType": ACCESS_TOKEN, "audience": google.audience(),
        "scope": CLOUD_PLATFORM, "subjectTokenType": JWT, "subjectToken": token,
    });
    let headers = [("Content-Type", "application/json; charset=utf-8")];
    let reply = send(&google, "POST", "/v1/token", &headers, &camel.to_string());
    assert_eq!(reply.status, 200, "{}", reply.text());
    let mut unknown = camel;
    unknown["subject"] = "x".into();
    let reply = send(&google, "POST", "/v1/token", &headers, &unknown.to_string());
    assert_status(&reply, 400, "INVALID_ARGUMENT", "Unknown name \"subject\"", None);
    let reply = send(&google, "POST", "/v1/token", &headers, "{");
    assert_status(&reply, 400, "INVALID_ARGUMENT", "Invalid JSON payload received.", None);
}

#[test]
fn sts_refuses_wrong_parameters() {
    let google = Google::start(Options::default());
    let token = google.subject_token(&Claims::default());
    let provider = google.audience();
    let no_name = "Invalid value for \"audience\". This value should be the full resource name of \
        the Identity Provider. See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token \
        for the list of possible formats.";
    let no_target = "The target service indicated by the \"audience\" parameters is invalid. This \
        might either be because the pool or provider is disabled or deleted or because it doesn't exist.";
    let value = |name: &str| format!("Invalid value for \"{name}\".");
    let scope = "Invalid OAuth scope or ID token audience provided.".to_owned();
    let other = provider.replace("/cluster", "/other");
    let cases: Vec<(&str, &str, &str, String)> = vec![
        ("grant_type", "client_credentials", "invalid_request", value("grant_type")),
        ("grant_type", "", "invalid_request", value("grant_type")),
        ("requested_token_type", "", "invalid_request", value("requested_token_type")),
        ("audience", "", "invalid_request", no_name.to_owned()),
        ("audience", "https://example.com", "invalid_request", no_name.to_owned()),
        ("audience", provider.trim_start_matches('/'), "invalid_request", no_name.to_owned()),
        ("audience", &other, "invalid_target", no_target.to_owned()),
        ("scope", "", "invalid_scope", scope.clone()),
        ("scope", "cloud-platform", "invalid_scope", scope.clone()),
        ("scope", "https://www.googleapis.com/auth/no-such-scope", "invalid_scope", scope),
        ("subject_token_type", ACCESS_TOKEN, "invalid_request", value("subject_token_type")),
        ("options", "{", "invalid_request", value("options")),
        ("subject_token", "", "invalid_request", value("subject_token")),
        ("subject_token", "no.jwt", "invalid_grant", "Unable to parse the ID Token.".to_owned()),
    ];
    for (name, wrong, error, description) in cases {
        let mut fields = fields(&google, &token);
        fields.retain(|(own, _)| *own != name);
        fields.push((name, wrong.to_owned()));
        assert_oauth(&exchange(&google, &fields), error, &description);
    }
    let newline = fields(&google, &format!("{token}\n"));
    assert_oauth(&exchange(&google, &newline), "invalid_grant", "Unable to parse the ID Token.");

    google.configure(|options| options.provider_enabled = false);
    assert_oauth(&exchange(&google, &fields(&google, &token)), "invalid_target", no_target);
    assert!(google.tokens() == [token], "a refusal hands out nothing");
}

#[test]
fn sts_accepts_only_gclouds_authorization() {
    let google = Google::start(Options::default());
    let body = form(&fields(&google, &google.subject_token(&Claims::default())));
    let gcloud = STANDARD.encode("32555940559.apps.googleusercontent.com:ZmssLNjJy2998hD4CTg2ejr2");
    for (authorization, status) in [
        ("Bearer x".to_owned(), 401),
        (format!("Basic {}", STANDARD.encode("me:secret")), 401),
        (format!("Basic {gcloud}"), 200),
    ] {
        let headers = [("Content-Type", FORM), ("Authorization", &authorization)];
        assert_eq!(send(&google, "POST", "/v1/token", &headers, &body).status, status);
    }
}

#[test]
fn sts_refuses_wrong_subject_tokens() {
    let google = Google::start(Options::default());
    let issuer = google.state.options().issuer.clone();
    let now = google.state.now();
    let stale = |time: i64| format!("ID Token issued at {time} is stale to sign-in.");
    let audience = |list: &str| format!("The audience in ID Token [{list}] does not match the expected audience.");
    let wrong_issuer =
        |name: &str| format!("The issuer in ID Token {name} does not match the expected one in config: {issuer}.");
    let condition = "The given credential is rejected by the attribute condition.".to_owned();
    let good = Claims::default;
    let cases: Vec<(Claims, &str, String)> = vec![
        (good().issuer("https://evil.example"), "invalid_grant", wrong_issuer("https://evil.example")),
        (good().with("iss", Value::Null), "invalid_grant", wrong_issuer("null")),
        (good().key(Key::Other), "invalid_grant", "Error connecting to the given credential's issuer.".into()),
        (good().key(Key::Forged), "invalid_grant", "Unable to verify the ID Token signature.".into()),
        (good().key(Key::None), "invalid_grant", "Unable to verify the ID Token signature.".into()),
        (
            good().audience("https://kubernetes.default.svc"),
            "invalid_grant",
            audience("https://kubernetes.default.svc"),
        ),
        (good().with("aud", json!(["a", "b"])), "invalid_grant", audience("a, b")),
        (good().with("aud", Value::Null), "invalid_grant", audience("")),
        (good().with("iat", json!(now - 100)).expires_in(-90), "invalid_grant", stale(now - 100)),
        (good().with("iat", json!(now + 120)), "invalid_grant", stale(now + 120)),
        (good().with("iat", json!(now - 86_500)), "invalid_grant", stale(now - 86_500)),
        (good().with("iat", Value::Null), "invalid_grant", "ID Token issued at null is stale to sign-in.".into()),
        (good().with("iat", json!(now)).with("exp", Value::Null), "invalid_grant", stale(now)),
        (good().subject(""), "unauthorized_client", condition.clone()),
        (good().with("sub", Value::Null), "unauthorized_client", condition.clone()),
        (
            good().subject(&"s".repeat(128)),
            "invalid_request",
            "The size of mapped attribute google.subject \
            exceeds the 127 bytes limit. Either modify your attribute mapping or the incoming assertion to \
            produce a mapped attribute that is less than 127 bytes."
                .into(),
        ),
    ];
    for (claims, error, description) in cases {
        assert_oauth(&exchange_claims(&google, &claims), error, &description);
    }
    // A signature that fits other claims.
    let token = google.subject_token(&good());
    let other = google.subject_token(&good().subject("system:serviceaccount:kube-system:admin"));
    let mixed = [token.rsplit_once('.').unwrap().0, other.rsplit_once('.').unwrap().1].join(".");
    let reply = exchange(&google, &fields(&google, &mixed));
    assert_oauth(&reply, "invalid_grant", "Unable to verify the ID Token signature.");

    google.configure(|options| options.names_expected_audience = true);
    let both =
        format!("The audience in ID Token [x] does not match the expected audience https:{}.", google.audience());
    assert_oauth(&exchange_claims(&google, &good().audience("x")), "invalid_grant", &both);

    google.configure(|options| {
        options.attribute_condition =
            Some(std::sync::Arc::new(|claims: &Value| claims["kubernetes.io"]["namespace"] == "another"));
    });
    assert_oauth(&exchange_claims(&google, &good()), "unauthorized_client", &condition);
}

#[test]
fn sts_refuses_what_it_cannot_check_or_has_no_quota_for() {
    let google = Google::start(Options { exchanges_left: Some(2), issuer_reachable: false, ..Options::default() });
    let good = Claims::default;
    let unreachable = "Error connecting to the given credential's issuer.";
    assert_oauth(&exchange_claims(&google, &good()), "invalid_grant", unreachable);
    google.configure(|options| options.issuer_reachable = true);
    assert_eq!(exchange_claims(&google, &good()).status, 200);
    let throttled = exchange_claims(&google, &good());
    let words =
        "The request was throttled due to rate limit: sts.googleapis.com/requests. Please retry after a few seconds.";
    assert_eq!(throttled.status, 429);
    assert_eq!(throttled.json(), json!({"error": "quota_exceeded", "error_description": words}));
    google.configure(|options| options.services_reachable = false);
    let page = exchange_claims(&google, &good());
    assert_eq!(page.status, 502);
    assert!(page.text().contains("Please try again in 30 seconds."), "{}", page.text());
}

#[test]
fn sts_accepts_the_edges() {
    let google = Google::start(Options::default());
    let good = Claims::default;
    for claims in [
        good().subject(&"s".repeat(127)),
        good().audience(&google.audience()),
        good().with("aud", json!(format!("https:{}", google.audience()))),
        good().with("aud", json!(["x", google.audience()])),
        good().issued_in(50),
        good().expires_in(-50),
        good().expires_in(30 * 86_400),
    ] {
        let reply = exchange_claims(&google, &claims);
        assert_eq!(reply.status, 200, "{claims:?}: {}", reply.text());
    }
    google.configure(|options| options.allowed_audiences = vec!["sts.example".to_owned()]);
    assert_eq!(exchange_claims(&google, &good().audience("sts.example")).status, 200);
    assert_eq!(exchange_claims(&google, &good()).status, 400, "the default audience no longer");
}

#[test]
fn a_federated_token_lives_no_longer_than_its_subject_token() {
    let google = Google::start(Options::default());
    let life = |seconds| {
        let reply = exchange_claims(&google, &Claims::default().expires_in(seconds));
        (reply.status, reply.json()["expires_in"].as_i64())
    };
    let (status, seconds) = life(600);
    assert!(status == 200 && (596..=598).contains(&seconds.unwrap()), "{seconds:?}");
    assert_eq!(life(7200), (200, Some(3599)));
    google.shift_clock(0);
    google.configure(|options| options.federated_life = Some(5));
    assert_eq!(life(7200), (200, Some(5)));
    let token = federated(&google);
    let list = "/storage/v1/b/demo-bucket/o";
    assert_eq!(get(&google, list, &token).status, 200);
    google.shift_clock(6);
    assert_eq!(get(&google, list, &token).status, 401);
    google.shift_clock(-7200);
    assert_eq!(life(7200).0, 400, "issued in Google's future");
}

#[test]
fn introspection_tells_gcloud_whose_token_it_is() {
    let google = Google::start(Options::default());
    let token = federated(&google);
    let gcloud = format!("Basic {}", STANDARD.encode("32555940559.apps.googleusercontent.com:x"));
    let headers = [("Content-Type", FORM), ("Authorization", gcloud.as_str())];
    let ask = |token: &str| send(&google, "POST", "/v1/introspect", &headers, &format!("token={token}")).json();
    assert_eq!(ask(&token)["username"], google.principal(SUBJECT));
    assert_eq!(ask("x"), json!({"active": false}));
    let nobody = send(&google, "POST", "/v1/introspect", &headers[..1], "token=x");
    assert_eq!(nobody.status, 401);
}
