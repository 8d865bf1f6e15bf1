//! Google on the simulated clock. Google's clock is always right, even if the node's clock is wrong.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use gcp_wif_core::words::time::rfc3339;
use gcp_wif_core::world::http::{Body, Request, Response, TransportError};
use percent_encoding::percent_decode_str;
use serde_json::json;

/// The lifetime of an access token, in seconds.
pub const LIFETIME: i64 = 3600;

/// A fault at Google.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Status(u16),
    Throttled,
    /// Google does not answer.
    Hangs,
    NoConnection,
    /// An HTML page, as from a proxy or from Google's front end.
    Page(u16),
    /// An empty JSON object.
    Empty,
    /// A truncated answer.
    CutOff,
    /// A token that has expired.
    Expired,
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
    Fault::Expired,
];

/// An access token that Google has issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The requested identity.
    pub identity: String,
    /// The job's user, from the header with the reason.
    pub user: String,
    /// The expiry by Google's clock.
    pub expires: i64,
}

#[derive(Default)]
pub struct Google {
    /// The current fault, and the request that it affects: STS if true, IAM Credentials if false, or both if `None`.
    pub fault: Cell<Option<(Fault, Option<bool>)>>,
    /// The valid subject tokens, and their expiry.
    pub subjects: RefCell<BTreeMap<String, i64>>,
    federated: RefCell<BTreeMap<String, i64>>,
    pub issued: RefCell<BTreeMap<String, Issued>>,
    pub calls: Cell<u64>,
    number: Cell<u64>,
}

impl Google {
    /// Returns the answer to a request at a time of Google's clock.
    pub fn answer(&self, request: &Request, now: i64) -> Result<Response, TransportError> {
        self.calls.set(self.calls.get() + 1);
        let is_sts = request.endpoint.as_str().contains("sts.");
        let fault = self.fault.get().filter(|(_, leg)| leg.is_none_or(|leg| leg == is_sts)).map(|(fault, _)| fault);
        let without_fault = || if is_sts { self.exchange(request, now) } else { self.impersonate(request, now) };
        let kind = "application/json; charset=UTF-8";
        match fault {
            None => Ok(without_fault()),
            Some(Fault::Hangs) => Err(TransportError::Timeout),
            Some(Fault::NoConnection) => Err(TransportError::Connection("refused".to_owned())),
            Some(Fault::CutOff) => Err(TransportError::Protocol("cut off".to_owned())),
            Some(Fault::Page(status)) => Ok(answer(status, "text/html", "<html><title>Error</title>".into(), now)),
            Some(Fault::Empty) => Ok(answer(200, kind, "{}".into(), now)),
            Some(Fault::Throttled) => {
                Ok(Response { retry_after: Some(3), ..refused(429, "quota_exceeded", "Please retry.", now) })
            }
            Some(Fault::Status(status)) => Ok(refused(status, "some_error", "Some error.", now)),
            Some(Fault::Expired) => {
                let body = json!({"accessToken": "ya29.expired", "expireTime": rfc3339(now - 10), "access_token": "f",
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
            Some(expires) if *expires > now => {}
            Some(_) => return refused(400, "invalid_grant", "ID Token issued at 1 is stale to sign-in.", now),
            None => return refused(400, "invalid_grant", "The given credential is rejected.", now),
        }
        let token = self.unique("federated");
        self.federated.borrow_mut().insert(token.clone(), now + LIFETIME);
        let kind = "urn:ietf:params:oauth:token-type:access_token";
        let body =
            json!({"access_token": token, "issued_token_type": kind, "token_type": "Bearer", "expires_in": LIFETIME});
        answer(200, "application/json", body.to_string(), now)
    }

    fn impersonate(&self, request: &Request, now: i64) -> Response {
        let bearer = request.bearer.as_ref().map(|bearer| bearer.expose().to_owned()).unwrap_or_default();
        if self.federated.borrow().get(&bearer).is_none_or(|expires| *expires <= now) {
            return refused(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.", now);
        }
        let path = request.endpoint.as_str();
        let identity = path.rsplit_once("serviceAccounts/").unwrap().1.split(':').next().unwrap();
        let identity = percent_decode_str(identity).decode_utf8_lossy().into_owned();
        let reason = request.headers.iter().find(|(name, _)| *name == "x-goog-request-reason").unwrap();
        let user = reason.1.split(" of user ").nth(1).unwrap().to_owned();
        let token = self.unique("ya29.");
        let issued = Issued { identity, user, expires: now + LIFETIME };
        self.issued.borrow_mut().insert(token.clone(), issued);
        let body = json!({"accessToken": token, "expireTime": rfc3339(now + LIFETIME)});
        answer(200, "application/json", body.to_string(), now)
    }

    /// Returns a unique token with this prefix.
    pub fn unique(&self, prefix: &str) -> String {
        self.number.set(self.number.get() + 1);
        format!("{prefix}{}", self.number.get())
    }

    /// Returns an issued token.
    pub fn token(&self, token: &str) -> Option<Issued> {
        self.issued.borrow().get(token).cloned()
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
