//! Exchanges a subject token for an access token, as a state machine that performs no I/O.
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
//! [`Exchange::next`] returns the request to send, and [`Exchange::receive`] takes the response. An error response does
//! not change the state, so the same request can be sent again. [`run::run`] drives the exchange over a
//! [`Transport`](crate::world::http::Transport), with retries and a deadline.
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

/// The length limit of a token, in bytes. Google documents 12288 for the `access_token` of STS.
const LONGEST_TOKEN: usize = 32 << 10;

/// An access token for Google's APIs, with its expiry.
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
    /// Impersonation: generateAccessToken or generateIdToken of the IAM Credentials API.
    Impersonation,
}

/// Why an exchange failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeError {
    /// The request that failed.
    pub leg: Leg,
    /// The endpoint of that request.
    pub endpoint: Endpoint,
    /// The problem.
    pub problem: Problem,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// There was no response.
    Transport(TransportError),
    /// Google refused the request.
    Refused(Box<Refusal>),
    /// The response does not have the documented form.
    Malformed(String),
    /// The token was already expired on arrival.
    Expired {
        /// How many seconds ago.
        ago: i64,
        /// By whose clock.
        by: Whose,
    },
}

/// Whose clock it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// Google's, which its answers tell.
    Googles,
    /// This node's.
    Nodes,
}

impl ExchangeError {
    /// Returns whether the same request can succeed later.
    pub fn is_transient(&self) -> bool {
        match &self.problem {
            Problem::Transport(error) => error.is_transient(),
            Problem::Refused(refusal) => refusal.is_transient(),
            Problem::Malformed(_) | Problem::Expired { .. } => false,
        }
    }

    /// Returns whether the server refused only because a quota is exhausted.
    pub fn is_throttled(&self) -> bool {
        matches!(&self.problem, Problem::Refused(refusal) if refusal.is_throttled())
    }

    /// Returns the server's Retry-After, in seconds.
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
            Problem::Expired { ago, by } => {
                let whose = match by {
                    Whose::Googles => "Google's",
                    Whose::Nodes => "this node's",
                };
                write!(f, "{}: the token expired {ago} seconds ago by {whose} clock", self.endpoint)
            }
        }
    }
}

impl std::error::Error for ExchangeError {}

/// The next action of an exchange.
#[derive(Debug)]
pub enum Next {
    /// Send this request and pass the response to [`Exchange::receive`].
    Send(Leg, Request),
    /// The exchange is complete.
    Done(AccessToken),
}

#[derive(Debug)]
enum State {
    Start,
    Federated { token: Secret, url: Endpoint },
    Done(AccessToken),
}

/// The kind of token to request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// An access token for Google's APIs.
    AccessToken,
    /// An OpenID token for this audience. A federated principal cannot get one; its exchange returns an access token.
    IdToken(&'a str),
}

/// The properties of the requested token.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The job's identity at Google.
    pub identity: &'a Identity,
    /// The scopes of the access token.
    pub scopes: &'a [Scope],
    /// The requested lifetime of the access token, in seconds.
    pub lifetime: Option<u32>,
}

/// An exchange in progress.
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
    /// Begins an exchange for an access token. `reason` appears in Google's audit log.
    pub fn new(
        configuration: &'a CredentialConfiguration,
        subject_token: &'a SubjectToken,
        wanted: Wanted<'a>,
        reason: String,
    ) -> Self {
        let (purpose, state) = (Purpose::AccessToken, State::Start);
        Self { purpose, configuration, subject_token, wanted, reason, state }
    }

    /// Returns the same exchange for another kind of token.
    pub fn for_purpose(self, purpose: Purpose<'a>) -> Self {
        Self { purpose, ..self }
    }

    /// Returns the next action.
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

    /// Returns the endpoint of the request after the next one, if there is one, so that a connection can be opened
    /// ahead.
    pub fn afterwards(&self) -> Option<Endpoint> {
        match &self.state {
            State::Start => self.configuration.impersonation_url(self.wanted.identity.service_account()?).ok(),
            State::Federated { .. } | State::Done(_) => None,
        }
    }

    /// Processes the response to the request from [`Exchange::next`], which arrived at `now`.
    ///
    /// # Errors
    /// When the response is not a success. The state is then unchanged.
    pub fn receive(&mut self, response: &Response, now: UnixSeconds) -> Result<(), ExchangeError> {
        match (&self.state, self.wanted.identity) {
            (State::Done(_), _) => {}
            (State::Start, identity) => {
                let sent = self.subject_token.token();
                let answer = sts::receive(response, sent).map_err(|problem| self.error(problem))?;
                self.state = match identity {
                    Identity::Federated => {
                        let expires_at =
                            answer.expires_in.ok_or_else(|| self.error(missing("expires_in")))?.saturating_add(now);
                        State::Done(self.living(AccessToken { token: answer.token, expires_at }, now, None)?)
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
            (State::Federated { token: sent, .. }, _) => {
                let token = match self.purpose {
                    Purpose::AccessToken => impersonation::receive(response, sent),
                    Purpose::IdToken(_) => impersonation::id_receive(response, sent),
                };
                let token = token.map_err(|problem| self.error(problem))?;
                self.state = State::Done(self.living(token, now, response.date)?);
            }
        }
        Ok(())
    }

    /// Creates an error for the current request.
    pub(crate) fn error(&self, problem: Problem) -> ExchangeError {
        let (leg, endpoint) = match &self.state {
            State::Federated { url, .. } => (Leg::Impersonation, url.clone()),
            State::Start | State::Done(_) => (Leg::TokenExchange, self.configuration.token_url.clone()),
        };
        ExchangeError { leg, endpoint, problem }
    }

    /// The token, with its expiry by this node's clock. Google names the expiry by its own clock, and may tell that one:
    /// a node whose clock is wrong would refresh the token too late, or take it for a dead one.
    fn living(
        &self,
        token: AccessToken,
        now: UnixSeconds,
        googles: Option<UnixSeconds>,
    ) -> Result<AccessToken, ExchangeError> {
        let left = token.expires_at.saturating_sub(googles.unwrap_or(now));
        if left > 0 {
            return Ok(AccessToken { expires_at: now.saturating_add(left), ..token });
        }
        let by = if googles.is_some() { Whose::Googles } else { Whose::Nodes };
        Err(self.error(Problem::Expired { ago: left.saturating_neg(), by }))
    }
}

fn missing(field: &str) -> Problem {
    Problem::Malformed(format!("the response has no {field}"))
}

/// Parses the JSON object of a successful response.
fn object(response: &Response, sent: &Secret) -> Result<serde_json::Map<String, serde_json::Value>, Problem> {
    if response.status != 200 {
        return Err(Problem::Refused(Box::new(Refusal::of(response, sent))));
    }
    // Drop the parser's message, because it can quote the token.
    serde_json::from_slice(response.body.expose()).map_err(|_| {
        Problem::Malformed(format!(
            "the response is not JSON (type {}, {} bytes)",
            if response.content_type.is_empty() { "not given".to_owned() } else { clip(&response.content_type, 60) },
            response.body.expose().len()
        ))
    })
}

/// Extracts a token from a response. It must be visible ASCII of at most [`LONGEST_TOKEN`] bytes, so that it is safe in
/// a header and in an environment variable.
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
