//! TLS that does not hold, and faults that really happen.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::*;
use crate::google::*;

fn https(google: &Google) -> Result<u16, ureq::Error> {
    let root = ureq::tls::Certificate::from_pem(google.ca_certificate().as_bytes())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ureq::tls::TlsConfig::builder()
        .unversioned_rustls_crypto_provider(provider)
        .root_certs(ureq::tls::RootCerts::new_with_certs(&[root]))
        .build();
    let agent = ureq::Agent::config_builder().tls_config(tls).http_status_as_error(false).build();
    let agent = ureq::Agent::new_with_config(agent);
    let fields = fields(google, &google.subject_token(&Claims::default()));
    let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let reply = agent.post(format!("{}/v1/token", google.https_url())).send_form(fields)?;
    Ok(reply.status().as_u16())
}

#[test]
fn tls_is_verified_against_the_own_root() {
    let start = |certificate| Google::start(Options { certificate, ..Options::default() });
    let google = start(Certificate::Valid);
    assert_eq!(https(&google).unwrap(), 200);
    assert!(google.requests()[0].secure);
    for (certificate, complaint) in [
        (Certificate::WrongName, "NotValidForName"),
        (Certificate::Expired, "Expired"),
        (Certificate::UnknownAuthority, "UnknownIssuer"),
    ] {
        let google = start(certificate);
        let error = format!("{:?}", https(&google).unwrap_err());
        assert!(error.contains(complaint), "{certificate:?}: {error}");
        assert!(google.requests().is_empty());
    }
}

#[test]
fn faults_happen_as_often_as_asked_and_in_order() {
    let google = Google::start(Options::default());
    google.inject(Endpoint::Sts, Fault::status(503), Times::N(2));
    google.inject(Endpoint::Sts, Fault::throttled(Some("1")), Times::Once);
    google.inject(Endpoint::Storage, Fault::status(500), Times::Forever);
    let status = || exchange_claims(&google, &Claims::default()).status;
    assert_eq!([status(), status()], [503, 503]);
    let reply = exchange_claims(&google, &Claims::default());
    assert_eq!(reply.status, 429);
    assert!(reply.headers.contains("\r\nRetry-After: 1"));
    let expected = r#"{"error":"quota_exceeded","error_description":"The request was throttled due to rate limit: sts.googleapis.com/requests. Please retry after a few seconds."}"#;
    assert_eq!(reply.text(), expected);
    assert_eq!(status(), 200);
    for _ in 0..3 {
        assert_eq!(get(&google, "/storage/v1/b/demo-bucket/o", "x").status, 500);
    }
    google.clear_faults();
    assert_eq!(get(&google, "/storage/v1/b/demo-bucket/o", "x").status, 401);
}

#[test]
fn error_bodies_come_in_every_style() {
    let google = Google::start(Options::default());
    for (body, start) in [
        (Body::OAuth, "{\"error\":\"internal_failure\""),
        (Body::Status, "{\n  \"error\": {"),
        (Body::Html, "<!DOCTYPE html>"),
        (Body::Empty, ""),
    ] {
        google.inject(Endpoint::Sts, Fault::status_with(500, body), Times::Once);
        let reply = exchange(&google, &[]);
        assert_eq!(reply.status, 500);
        assert!(reply.text().starts_with(start), "{}", reply.text());
    }
    google.inject(Endpoint::Sts, Fault::answer_as("text/plain", "{\"expires_in\":\"1\"}"), Times::Once);
    let reply = exchange(&google, &[]);
    assert_eq!((reply.status, reply.text().as_str()), (200, "{\"expires_in\":\"1\"}"));
    assert!(reply.headers.contains("Content-Type: text/plain"));
    google.inject(Endpoint::Sts, Fault::Redirect(307, "http://127.0.0.1:9/x".to_owned()), Times::Once);
    let reply = exchange(&google, &[]);
    assert!(reply.status == 307 && reply.headers.contains("\r\nLocation: http://127.0.0.1:9/x"));
}

#[test]
fn a_right_answer_is_edited() {
    let google = Google::start(Options::default());
    let edit = Fault::Edit(|answer| answer["expires_in"] = "3599".into());
    google.inject(Endpoint::Sts, edit, Times::Once);
    let answer = exchange_claims(&google, &Claims::default()).json();
    assert_eq!(answer["expires_in"], "3599");
    let token = answer["access_token"].as_str().unwrap();
    assert_eq!(get(&google, "/storage/v1/b/demo-bucket/o", token).status, 200);
}

#[test]
fn connections_break() {
    let google = Google::start(Options::default());
    let body = form(&fields(&google, &google.subject_token(&Claims::default())));
    let request = request("POST", "/v1/token", &[("Content-Type", FORM)], &body);
    google.inject(Endpoint::Sts, Fault::Hangup, Times::Once);
    assert_eq!(raw(&google, &request), b"");
    assert_eq!(google.requests()[0].status, None);
    google.inject(Endpoint::Sts, Fault::Garbage, Times::Once);
    assert!(raw(&google, &request).starts_with(b"\x15\x03\x01"));
    google.inject(Endpoint::Sts, Fault::Truncated, Times::Once);
    let reply = parse(&raw(&google, &request)).unwrap();
    let length = reply.headers.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    assert!(reply.body.len() < length.parse().unwrap() && !reply.body.is_empty());
}

#[test]
fn answers_are_late_slow_or_endless() {
    let google = Google::start(Options::default());
    let start = Instant::now();
    google.inject(Endpoint::Sts, Fault::Delay(Duration::from_millis(300)), Times::Once);
    assert_eq!(exchange_claims(&google, &Claims::default()).status, 200);
    assert!(start.elapsed() >= Duration::from_millis(300));

    google.inject(Endpoint::Sts, Fault::Drip(Duration::from_millis(1)), Times::Once);
    let start = Instant::now();
    assert_eq!(exchange_claims(&google, &Claims::default()).status, 200);
    assert!(start.elapsed() >= Duration::from_secs(1), "over 1000 bytes, one each millisecond");

    for chunked in [false, true] {
        google.inject(Endpoint::Sts, Fault::Endless { chunked }, Times::Once);
        let mut stream = connect(&google);
        stream.write_all(request("POST", "/v1/token", &[], "").as_bytes()).unwrap();
        let mut buffer = vec![0; 8 << 20];
        stream.read_exact(&mut buffer).unwrap();
    }
}

#[test]
fn dropping_an_instance_ends_a_delay() {
    let google = Google::start(Options::default());
    google.inject(Endpoint::Sts, Fault::Delay(Duration::from_secs(600)), Times::Once);
    let mut stream = connect(&google);
    stream.write_all(request("POST", "/v1/token", &[], "").as_bytes()).unwrap();
    assert!(google.wait_for_requests(1, Duration::from_secs(10)));
    drop(google);
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0);
}
