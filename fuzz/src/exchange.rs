//! The fuzz targets for the exchange: the subject token, Google's answers, and error responses.

use std::sync::LazyLock;

use gcp_wif_core::exchange::subject_token::SubjectToken;
use gcp_wif_core::exchange::{
    Exchange, ExchangeError, Leg, Next, Problem, Purpose, Wanted,
    credential_configuration::{CredentialConfiguration, SubjectTokenFormat},
    refusal::Refusal,
};
use gcp_wif_core::plan::audit::{Asked, Entry, Event, Source};
use gcp_wif_core::plan::environment;
use gcp_wif_core::plan::report::{Blame, Failure, audience_hint};
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::google::Scope;
use gcp_wif_core::words::json;
use gcp_wif_core::world::http::{Body, Response, retry_after_seconds};
use serde_json::Value;

use crate::fixtures::{FEDERATED, IMPERSONATES, NOW, facts, issued};
use crate::line;

/// A JWT with the header `{"alg":"RS256"}`, a payload with claims, and a signature.
const JWT: &str =
    "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJhIiwic3ViIjoiYiIsImlzcyI6Imh0dHBzOi8vaSIsImV4cCI6MTgwMDAwMDAwMH0.c2lnbg";

static SUBJECT_TOKEN: LazyLock<SubjectToken> =
    LazyLock::new(|| SubjectToken::parse(JWT.as_bytes(), &SubjectTokenFormat::Text).unwrap());

/// Checks the file of the subject token, in both formats.
pub(crate) fn subject_token(bytes: &[u8]) {
    for format in [SubjectTokenFormat::Text, SubjectTokenFormat::Json { field: "token".to_owned() }] {
        match SubjectToken::parse(bytes, &format) {
            Ok(token) => {
                let text = token.token().expose();
                let is_base64 = |b: u8| b.is_ascii_alphanumeric() || b"-_".contains(&b);
                assert!(text.split('.').count() == 3 && text.bytes().all(|b| b == b'.' || is_base64(b)), "{text:?}");
                assert!(!format!("{token:?}").contains(text));
                check_claims(&token);
            }
            Err(problem) => {
                line::check(&problem, line::LONGEST_PROBLEM);
                line::check_secret(&problem, &String::from_utf8_lossy(bytes));
                line::check_failure(&Failure::of_subject_token(problem));
            }
        }
    }
}

/// Checks the messages, files and variables that contain claims.
fn check_claims(token: &SubjectToken) {
    let name = token.claims().name();
    line::check(&name, 303);
    let issued = gcp_wif_core::plan::record::Issued { name: name.clone(), ..issued(&FEDERATED) };
    let status = environment::status(&issued, None);
    assert_eq!(status.lines().count(), 4, "{status}");
    assert!(status.lines().any(|line| line.strip_prefix("identity=") == Some(&name)), "{status}");
    line::check(&audience_hint(&FEDERATED.configuration, token.claims()), 800);
    let body = br#"{"error":"invalid_grant","error_description":"Error connecting to the given credential's issuer"}"#;
    for status in [400, 403] {
        let response = response(status, String::new(), None, body);
        let problem = Problem::Refused(Box::new(Refusal::of(&response, token.token())));
        check_messages(&IMPERSONATES, &LEGS, &problem, token);
    }
}

fn response(status: u16, content_type: String, retry_after: Option<u64>, body: &[u8]) -> Response {
    Response { status, content_type, retry_after, date: None, body: Body::new(body.to_vec()) }
}

/// Parses an answer: a line `STATUS CONTENT-TYPE`, and the body.
fn answer(bytes: &[u8]) -> (u16, String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (head, body) = bytes.split_at(end);
    let head = String::from_utf8_lossy(head);
    let (status, content_type) = head.split_once(' ').unwrap_or((&head, ""));
    (status.parse().unwrap_or(200), content_type.to_owned(), body.get(1..).unwrap_or_default())
}

/// The requests that Google can refuse.
const LEGS: [Leg; 2] = [Leg::TokenExchange, Leg::Impersonation];

/// Checks all messages about a problem with Google's answer to some requests.
fn check_messages(site: &Site, legs: &[Leg], problem: &Problem, token: &SubjectToken) {
    let CredentialConfiguration { token_url, .. } = &site.configuration;
    let identity = &site.default_identity();
    for leg in legs {
        let error = ExchangeError { leg: *leg, endpoint: token_url.clone(), problem: problem.clone() };
        let failure = Failure::of_exchange(&error, &site.configuration, token.claims(), identity, NOW);
        line::check_failure(&failure);
        assert!(!(failure.is_refusal() && error.is_transient()), "{failure}");
        assert!(matches!(failure.blame, Blame::Google { .. }));
        let asked = Some(Asked::Audience(error.to_string()));
        check_entry(&failure, asked, site);
        let status = environment::status(&issued(site), Some(&failure));
        assert_eq!(status.lines().count(), 5, "{status}");
        // A failure is passed from child to parent, and kept, as JSON.
        let text = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure);
    }
}

/// Checks the lines in slurmd's log and in the audit log.
fn check_entry(failure: &Failure, asked: Option<Asked>, site: &Site) {
    let (identity, facts, duration) = (&site.default_identity(), facts(), std::time::Duration::from_millis(5));
    let (event, source, outcome) = (Event::Request, Source::Google, Err(failure));
    let entry = Entry { event, job: facts.job, uid: facts.uid, identity, asked, source, outcome, duration };
    // The limits include JSON's quotes and backslashes.
    line::check(&entry.line(), 6000);
    line::check(&json::to_line(&entry.json(NOW)), 6000);
}

/// Passes an answer to the exchange, and checks the error.
fn receive(exchange: &mut Exchange<'_>, site: &Site, bytes: &[u8]) {
    let (status, content_type, body) = answer(bytes);
    let error = match exchange.receive(&response(status, content_type, None, body), NOW) {
        Ok(()) => return,
        Err(error) => error,
    };
    line::check(&error.to_string(), 1200);
    if status == 200 {
        // Only error responses are quoted. A message about an invalid answer must not contain its token.
        let object = serde_json::from_slice::<Value>(body).unwrap_or_default();
        let message = error.to_string().replace(error.endpoint.as_str(), "");
        let time = object.get("expireTime").and_then(Value::as_str).unwrap_or_default();
        for field in ["access_token", "accessToken", "token"] {
            let token = object.get(field).and_then(Value::as_str).unwrap_or_default();
            if !time.contains(token) {
                line::check_secret(&message, token);
            }
        }
    }
    check_messages(site, &[error.leg], &error.problem, &SUBJECT_TOKEN);
}

/// Checks the token of a finished exchange.
fn check_token(exchange: &Exchange<'_>) {
    if let Next::Done(token) = exchange.next() {
        let text = token.token.expose();
        assert!(!text.is_empty() && text.len() <= 32 << 10 && text.bytes().all(|b| b.is_ascii_graphic()), "{text:?}");
        assert!(token.expires_at > NOW);
        assert!(!format!("{token:?}").contains("ya29"));
    }
}

/// Checks an answer of STS.
pub(crate) fn sts_answer(bytes: &[u8]) {
    for site in [&*FEDERATED, &*IMPERSONATES] {
        let (identity, scopes) = (site.default_identity(), [Scope::cloud_platform()]);
        let wanted = Wanted { identity: &identity, scopes: &scopes, lifetime: None };
        let mut exchange = Exchange::new(&site.configuration, &SUBJECT_TOKEN, wanted, String::new());
        receive(&mut exchange, site, bytes);
        check_token(&exchange);
        if let Next::Send(Leg::Impersonation, request) = exchange.next() {
            // The token is sent in a header.
            assert!(request.bearer.unwrap().expose().bytes().all(|b| b.is_ascii_graphic()));
        }
    }
}

/// Checks an answer of IAM Credentials, as the reply to requests for an access token and for an OpenID token.
pub(crate) fn iam_answer(bytes: &[u8]) {
    let site = &*IMPERSONATES;
    let (identity, scopes) = (site.default_identity(), [Scope::cloud_platform()]);
    let wanted = Wanted { identity: &identity, scopes: &scopes, lifetime: Some(600) };
    for purpose in [Purpose::AccessToken, Purpose::IdToken("https://a")] {
        let exchange = Exchange::new(&site.configuration, &SUBJECT_TOKEN, wanted, String::new());
        let mut exchange = exchange.for_purpose(purpose);
        let federated = br#"{"access_token":"ya29.federated","token_type":"Bearer","expires_in":3600}"#;
        exchange.receive(&response(200, String::new(), None, federated), NOW).unwrap();
        receive(&mut exchange, site, bytes);
        check_token(&exchange);
    }
}

/// Checks an error response, and its header Retry-After.
pub(crate) fn refusal(bytes: &[u8]) {
    let (status, retry_after, body) = answer(bytes);
    let retry_after = retry_after_seconds(&retry_after, NOW);
    let refusal = Refusal::of(&response(status, String::new(), retry_after, body), SUBJECT_TOKEN.token());
    line::check(&refusal.to_string(), 700);
    assert!(!refusal.to_string().contains(JWT));
    for text in [&refusal.code, &refusal.reason].into_iter().flatten() {
        line::check(text, 63);
    }
    let problem = Problem::Refused(Box::new(refusal));
    for site in [&*FEDERATED, &*IMPERSONATES] {
        check_messages(site, &LEGS, &problem, &SUBJECT_TOKEN);
    }
}
