//! Google on the simulated clock. Its own clock is true, whatever the node's says.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use gcp_wif_core::words::time::rfc3339;
use gcp_wif_core::world::http::{Body, Request, Response, TransportError};
use percent_encoding::percent_decode_str;
use serde_json::json;

/// How long an access token lives.
pub const LIFE: i64 = 3600;

/// What Google does instead of what is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Status(u16),
    Throttled,
    /// No answer comes.
    Hangs,
    NoConnection,
    /// The page of a proxy, or of the front end.
    Page(u16),
    /// JSON without what is needed.
    Empty,
    /// An answer that is cut off.
    CutOff,
    /// A token that has ended.
    Ended,
}

pub const FAULTS: [Fault; 11] = [
    Fault::Status(500),
    Fault::Status(503),
    Fault::Status(403),
    Fault::Status(429),
    Fault::Throttled,
    Fault::Hangs,
    Fault::NoConnection,
    Fault::Page(200),
    Fault::Empty,
    Fault::CutOff,
    Fault::Ended,
];

/// A token that was handed out.
#[derive(Clone, Debug)]
pub struct Handed {
    /// Who is asked for, and for which user: the reason in the request names the user.
    pub identity: String,
    pub user: String,
    /// When it ends by Google's clock.
    pub ends: i64,
}

#[derive(Default)]
pub struct Google {
    /// What goes wrong, and for which of the two requests; for both if none is named.
    pub fault: Cell<Option<(Fault, Option<bool>)>>,
    /// Subject tokens that were made, and when they end.
    pub subjects: RefCell<BTreeMap<String, i64>>,
    federated: RefCell<BTreeMap<String, i64>>,
    pub handed: RefCell<BTreeMap<String, Handed>>,
    pub calls: Cell<u64>,
    number: Cell<u64>,
}

impl Google {
    /// The answer to a request that comes at a time of the true clock. Without an answer the client waits in vain.
    pub fn answer(&self, request: &Request, now: i64) -> Result<Response, TransportError> {
        self.calls.set(self.calls.get() + 1);
        let is_sts = request.endpoint.as_str().contains("sts.");
        let fault = self.fault.get().filter(|(_, leg)| leg.is_none_or(|leg| leg == is_sts)).map(|(fault, _)| fault);
        let right = || if is_sts { self.exchange(request, now) } else { self.impersonate(request, now) };
        let kind = "application/json; charset=UTF-8";
        match fault {
            None => Ok(right()),
            Some(Fault::Hangs) => Err(TransportError::Timeout),
            Some(Fault::NoConnection) => Err(TransportError::Connection("refused".to_owned())),
            Some(Fault::CutOff) => Err(TransportError::Protocol("cut off".to_owned())),
            Some(Fault::Page(status)) => Ok(answer(status, "text/html", "<html><title>Error</title>".into(), now)),
            Some(Fault::Empty) => Ok(answer(200, kind, "{}".into(), now)),
            Some(Fault::Throttled) => {
                Ok(Response { retry_after: Some(3), ..refused(429, "quota_exceeded", "Please retry.", now) })
            }
            Some(Fault::Status(status)) => Ok(refused(status, "some_error", "Some error.", now)),
            Some(Fault::Ended) => {
                let body = json!({"accessToken": "ya29.ended", "expireTime": rfc3339(now - 10), "access_token": "f",
                    "token_type": "Bearer", "expires_in": 0});
                Ok(answer(200, kind, body.to_string(), now))
            }
        }
    }

    fn exchange(&self, request: &Request, now: i64) -> Response {
        let field = |name: &str| {
            let pairs = request.body.expose().split('&').filter_map(|pair| pair.split_once('='));
            let mut values = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value);
            values.next().map(|value| percent_decode_str(value).decode_utf8_lossy().into_owned())
        };
        let subject = field("subject_token").unwrap_or_default();
        match self.subjects.borrow().get(&subject) {
            Some(ends) if *ends > now => {}
            Some(_) => return refused(400, "invalid_grant", "ID Token issued at 1 is stale to sign-in.", now),
            None => return refused(400, "invalid_grant", "The given credential is rejected.", now),
        }
        let token = self.name("federated");
        self.federated.borrow_mut().insert(token.clone(), now + LIFE);
        let kind = "urn:ietf:params:oauth:token-type:access_token";
        let body =
            json!({"access_token": token, "issued_token_type": kind, "token_type": "Bearer", "expires_in": LIFE});
        answer(200, "application/json", body.to_string(), now)
    }

    fn impersonate(&self, request: &Request, now: i64) -> Response {
        let bearer = request.bearer.as_ref().map(|bearer| bearer.expose().to_owned()).unwrap_or_default();
        if self.federated.borrow().get(&bearer).is_none_or(|ends| *ends <= now) {
            return refused(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", now);
        }
        let path = request.endpoint.as_str();
        let identity = path.rsplit_once("serviceAccounts/").unwrap().1.split(':').next().unwrap();
        let identity = percent_decode_str(identity).decode_utf8_lossy().into_owned();
        let reason = request.headers.iter().find(|(name, _)| *name == "x-goog-request-reason").unwrap();
        let user = reason.1.split(" of user ").nth(1).unwrap().to_owned();
        let token = self.name("ya29.");
        let handed = Handed { identity, user, ends: now + LIFE };
        self.handed.borrow_mut().insert(token.clone(), handed);
        let body = json!({"accessToken": token, "expireTime": rfc3339(now + LIFE)});
        answer(200, "application/json", body.to_string(), now)
    }

    /// A name that no other token has.
    pub fn name(&self, beginning: &str) -> String {
        self.number.set(self.number.get() + 1);
        format!("{beginning}{}", self.number.get())
    }

    /// The identity that a token is for, and how many seconds are left of it.
    pub fn token(&self, token: &str) -> Option<Handed> {
        self.handed.borrow().get(token).cloned()
    }
}

fn refused(status: u16, error: &str, text: &str, now: i64) -> Response {
    let body = json!({"error": error, "error_description": text}).to_string();
    answer(status, "application/json", body, now)
}

fn answer(status: u16, content_type: &str, body: String, now: i64) -> Response {
    let (content_type, body) = (content_type.to_owned(), Body::new(body.into_bytes()));
    Response { status, content_type, retry_after: None, date: Some(now), body }
}
