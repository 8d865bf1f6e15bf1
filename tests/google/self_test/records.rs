//! What an instance remembers, the files it makes, and its registry tokens.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::client::*;
use crate::google::jwt::Parsed;
use crate::google::*;

#[test]
fn requests_and_secrets_are_recorded() {
    let google = Google::start(Options::default());
    assert!(!google.wait_for_requests(1, Duration::from_millis(20)));
    let token = access_token(&google);
    let requests = google.requests();
    let seen: Vec<_> = requests.iter().map(|one| (one.endpoint, one.status)).collect();
    assert_eq!(seen, [(Endpoint::Sts, Some(200)), (Endpoint::Impersonation, Some(200))]);
    assert_eq!(requests[0].header("content-type"), Some(FORM));
    assert!(requests[0].header("authorization").is_none());
    assert!(requests[1].body.contains("cloud-platform"));
    assert_eq!(google.requests_to(Endpoint::Impersonation).len(), 1);
    assert_eq!(google.tokens().len(), 3, "subject, federated and access token");
    assert_eq!(google.access_tokens(), [token]);
}

#[test]
fn one_connection_carries_many_requests() {
    let google = Google::start(Options::default());
    let mut stream = connect(&google);
    let chunked = "POST /v1/token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\na=b\r\n2\r\n&c\r\n0\r\n\r\n";
    stream.write_all(chunked.as_bytes()).unwrap();
    stream.write_all(request("GET", "/last", &[], "").as_bytes()).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(google.requests()[0].body, "a=b&c");
    assert_eq!(google.requests()[1].target, "/last");
}

#[test]
fn the_credential_configuration_is_as_gcloud_writes_it() {
    let google = Google::start(Options::default());
    let source = Source::file("/var/run/t").format(Format::Json("id".to_owned())).lifetime(1800).secure();
    let base = google.https_url();
    let expected = r#"{
  "universe_domain": "googleapis.com",
  "type": "external_account",
  "audience": "AUDIENCE",
  "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
  "token_url": "BASE/v1/token",
  "credential_source": {
    "file": "/var/run/t",
    "format": {
      "type": "json",
      "subject_token_field_name": "id"
    }
  },
  "service_account_impersonation_url": "BASE/v1/projects/-/serviceAccounts/EMAIL:generateAccessToken",
  "service_account_impersonation": {
    "token_lifetime_seconds": 1800
  }
}"#;
    let expected =
        expected.replace("AUDIENCE", &google.audience()).replace("BASE", &base).replace("EMAIL", SERVICE_ACCOUNT);
    assert_eq!(google.credential_configuration_text(&source), expected);
    let direct = google.credential_configuration(&Source::file("/t").direct());
    assert_eq!(direct["token_info_url"], format!("{}/v1/introspect", google.http_url()));
    assert_eq!(direct["credential_source"], json!({"file": "/t"}));
}

#[test]
fn a_projected_volume_rotates_in_one_rename() {
    let directory = tempfile::tempdir().unwrap();
    let volume = ProjectedVolume::with_mode(directory.path().join("tokens"), "one", 0o644);
    assert_eq!(fs::read_to_string(volume.token()).unwrap(), "one");
    assert_eq!(fs::read_link(volume.token()).unwrap().to_str(), Some("..data/token"));
    assert_eq!(fs::metadata(volume.token()).unwrap().permissions().mode() & 0o777, 0o644);
    let held = fs::canonicalize(volume.token()).unwrap();
    volume.rotate("two");
    assert_eq!(fs::read_to_string(volume.token()).unwrap(), "two");
    assert!(!held.exists(), "the old version is removed");
    let mut names: Vec<_> = fs::read_dir(directory.path().join("tokens"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() == 3 && names[0].starts_with("..2") && names[1..] == ["..data", "token"], "{names:?}");
}

#[test]
fn instances_know_nothing_of_each_other() {
    let (one, two) = (Google::start(Options::default()), Google::start(Options::default()));
    assert_ne!(one.audience(), two.audience());
    let token = access_token(&one);
    assert_eq!(get(&two, "/storage/v1/b/demo-bucket/o", &token).status, 401);
    let token = one.subject_token(&Claims::default());
    assert_eq!(exchange(&two, &fields(&two, &token)).status, 400);
    assert_eq!(two.requests().len(), 2);
}

#[test]
fn the_registry_takes_only_live_access_tokens() {
    let google = Google::start(Options::default());
    let ask = |user: &str, password: &str, scope: &str| {
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let target = format!("/token?service=registry&scope={scope}");
        send(&google, "GET", &target, &[("Authorization", &basic)], "")
    };
    let token = access_token(&google);
    let reply = ask("oauth2accesstoken", &token, "repository:demo/alpine:pull,push");
    let minted = reply.json()["token"].as_str().unwrap().to_owned();
    let parsed = Parsed::parse(&minted).unwrap();
    assert!(google.state.google_key().verifies(&parsed));
    assert_eq!(parsed.claims["access"], json!([{"type": "repository", "name": "demo/alpine", "actions": ["pull"]}]));
    assert_eq!(ask("me", &token, "").status, 401);
    assert_eq!(ask("oauth2accesstoken", "x", "").status, 401);
    assert_eq!(send(&google, "GET", "/token", &[], "").status, 401);
    google.configure(|options| options.registry_readers.clear());
    let reply = ask("oauth2accesstoken", &token, "repository:demo/alpine:pull").json();
    let parsed = Parsed::parse(reply["token"].as_str().unwrap()).unwrap();
    assert_eq!(parsed.claims["access"][0]["actions"], json!([]));
    google.expire(&token);
    assert_eq!(ask("oauth2accesstoken", &token, "").status, 401);
}
