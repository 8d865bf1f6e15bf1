//! Impersonation: access tokens and identity tokens of service accounts.

use serde_json::{Value, json};

use crate::client::*;
use crate::google::jwt::Parsed;
use crate::google::*;

#[test]
fn impersonation_by_json_and_by_form() {
    let google = Google::start(Options::default());
    let token = federated(&google);
    let body = json!({"delegates": [], "scope": [CLOUD_PLATFORM], "lifetime": "1800s"});
    let encoded = SERVICE_ACCOUNT.replace('@', "%40");
    for email in [SERVICE_ACCOUNT, &encoded] {
        let reply = impersonate(&google, &token, email, &body);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let answer = reply.json();
        assert!(answer["accessToken"].as_str().unwrap().starts_with("ya29.c."));
        let time = answer["expireTime"].as_str().unwrap();
        let at = |seconds| crate::google::iam::rfc3339(google.state.now() + seconds);
        assert!(time.len() == 20 && (at(1795)..=at(1800)).contains(&time.to_owned()), "{time}");
    }
    let target = format!("/v1/projects/-/serviceAccounts/{SERVICE_ACCOUNT}:generateAccessToken");
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", FORM)];
    let reply = send(&google, "POST", &target, &headers, &format!("scope={CLOUD_PLATFORM}&lifetime=3600s"));
    assert_eq!(reply.status, 200, "as gRPC sends it: {}", reply.text());
    let reply = impersonate(&google, &token, SERVICE_ACCOUNT, &json!({"scope": [""]}));
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[test]
fn impersonation_refuses() {
    let google = Google::start(Options {
        service_accounts: vec![
            ServiceAccount::new(SERVICE_ACCOUNT, &[SUBJECT]),
            ServiceAccount::new("other@demo-project.iam.gserviceaccount.com", &["somebody"]),
            ServiceAccount {
                extended_lifetime: true,
                ..ServiceAccount::new("long@demo-project.iam.gserviceaccount.com", &["*"])
            },
        ],
        ..Options::default()
    });
    let token = federated(&google);
    let good = json!({"scope": [CLOUD_PLATFORM]});
    let other = "other@demo-project.iam.gserviceaccount.com";
    let denied = "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).";
    let reply = impersonate(&google, &token, other, &good);
    assert_status(&reply, 403, "PERMISSION_DENIED", denied, Some("IAM_PERMISSION_DENIED"));
    let reply = impersonate(&google, &token, "no@where.example", &good);
    let missing = "Not found; Gaia id not found for email no@where.example";
    assert_status(&reply, 404, "NOT_FOUND", missing, None);

    // Whose token, and what may it.
    let invalid = "Request had invalid authentication credentials. Expected OAuth 2 access token";
    let reply = impersonate(&google, "ya29.c.nobodys", SERVICE_ACCOUNT, &good);
    assert_status(&reply, 401, "UNAUTHENTICATED", invalid, Some("ACCESS_TOKEN_TYPE_UNSUPPORTED"));
    let subject_token = google.subject_token(&Claims::default());
    let reply = impersonate(&google, &subject_token, SERVICE_ACCOUNT, &good);
    assert_eq!(reply.status, 401, "a subject token is no bearer token");
    let own = access_token(&google);
    assert_eq!(impersonate(&google, &own, SERVICE_ACCOUNT, &good).status, 403, "no chain");
    let mut narrow = fields(&google, &subject_token);
    narrow[3].1 = "https://www.googleapis.com/auth/devstorage.read_only".to_owned();
    let narrow = exchange(&google, &narrow).json()["access_token"].as_str().unwrap().to_owned();
    let reply = impersonate(&google, &narrow, SERVICE_ACCOUNT, &good);
    let text = "Request had insufficient authentication scopes.";
    assert_status(&reply, 403, "PERMISSION_DENIED", text, Some("ACCESS_TOKEN_SCOPE_INSUFFICIENT"));
    let mut iam = fields(&google, &subject_token);
    iam[3].1 = "https://www.googleapis.com/auth/iam".to_owned();
    let iam = exchange(&google, &iam).json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(impersonate(&google, &iam, SERVICE_ACCOUNT, &good).status, 200);
    let target = format!("/v1/projects/-/serviceAccounts/{SERVICE_ACCOUNT}:generateAccessToken");
    let reply = send(&google, "POST", &target, &[], &good.to_string());
    let text = "Request is missing required authentication credential.";
    assert_status(&reply, 401, "UNAUTHENTICATED", text, Some("CREDENTIALS_MISSING"));

    // What is asked for.
    let long = json!({"scope": [CLOUD_PLATFORM], "lifetime": "3601s"});
    let reply = impersonate(&google, &token, SERVICE_ACCOUNT, &long);
    let text = "can not have lifetimes of more than 1 hour. Use the Org Policy Constraint \
        constraints/iam.allowServiceAccountCredentialLifetimeExtension to allow up to 12 hours.";
    assert_status(&reply, 400, "INVALID_ARGUMENT", text, None);
    let extended = "long@demo-project.iam.gserviceaccount.com";
    for (lifetime, status) in [("3601s", 200), ("43200s", 200), ("43201s", 400)] {
        let body = json!({"scope": [CLOUD_PLATFORM], "lifetime": lifetime});
        assert_eq!(impersonate(&google, &token, extended, &body).status, status, "{lifetime}");
    }
    for (body, text) in [
        (json!({}), "Request contains an invalid argument."),
        (json!({"scope": []}), "Request contains an invalid argument."),
        (json!({"scope": ["cloud-platform"]}), "Request contains an invalid argument."),
        (json!({"scope": ["https://www.googleapis.com/auth/no-such-scope"]}), "Request contains an invalid argument."),
        (json!({"scope": [CLOUD_PLATFORM], "lifetime": "0s"}), "must be larger then zero"),
        (json!({"scope": [CLOUD_PLATFORM], "lifetime": 3600}), "Illegal duration format"),
        (json!({"scope": [CLOUD_PLATFORM], "lifetime": "3600"}), "Illegal duration format"),
        (json!({"scope": [CLOUD_PLATFORM], "life": "1s"}), "Unknown name \"life\": Cannot find field."),
    ] {
        let reply = impersonate(&google, &token, SERVICE_ACCOUNT, &body);
        assert_status(&reply, 400, "INVALID_ARGUMENT", text, None);
    }
    let named = target.replace("/-/", "/demo-project/");
    let bearer = format!("Bearer {token}");
    let reply = send(&google, "POST", &named, &[("Authorization", &bearer)], &good.to_string());
    assert_eq!(reply.status, 400, "the project must be `-`");

    google.expire(&token);
    let reply = impersonate(&google, &token, SERVICE_ACCOUNT, &good);
    assert_status(&reply, 401, "UNAUTHENTICATED", invalid, Some("ACCESS_TOKEN_EXPIRED"));
    google.configure(|options| options.iam_credentials_enabled = false);
    let reply = impersonate(&google, &federated(&google), SERVICE_ACCOUNT, &good);
    let text = "IAM Service Account Credentials API has not been used in project";
    assert_status(&reply, 403, "PERMISSION_DENIED", text, Some("SERVICE_DISABLED"));
}

#[test]
fn identity_tokens_are_signed_for_their_audience() {
    let google = Google::start(Options::default());
    let target = format!("/v1/projects/-/serviceAccounts/{SERVICE_ACCOUNT}:generateIdToken");
    let bearer = format!("Bearer {}", federated(&google));
    let ask = |body: Value| send(&google, "POST", &target, &[("Authorization", &bearer)], &body.to_string());
    let reply = ask(json!({"audience": "https://run.example", "includeEmail": true}));
    let token = reply.json()["token"].as_str().unwrap().to_owned();
    let parsed = Parsed::parse(&token).unwrap();
    assert!(google.state.google_key().verifies(&parsed));
    assert_eq!(parsed.claims["aud"], "https://run.example");
    assert_eq!(parsed.claims["email"], SERVICE_ACCOUNT);
    assert_eq!(ask(json!({"includeEmail": true})).status, 400);
    assert!(google.tokens().contains(&token));
}
