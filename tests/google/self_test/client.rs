//! A small client: raw requests, and the usual requests with correct fields.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::google::*;

pub const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
pub const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
pub const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub const FORM: &str = "application/x-www-form-urlencoded";

/// A reply taken apart.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends a request on a separate connection, and reads to the end.
pub fn raw(google: &Google, request: &str) -> Vec<u8> {
    let mut stream = connect(google);
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = Vec::new();
    let _ = stream.read_to_end(&mut reply);
    reply
}

pub fn connect(google: &Google) -> TcpStream {
    let stream = TcpStream::connect(google.http_url().trim_start_matches("http://")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{text}Content-Length: {}\r\n\r\n{body}", body.len())
}

pub fn parse(reply: &[u8]) -> Option<Reply> {
    let end = reply.windows(4).position(|window| window == b"\r\n\r\n")?;
    let headers = String::from_utf8_lossy(&reply[..end]).into_owned();
    let status = headers.split(' ').nth(1)?.parse().ok()?;
    Some(Reply { status, headers, body: reply[end + 4..].to_vec() })
}

pub fn send(google: &Google, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Reply {
    let reply = raw(google, &request(method, target, headers, body));
    parse(&reply).unwrap_or_else(|| panic!("no HTTP: {:?}", String::from_utf8_lossy(&reply)))
}

/// The right fields of an exchange.
pub fn fields(google: &Google, subject_token: &str) -> Vec<(&'static str, String)> {
    vec![
        ("grant_type", GRANT_TYPE.to_owned()),
        ("requested_token_type", ACCESS_TOKEN.to_owned()),
        ("audience", google.audience()),
        ("scope", CLOUD_PLATFORM.to_owned()),
        ("subject_token_type", JWT.to_owned()),
        ("subject_token", subject_token.to_owned()),
    ]
}

pub fn form(fields: &[(&str, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

pub fn exchange(google: &Google, fields: &[(&str, String)]) -> Reply {
    send(google, "POST", "/v1/token", &[("Content-Type", FORM)], &form(fields))
}

pub fn exchange_claims(google: &Google, claims: &Claims) -> Reply {
    exchange(google, &fields(google, &google.subject_token(claims)))
}

pub fn federated(google: &Google) -> String {
    let reply = exchange_claims(google, &Claims::default());
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["access_token"].as_str().unwrap().to_owned()
}

pub fn impersonate(google: &Google, bearer: &str, email: &str, body: &Value) -> Reply {
    let target = format!("/v1/projects/-/serviceAccounts/{email}:generateAccessToken");
    let bearer = format!("Bearer {bearer}");
    let headers = [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
    send(google, "POST", &target, &headers, &body.to_string())
}

pub fn access_token(google: &Google) -> String {
    let body = json!({"scope": [CLOUD_PLATFORM]});
    let reply = impersonate(google, &federated(google), SERVICE_ACCOUNT, &body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["accessToken"].as_str().unwrap().to_owned()
}

pub fn get(google: &Google, target: &str, bearer: &str) -> Reply {
    send(google, "GET", target, &[("Authorization", &format!("Bearer {bearer}"))], "")
}

#[track_caller]
pub fn assert_oauth(reply: &Reply, error: &str, description: &str) {
    let expected = json!({"error": error, "error_description": description});
    assert_eq!((reply.status, reply.json()), (400, expected));
}

#[track_caller]
pub fn assert_status(reply: &Reply, code: u16, status: &str, message: &str, reason: Option<&str>) {
    let error = &reply.json()["error"];
    assert_eq!(reply.status, code, "{}", reply.text());
    assert_eq!(error["code"], code);
    assert_eq!(error["status"], status);
    let text = error["message"].as_str().unwrap();
    assert!(text.contains(message), "{text}");
    assert_eq!(error["details"][0]["reason"].as_str(), reason);
}
