use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::*;
use crate::exchange::credential_configuration::CredentialConfiguration;
use crate::exchange::subject_token::SubjectToken;
use crate::exchange::{Leg, Purpose, Wanted};
use crate::testing::jwt;
use crate::words::google::{Identity, Scope, ServiceAccountEmail};
use crate::words::time::UnixSeconds;
use crate::world::http::{Body, Request, Response};

const NOW: UnixSeconds = 1_700_000_000;
const EMAIL: &str = "sa@p.iam.gserviceaccount.com";
const STS: &str = r#"{"access_token":"federated","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3599}"#;
const IAM: &str = r#"{"accessToken":"ya29.sa","expireTime":"2023-11-14T23:13:20Z"}"#;

type Reply = Result<(u16, &'static str, Option<&'static str>), TransportError>;

/// A transport that returns replies in order, repeats the last one, and records the requests.
struct Script {
    replies: RefCell<VecDeque<Reply>>,
    requests: RefCell<Vec<Request>>,
    limits: RefCell<Vec<Duration>>,
    clock: Ticks,
    takes: Duration,
    jitter: f64,
    /// Google's time, where its answers tell it.
    date: Option<UnixSeconds>,
}

#[derive(Default)]
struct Ticks {
    elapsed: Cell<Duration>,
    pauses: RefCell<Vec<Duration>>,
}

impl Clock for Script {
    fn now(&self) -> UnixSeconds {
        NOW
    }

    fn elapsed(&self) -> Duration {
        self.clock.elapsed.get()
    }

    fn sleep(&self, pause: Duration) {
        self.clock.pauses.borrow_mut().push(pause);
        self.clock.elapsed.set(self.clock.elapsed.get() + pause);
    }

    fn jitter(&self) -> f64 {
        self.jitter
    }
}

impl Transport for Script {
    fn send(&self, request: &Request, limit: Duration) -> Result<Response, TransportError> {
        self.clock.elapsed.set(self.clock.elapsed.get() + self.takes.min(limit));
        self.limits.borrow_mut().push(limit);
        let copy = Request {
            endpoint: request.endpoint.clone(),
            bearer: request.bearer.clone(),
            content_type: request.content_type,
            headers: request.headers.clone(),
            body: request.body.clone(),
        };
        self.requests.borrow_mut().push(copy);
        let mut replies = self.replies.borrow_mut();
        let reply = if replies.len() > 1 { replies.pop_front().unwrap() } else { replies[0].clone() };
        reply.map(|(status, body, retry_after)| Response {
            status,
            content_type: "application/json".to_owned(),
            retry_after: retry_after.and_then(|text| text.parse().ok()),
            date: self.date,
            body: Body::new(body.into()),
        })
    }
}

fn script(replies: &[Reply]) -> Script {
    Script {
        replies: RefCell::new(replies.iter().cloned().collect()),
        requests: RefCell::default(),
        limits: RefCell::default(),
        clock: Ticks::default(),
        takes: Duration::ZERO,
        jitter: 0.5,
        date: None,
    }
}

fn ok(body: &'static str) -> Reply {
    Ok((200, body, None))
}

fn configuration() -> CredentialConfiguration {
    CredentialConfiguration::parse(
        br#"{"type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": {"file": "/t"}}"#,
    )
    .unwrap()
}

fn run_script(script: &Script, identity: &Identity) -> Result<AccessToken, ExchangeError> {
    let configuration = configuration();
    let subject_token = SubjectToken::parse(jwt("{}").as_bytes(), &configuration.subject_token_format).unwrap();
    let scopes = [Scope::cloud_platform()];
    let mut exchange = Exchange::new(
        &configuration,
        &subject_token,
        Wanted { identity, scopes: &scopes, lifetime: configuration.lifetime() },
        "slurm job 1".to_owned(),
    );
    run(&mut exchange, script, script, Duration::from_secs(20))
}

fn service_account() -> Identity {
    Identity::ServiceAccount(ServiceAccountEmail::parse(EMAIL).unwrap())
}

#[test]
fn requests_have_the_documented_form() {
    let script = script(&[ok(STS), ok(IAM)]);
    let token = run_script(&script, &service_account()).unwrap();
    assert_eq!((token.token.expose(), token.expires_at), ("ya29.sa", 1_700_003_600));
    let requests = script.requests.borrow();
    let [sts, iam] = requests.as_slice() else { panic!("{} requests", requests.len()) };
    assert_eq!(sts.endpoint.as_str(), "https://sts.googleapis.com/v1/token");
    assert_eq!(sts.content_type, "application/x-www-form-urlencoded");
    assert!(sts.bearer.is_none(), "a workload identity pool takes no Authorization header");
    let expected = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant%2Dtype%3Atoken%2Dexchange\
        &requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken%2Dtype%3Aaccess%5Ftoken\
        &audience=%2F%2Fiam%2Egoogleapis%2Ecom%2Fprojects%2F1%2Flocations%2Fglobal%2FworkloadIdentityPools%2Fp%2Fproviders%2Fq\
        &scope=https%3A%2F%2Fwww%2Egoogleapis%2Ecom%2Fauth%2Fiam\
        &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken%2Dtype%3Ajwt\
        &subject_token=";
    assert_eq!(sts.body.expose(), format!("{expected}{}", jwt("{}").replace('.', "%2E")));
    assert_eq!(
        iam.endpoint.as_str(),
        format!("https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken")
    );
    assert_eq!(iam.bearer.as_ref().map(crate::words::secret::Secret::expose), Some("federated"));
    assert_eq!(iam.body.expose(), r#"{"lifetime":"3600s","scope":["https://www.googleapis.com/auth/cloud-platform"]}"#);
    assert_eq!(iam.headers, [("x-goog-request-reason", "slurm job 1".to_owned())]);
}

#[test]
fn direct_federation_is_one_request_with_the_requested_scopes() {
    let script = script(&[ok(STS)]);
    let token = run_script(&script, &Identity::Federated).unwrap();
    assert_eq!((token.token.expose(), token.expires_at), ("federated", NOW + 3599));
    assert_eq!(script.requests.borrow().len(), 1);
    assert!(script.requests.borrow()[0].body.expose().contains("auth%2Fcloud%2Dplatform"));
}

#[test]
fn an_id_token_is_requested_with_generate_id_token() {
    let token = jwt(r#"{"exp":1700003000}"#);
    let answer: &'static str = Box::leak(format!(r#"{{"token":"{token}"}}"#).into_boxed_str());
    let script = script(&[ok(STS), ok(answer)]);
    let configuration = configuration();
    let subject_token = SubjectToken::parse(jwt("{}").as_bytes(), &configuration.subject_token_format).unwrap();
    let (scopes, identity) = ([Scope::cloud_platform()], service_account());
    let exchange = Exchange::new(
        &configuration,
        &subject_token,
        Wanted { identity: &identity, scopes: &scopes, lifetime: None },
        "slurm job 1".to_owned(),
    );
    let mut exchange = exchange.for_purpose(Purpose::IdToken("https://example.org"));
    let issued = run(&mut exchange, &script, &script, Duration::from_secs(20)).unwrap();
    assert_eq!((issued.token.expose(), issued.expires_at), (token.as_str(), 1_700_003_000));
    let requests = script.requests.borrow();
    assert!(requests[1].endpoint.as_str().ends_with("/serviceAccounts/sa@p.iam.gserviceaccount.com:generateIdToken"));
    assert_eq!(requests[1].body.expose(), r#"{"audience":"https://example.org","includeEmail":true}"#);
}

#[test]
fn transient_errors_are_retried_up_to_four_attempts_with_growing_pauses() {
    for reply in [
        Ok((503, "", None)),
        Err(TransportError::Connection("refused".to_owned())),
        Err(TransportError::Timeout),
        Err(TransportError::Protocol("it ends prematurely".to_owned())),
    ] {
        let script = script(std::slice::from_ref(&reply));
        assert!(run_script(&script, &service_account()).unwrap_err().is_transient(), "{reply:?}");
        assert_eq!(script.requests.borrow().len(), 4, "{reply:?}");
        let expected = [100, 200, 400].map(Duration::from_millis);
        assert_eq!(*script.clock.pauses.borrow(), expected, "{reply:?}");
    }
    let script = script(&[Ok((500, "", None)), ok(STS), Ok((502, "", None)), ok(IAM)]);
    assert!(run_script(&script, &service_account()).is_ok());
    assert_eq!(script.requests.borrow().len(), 4);
}

#[test]
fn permanent_errors_are_not_retried() {
    for reply in [
        Ok((400, r#"{"error":"invalid_grant"}"#, None)),
        Ok((401, "", None)),
        Ok((403, "", None)),
        Ok((404, "", None)),
        Ok((302, "", None)),
        Ok((200, "<html>", None)),
        Err(TransportError::Tls("unknown issuer".to_owned())),
        Err(TransportError::TooLong),
    ] {
        let script = script(std::slice::from_ref(&reply));
        assert!(run_script(&script, &service_account()).is_err(), "{reply:?}");
        assert_eq!(script.requests.borrow().len(), 1, "{reply:?}");
    }
}

/// The response of STS when a per-minute quota is exhausted.
const THROTTLED: &str = r#"{"error":"quota_exceeded","error_description":"The request was throttled due to rate limit: sts.googleapis.com/requests. Please retry after a few seconds."}"#;

fn seconds(pauses: &[f64]) -> Vec<Duration> {
    pauses.iter().copied().map(Duration::from_secs_f64).collect()
}

#[test]
fn throttled_requests_are_retried_after_seconds_without_a_limit_on_attempts() {
    let older = r#"{"error":"x","error_description":"[Security Token Service] The request was throttled due to rate limit. Please retry after a few seconds."}"#;
    for throttled in [Ok((429, THROTTLED, None)), Ok((429, "", None)), Ok((400, older, None)), Ok((403, older, None))] {
        let [first, second, third, fourth, fifth] = std::array::from_fn(|_| throttled.clone());
        let script = script(&[first, second, third, fourth, fifth, ok(STS), ok(IAM)]);
        assert!(run_script(&script, &service_account()).is_ok(), "{throttled:?}");
        assert_eq!(*script.clock.pauses.borrow(), seconds(&[3.5; 5]), "{throttled:?}");
    }
}

#[test]
fn permanent_throttling_is_reported_within_the_budget() {
    let script = script(&[Ok((429, THROTTLED, None))]);
    let error = run_script(&script, &service_account()).unwrap_err();
    assert!(error.to_string().contains("HTTP 429 quota_exceeded: The request was throttled"), "{error}");
    // A sixth pause would end after 21 seconds, so it is not started.
    assert_eq!((script.requests.borrow().len(), script.clock.elapsed.get()), (6, Duration::from_millis(17_500)));
}

#[test]
fn pauses_after_throttling_last_two_to_five_seconds() {
    for (jitter, expected) in [(0.0, 2.0), (0.25, 2.75), (1.0, 5.0)] {
        let script = Script { jitter, ..script(&[Ok((429, "", None)), ok(STS), ok(IAM)]) };
        assert!(run_script(&script, &service_account()).is_ok());
        assert_eq!(*script.clock.pauses.borrow(), seconds(&[expected]));
    }
}

#[test]
fn throttled_requests_do_not_count_as_attempts() {
    let busy = || Ok((429, "", None));
    let down = || Ok((503, "", None));
    let passes = script(&[down(), busy(), down(), busy(), down(), ok(STS), ok(IAM)]);
    assert!(run_script(&passes, &service_account()).is_ok());
    assert_eq!(*passes.clock.pauses.borrow(), seconds(&[0.1, 3.5, 0.2, 3.5, 0.4]));
    let fails = script(&[busy(), down(), down(), busy(), down(), down()]);
    assert!(run_script(&fails, &service_account()).unwrap_err().to_string().contains("HTTP 503"));
    assert_eq!(*fails.clock.pauses.borrow(), seconds(&[3.5, 0.1, 0.2, 3.5, 0.4]));
}

#[test]
fn retry_after_is_honored_if_it_fits_the_budget() {
    for (status, asked, expected) in
        [(503, "3", Some(3.1)), (429, "1", Some(3.5)), (429, "3", Some(4.5)), (429, "60", None), (503, "60", None)]
    {
        let script = script(&[Ok((status, "", Some(asked))), ok(STS), ok(IAM)]);
        assert_eq!(run_script(&script, &service_account()).is_ok(), expected.is_some(), "{status} {asked}");
        assert_eq!(*script.clock.pauses.borrow(), seconds(expected.as_slice()), "{status} {asked}");
    }
    // A value that overflows.
    let longest = script(&[Ok((429, "", Some("18446744073709551615")))]);
    assert!(run_script(&longest, &service_account()).is_err());
}

#[test]
fn a_hanging_server_gets_a_second_attempt_within_the_budget() {
    let hanging = Script { takes: Duration::from_secs(3600), ..script(&[Err(TransportError::Timeout)]) };
    assert!(run_script(&hanging, &service_account()).is_err());
    assert_eq!(hanging.requests.borrow().len(), 2);
    assert!(hanging.clock.elapsed.get() <= Duration::from_secs(20));
}

#[test]
fn a_server_that_hangs_late_gets_a_second_attempt_too() {
    // The third request is sent after 7 seconds, so 13 are left.
    let replies = [Ok((429, "", None)), Ok((429, "", None)), Err(TransportError::Timeout), ok(STS), ok(IAM)];
    let script = script(&replies);
    assert!(run_script(&script, &service_account()).is_ok());
    let expected = seconds(&[10.0, 8.25, 6.5, 6.5]);
    assert_eq!(script.limits.borrow()[..4], expected);
}

#[test]
fn responses_without_a_usable_token_are_malformed() {
    for (body, expected) in [
        ("[]", "the response is not JSON"),
        ("{}", "the response's token_type is not Bearer"),
        (r#"{"token_type":"Bearer"}"#, "the response has no access_token"),
        (r#"{"token_type":"Bearer","access_token":1}"#, "the response has no access_token"),
        (r#"{"token_type":"Bearer","access_token":"a\u0000b"}"#, "its access_token is not a token (3 bytes)"),
        (r#"{"token_type":"Bearer","access_token":"a\nb"}"#, "its access_token is not a token"),
        (r#"{"token_type":"Bearer","access_token":""}"#, "its access_token is not a token"),
        (r#"{"token_type":"Bearer","access_token":"a"}"#, "the response has no expires_in"),
        (r#"{"token_type":"Bearer","access_token":"a","expires_in":"soon"}"#, "the response has no expires_in"),
        (r#"{"token_type":"Bearer","access_token":"a","expires_in":0}"#, "the token expired 0 seconds ago"),
    ] {
        let error = run_script(&script(&[ok(body)]), &Identity::Federated).unwrap_err();
        assert_eq!(error.leg, Leg::TokenExchange);
        assert!(error.to_string().contains(expected), "{body}: {error}");
    }
    for (body, expected) in [
        (r#"{"accessToken":"a"}"#, "the response has no expireTime"),
        (r#"{"accessToken":"a","expireTime":"soon"}"#, "its expireTime \"soon\" is not an RFC 3339 time"),
        (
            r#"{"accessToken":"a","expireTime":"2023-11-14T22:13:10Z"}"#,
            "the token expired 10 seconds ago by this node's clock",
        ),
    ] {
        let error = run_script(&script(&[ok(STS), ok(body)]), &service_account()).unwrap_err();
        assert_eq!(error.leg, Leg::Impersonation);
        assert!(error.to_string().contains(expected), "{body}: {error}");
    }
    let fraction = r#"{"accessToken":"a","expireTime":"2023-11-15T00:13:20.123+01:00"}"#;
    assert_eq!(run_script(&script(&[ok(STS), ok(fraction)]), &service_account()).unwrap().expires_at, 1_700_003_600);
}

#[test]
fn a_tokens_life_is_that_by_googles_clock() {
    // The answer's expireTime is an hour after NOW. What the node's clock says does not matter.
    for (date, life) in [(NOW, 3600), (NOW + 1800, 1800), (NOW - 7200, 10_800), (NOW + 3599, 1)] {
        let script = Script { date: Some(date), ..script(&[ok(STS), ok(IAM)]) };
        assert_eq!(run_script(&script, &service_account()).unwrap().expires_at, NOW + life, "{date}");
    }
    let script = Script { date: Some(NOW + 3600), ..script(&[ok(STS), ok(IAM)]) };
    let error = run_script(&script, &service_account()).unwrap_err();
    assert!(error.to_string().ends_with("the token expired 0 seconds ago by Google's clock"), "{error}");
    // STS tells the life itself.
    let script = Script { date: Some(NOW + 7200), ..self::script(&[ok(STS)]) };
    assert_eq!(run_script(&script, &Identity::Federated).unwrap().expires_at, NOW + 3599);
}
