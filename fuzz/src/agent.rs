//! The fuzz target for requests to a job's port.

use std::net::SocketAddr;
use std::sync::LazyLock;

use gcp_wif::fuzzing::{Job, Outcome};
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::words::google::Scope;
use http::request::Parts;
use percent_encoding::percent_decode;
use serde_json::Value;

use crate::fixtures::{FEDERATED, HANDLE, IMPERSONATES, MOMENT, TOKEN, record, token};
use crate::line;

struct Jobs {
    impersonates: Job,
    federated: Job,
}

static JOBS: LazyLock<Jobs> = LazyLock::new(|| Jobs {
    impersonates: Job::of(&record(&IMPERSONATES)).unwrap(),
    federated: Job::of(&record(&FEDERATED)).unwrap(),
});

/// Parses a request: a line with method and target, headers, an empty line, and the body. Returns `None` if hyper would
/// refuse it.
fn read(bytes: &[u8]) -> Option<(Parts, &[u8])> {
    let end = bytes.windows(2).position(|two| two == b"\n\n").unwrap_or(bytes.len());
    let (head, body) = bytes.split_at(end);
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let mut request = http::Request::builder().method(words.next()?).uri(words.next()?);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at(colon);
        request = request.header(name, value.get(1..)?.trim_ascii());
    }
    let (parts, ()) = request.body(()).ok()?.into_parts();
    Some((parts, body.get(2..).unwrap_or_default()))
}

/// Checks the replies to requests of the metadata protocol, of STS and of IAM Credentials.
pub(crate) fn request(bytes: &[u8]) {
    let Some((parts, body)) = read(bytes) else { return };
    let here: SocketAddr = ([127, 0, 0, 1], 20_001).into();
    let failures = [Failure::of_wait(), Failure::of_share(1), Failure::of_no_token()];
    for job in [&JOBS.impersonates, &JOBS.federated] {
        match job.answer((&parts, body), here, MOMENT, &token(), &failures) {
            Outcome::Reply(status, content_type, reply) => {
                check_reply(status, content_type, &reply);
                // A refusal may quote what the client has sent.
                let may_quote = |secret| status != 200 && sends(secret, &parts, body);
                assert!(!reply.contains(HANDLE) || may_quote(HANDLE), "{reply}");
                if reply.contains(TOKEN) && !may_quote(TOKEN) {
                    assert_eq!(status, 200);
                    check_authorization(&parts, body);
                }
            }
            Outcome::Later { scopes, audience, replies } => {
                check_authorization(&parts, body);
                assert!(!scopes.is_empty() && audience != Some(String::new()));
                assert!(scopes.iter().all(|scope| Scope::try_from(scope.as_str().to_owned()).is_ok()));
                for (status, content_type, reply) in &replies {
                    // A reply names the scopes that the client has asked for.
                    let rest = scopes.iter().fold(reply.clone(), |rest, scope| rest.replace(scope.as_str(), ""));
                    assert!(!rest.contains(HANDLE), "{reply}");
                    check_reply(*status, content_type, reply);
                    assert_eq!(*status == 200, reply.contains(TOKEN), "{status} {reply}");
                }
                assert!(replies.last().is_some_and(|(status, ..)| *status == 200));
            }
        }
    }
}

/// Checks the status, content type and body of a reply.
fn check_reply(status: u16, content_type: &str, reply: &str) {
    assert!([200, 400, 401, 403, 404, 405, 429, 503].contains(&status), "{status}");
    match content_type {
        "application/json" => drop(serde_json::from_str::<Value>(reply).unwrap()),
        "application/text" => assert!(!reply.replace('\n', "").contains(line::is_hidden), "{reply:?}"),
        other => panic!("{other}"),
    }
    if status != 200 {
        assert!(reply.chars().count() < 3000, "{reply}");
    }
}

/// Checks that a request that gets a token is authorized: it presents the handle or a token, or the header that no web
/// page can send, and names one of the endpoint's hosts.
fn check_authorization(parts: &Parts, body: &[u8]) {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(["127.0.0.1:20001", "localhost:20001", "metadata.google.internal"].contains(&header("host")));
    assert!(["x-forwarded-for", "origin", "referer"].iter().all(|name| !parts.headers.contains_key(*name)));
    match parts.method.as_str() {
        "GET" => assert_eq!(header("metadata-flavor"), "Google"),
        "POST" => assert!(presents(&header("authorization").replace(' ', ""), TOKEN) || has_handle(body)),
        other => panic!("{other}"),
    }
}

/// Returns whether the target or the body contains a secret.
fn sends(secret: &str, parts: &Parts, body: &[u8]) -> bool {
    let contains = |bytes: &[u8]| String::from_utf8_lossy(&percent_decode(bytes).collect::<Vec<_>>()).contains(secret);
    contains(parts.uri.to_string().as_bytes()) || contains(body)
}

/// Returns whether an authorization header presents a secret.
fn presents(text: &str, secret: &str) -> bool {
    text.len() > "bearer".len() && text.to_ascii_lowercase().starts_with("bearer") && text.ends_with(secret)
}

/// Returns whether a form or JSON object contains the handle.
fn has_handle(body: &[u8]) -> bool {
    let is_handle = |value: &str| value.trim() == HANDLE;
    let json = serde_json::from_slice::<Value>(body).unwrap_or_default();
    form_urlencoded::parse(body).any(|(_, value)| is_handle(&value))
        || json.as_object().is_some_and(|fields| fields.values().filter_map(Value::as_str).any(is_handle))
}
