//! From a subject token to an access token, as a state machine without input and output.
//!
//! ```text
//!            next(): Send(STS token exchange)
//!   Start ───────────────────────────────────► receive() ──┬─ direct federation ──► Done(federated token)
//!                                                          │
//!                                                          └─ service account
//!                                                              │ next(): Send(generateAccessToken)
//!                                                              └──────────────────► receive() ──► Done(access token)
//! ```
//!
//! [`Exchange::next`] says what to send, [`Exchange::receive`] takes the answer; a refused answer leaves the
//! state as it was, so that the same request can be sent again. [`run::run`] drives it over a
//! [`Transport`](crate::world::http::Transport) with retries and a deadline.
#![forbid(unsafe_code)]

pub mod credential_configuration;
mod impersonation;
pub mod refusal;
pub mod run;
mod sts;
pub mod subject_token;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words::google::{Endpoint, Identity, Scope};
use crate::words::names::{InvalidName, clip};
use crate::words::secret::Secret;
use crate::words::time::UnixSeconds;
use crate::world::http::{Request, Response, TransportError};
use credential_configuration::CredentialConfiguration;
use refusal::Refusal;
use subject_token::SubjectToken;

/// The longest token that Google hands out, with room (`access_token` of STS: 12288 bytes).
const LONGEST_TOKEN: usize = 32 << 10;

/// A token for Google's interfaces, and when it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// The token.
    pub token: Secret,
    /// Its expiry.
    pub expires_at: UnixSeconds,
}

/// The two requests of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leg {
    /// The STS token exchange, RFC 8693.
    TokenExchange,
    /// generateAccessToken of IAM Credentials.
    Impersonation,
}

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeError {
    /// In which request.
    pub leg: Leg,
    /// Where it went.
    pub endpoint: Endpoint,
    /// What happened.
    pub problem: Problem,
}

/// What happened to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There was no answer.
    Transport(TransportError),
    /// Google refused.
    Refused(Box<Refusal>),
    /// The answer does not look like one of Google's.
    Malformed(String),
    /// The token had expired when it came.
    Expired {
        /// Its expiry.
        expires_at: UnixSeconds,
        /// This node's time.
        now: UnixSeconds,
    },
}

impl ExchangeError {
    /// Whether the same request may succeed if sent again.
    pub fn is_transient(&self) -> bool {
        match &self.problem {
            Problem::Transport(error) => error.is_transient(),
            Problem::Refused(refusal) => refusal.is_transient(),
            Problem::Malformed(_) | Problem::Expired { .. } => false,
        }
    }

    /// Whether the server is well and only asks to come later, because a quota is used up.
    pub fn is_throttled(&self) -> bool {
        matches!(&self.problem, Problem::Refused(refusal) if refusal.is_throttled())
    }

    /// Seconds that the server asks to wait.
    pub fn retry_after(&self) -> Option<u64> {
        match &self.problem {
            Problem::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Problem::Transport(error) => write!(f, "{}: {error}", self.endpoint),
            Problem::Refused(refusal) => write!(f, "{}: {refusal}", self.endpoint),
            Problem::Malformed(problem) => write!(f, "{}: {problem}", self.endpoint),
            Problem::Expired { expires_at, now } => write!(
                f,
                "{}: the token ended {} seconds ago by this node's clock",
                self.endpoint,
                now.saturating_sub(*expires_at)
            ),
        }
    }
}

impl std::error::Error for ExchangeError {}

/// What to do next.
#[derive(Debug)]
pub enum Next {
    /// Send this and hand the answer to [`Exchange::receive`].
    Send(Leg, Request),
    /// It is done.
    Done(AccessToken),
}

#[derive(Debug)]
enum State {
    Start,
    Federated { token: Secret, url: Endpoint },
    Done(AccessToken),
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// A token for Google's interfaces.
    AccessToken,
    /// An OpenID token for this audience. A federated principal cannot have one, and gets an access token.
    IdToken(&'a str),
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The identity that the job has at Google.
    pub identity: &'a Identity,
    /// Scopes of the access token.
    pub scopes: &'a [Scope],
    /// Lifetime of the access token in seconds, if one is requested.
    pub lifetime: Option<u32>,
}

/// One exchange.
#[derive(Debug)]
pub struct Exchange<'a> {
    purpose: Purpose<'a>,
    configuration: &'a CredentialConfiguration,
    subject_token: &'a SubjectToken,
    wanted: Wanted<'a>,
    reason: String,
    state: State,
}

impl<'a> Exchange<'a> {
    /// Begins an exchange. `reason` goes into Google's audit log.
    pub fn new(
        configuration: &'a CredentialConfiguration,
        subject_token: &'a SubjectToken,
        wanted: Wanted<'a>,
        reason: String,
    ) -> Self {
        let (purpose, state) = (Purpose::AccessToken, State::Start);
        Self { purpose, configuration, subject_token, wanted, reason, state }
    }

    /// The same exchange for another purpose.
    pub fn for_purpose(self, purpose: Purpose<'a>) -> Self {
        Self { purpose, ..self }
    }

    /// What to do next.
    pub fn next(&self) -> Next {
        match &self.state {
            State::Start => {
                Next::Send(Leg::TokenExchange, sts::request(self.configuration, self.subject_token, self.wanted))
            }
            State::Federated { token, url } => Next::Send(
                Leg::Impersonation,
                match self.purpose {
                    Purpose::AccessToken => impersonation::request(url, token, self.wanted, &self.reason),
                    Purpose::IdToken(audience) => impersonation::id_request(url, token, audience, &self.reason),
                },
            ),
            State::Done(token) => Next::Done(token.clone()),
        }
    }

    /// The endpoint of the request after the next one, if there is one: a connection to it can be opened meanwhile.
    pub fn afterwards(&self) -> Option<Endpoint> {
        match &self.state {
            State::Start => self.configuration.impersonation_url(self.wanted.identity.service_account()?).ok(),
            State::Federated { .. } | State::Done(_) => None,
        }
    }

    /// Takes the answer to the request that [`Exchange::next`] gave; `now` is when it came.
    ///
    /// # Errors
    /// When the answer is not a success. The state does not change then.
    pub fn receive(&mut self, response: &Response, now: UnixSeconds) -> Result<(), ExchangeError> {
        match (&self.state, self.wanted.identity) {
            (State::Done(_), _) => {}
            (State::Start, identity) => {
                let answer = sts::receive(response).map_err(|problem| self.error(problem))?;
                self.state = match identity {
                    Identity::Federated => {
                        let expires_at =
                            answer.expires_in.ok_or_else(|| self.error(missing("expires_in")))?.saturating_add(now);
                        State::Done(self.living(AccessToken { token: answer.token, expires_at }, now)?)
                    }
                    Identity::ServiceAccount(email) => {
                        let url = self
                            .configuration
                            .impersonation_url(email)
                            .map_err(|p| self.error(Problem::Malformed(p)))?;
                        State::Federated { token: answer.token, url }
                    }
                };
            }
            (State::Federated { .. }, _) => {
                let token = match self.purpose {
                    Purpose::AccessToken => impersonation::receive(response),
                    Purpose::IdToken(_) => impersonation::id_receive(response),
                };
                let token = token.map_err(|problem| self.error(problem))?;
                self.state = State::Done(self.living(token, now)?);
            }
        }
        Ok(())
    }

    /// The error of the request that is under way.
    pub(crate) fn error(&self, problem: Problem) -> ExchangeError {
        let (leg, endpoint) = match &self.state {
            State::Federated { url, .. } => (Leg::Impersonation, url.clone()),
            State::Start | State::Done(_) => (Leg::TokenExchange, self.configuration.token_url.clone()),
        };
        ExchangeError { leg, endpoint, problem }
    }

    fn living(&self, token: AccessToken, now: UnixSeconds) -> Result<AccessToken, ExchangeError> {
        if token.expires_at > now {
            Ok(token)
        } else {
            Err(self.error(Problem::Expired { expires_at: token.expires_at, now }))
        }
    }
}

fn missing(field: &str) -> Problem {
    Problem::Malformed(format!("the answer has no {field}"))
}

/// Reads a successful answer's JSON object.
fn object(response: &Response) -> Result<serde_json::Map<String, serde_json::Value>, Problem> {
    if response.status != 200 {
        return Err(Problem::Refused(Box::new(Refusal::of(response))));
    }
    // The parser's message could quote the token.
    serde_json::from_slice(response.body.expose()).map_err(|_| {
        Problem::Malformed(format!(
            "the answer is not JSON (type {}, {} bytes)",
            if response.content_type.is_empty() { "not given".to_owned() } else { clip(&response.content_type, 60) },
            response.body.expose().len()
        ))
    })
}

/// Takes a token out of an answer: visible ASCII of a token's length, so that it fits a header and a variable.
fn token(object: &serde_json::Map<String, serde_json::Value>, field: &str) -> Result<Secret, Problem> {
    let text = object.get(field).and_then(serde_json::Value::as_str).ok_or_else(|| missing(field))?;
    if text.is_empty() || text.len() > LONGEST_TOKEN || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Problem::Malformed(format!("its {field} is not a token ({} bytes)", text.len())));
    }
    Ok(Secret::new(text.to_owned()))
}

impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Self {
        Self::Malformed(error.to_string())
    }
}
