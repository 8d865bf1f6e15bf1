//! Answers that are wrong on purpose.

use std::time::Duration;

use serde_json::Value;

use super::errors;
use super::server::Answer;
use super::wire::Response;

/// The parts of Google that a request can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/token`.
    Sts,
    /// `POST /v1/introspect`.
    Introspect,
    /// `:generateAccessToken`.
    Impersonation,
    /// `:generateIdToken`.
    IdToken,
    Storage,
    /// `/token`, the registry's token service.
    Registry,
    /// Everything else.
    Unknown,
}

/// Where Cloud Storage is. The XML API is the root of storage.googleapis.com, and a folder for who calls another host.
const STORAGE: [&str; 4] = ["/storage/", "/download/storage/", "/upload/storage/", "/xml/"];

impl Endpoint {
    pub fn of(path: &str) -> Self {
        match path {
            "/v1/token" => Self::Sts,
            "/v1/introspect" => Self::Introspect,
            "/token" => Self::Registry,
            _ if path.ends_with(":generateAccessToken") => Self::Impersonation,
            _ if path.ends_with(":generateIdToken") => Self::IdToken,
            _ if STORAGE.iter().any(|start| path.starts_with(start)) => Self::Storage,
            _ => Self::Unknown,
        }
    }
}

/// How often a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    Once,
    N(usize),
    Forever,
}

/// The style of an error's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// `{"error": "...", "error_description": "..."}`
    OAuth,
    /// `google.rpc.Status`
    Status,
    /// The front end's page.
    Html,
    Empty,
    /// STS's words when the project's quota is used up.
    Throttled,
    /// STS's words when it cannot fetch the issuer's keys.
    IssuerUnreachable,
}

/// What happens instead of the right answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An error; `retry_after` is the header's text, seconds or a date.
    Status { code: u16, body: Body, retry_after: Option<String> },
    /// The right answer, but late.
    Delay(Duration),
    /// The right answer as soon as clients have opened this many connections in total, including TLS.
    AfterConnections { count: usize, closes_others: Option<Duration> },
    /// The connection is closed without an answer.
    Hangup,
    /// The first half of the right answer with the `Content-Length` of the whole one, then the end.
    Truncated,
    /// A body that goes on until the client leaves, chunked or with a length of 1 GiB.
    Endless { chunked: bool },
    /// The right answer, one byte at a time.
    Drip(Duration),
    /// A redirect with this status to another address. 307 makes clients that follow redirects send everything again.
    Redirect(u16, String),
    /// Any answer.
    Answer { status: u16, content_type: String, body: Vec<u8> },
    /// The right answer with its JSON changed: other fields, other types, other times. Its tokens
    /// are real and recorded.
    Edit(fn(&mut Value)),
    /// A refusal that repeats the token of the request.
    Repeat,
    /// Bytes that are not HTTP.
    Garbage,
}

impl Fault {
    /// An error in the style of `google.rpc.Status`.
    pub fn status(code: u16) -> Self {
        Self::Status { code, body: Body::Status, retry_after: None }
    }

    pub fn status_with(code: u16, body: Body) -> Self {
        Self::Status { code, body, retry_after: None }
    }

    /// 429 with STS's words.
    pub fn throttled(retry_after: Option<&str>) -> Self {
        let retry_after = retry_after.map(str::to_owned);
        Self::Status { code: 429, body: Body::Throttled, retry_after }
    }

    /// The right answer once this many connections are open.
    pub fn after_connections(count: usize) -> Self {
        Self::AfterConnections { count, closes_others: None }
    }

    /// The same, and all connections but the answer's own are closed so much earlier.
    pub fn closing_others_after_connections(count: usize, earlier: Duration) -> Self {
        Self::AfterConnections { count, closes_others: Some(earlier) }
    }

    /// 200 with this body as JSON.
    pub fn answer(body: impl Into<Vec<u8>>) -> Self {
        Self::answer_as("application/json; charset=UTF-8", body)
    }

    /// 200 with this body under this content type.
    pub fn answer_as(content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Answer { status: 200, content_type: content_type.to_owned(), body: body.into() }
    }

    /// Whether the request is still handled, and only its answer changed.
    pub fn needs_right_answer(&self) -> bool {
        matches!(self, Self::Delay(_) | Self::AfterConnections { .. } | Self::Truncated | Self::Drip(_) | Self::Edit(_))
    }

    /// The bytes to send. `right` is the right answer, if the fault needs it.
    pub fn apply(self, right: Response) -> Answer {
        match self {
            Self::Status { code, body, retry_after } => {
                let response = error(code, body);
                Answer::Response(match retry_after {
                    Some(value) => response.header("Retry-After", &value),
                    None => response,
                })
            }
            Self::Delay(time) => Answer::Late(time, right),
            Self::AfterConnections { count, closes_others } => {
                Answer::Afterwards { connections: count, closes_others, response: right }
            }
            Self::Hangup => Answer::Nothing,
            Self::Truncated => Answer::Truncated(right),
            Self::Endless { chunked } => Answer::Endless { chunked },
            Self::Drip(interval) => Answer::Drip(interval, right),
            Self::Redirect(code, to) => {
                let page = errors::html(code, "Moved", "The document has moved.");
                Answer::Response(page.header("Location", &to))
            }
            Self::Answer { status, content_type, body } => Answer::Response(Response::new(status, &content_type, body)),
            Self::Edit(edit) => Answer::Response(edited(right, edit)),
            Self::Repeat => Answer::Response(right),
            Self::Garbage => Answer::Garbage,
        }
    }
}

fn edited(mut right: Response, edit: fn(&mut Value)) -> Response {
    let mut body = serde_json::from_slice(&right.body).expect("an answer in JSON to edit");
    edit(&mut body);
    right.body = body.to_string().into_bytes();
    right
}

fn error(code: u16, body: Body) -> Response {
    let (oauth, name, message) = match code {
        400 => ("invalid_request", "INVALID_ARGUMENT", "Request contains an invalid argument."),
        401 => ("invalid_client", "UNAUTHENTICATED", "The request does not have valid authentication credentials."),
        403 => ("access_denied", "PERMISSION_DENIED", "The caller does not have permission"),
        404 => ("invalid_target", "NOT_FOUND", "Requested entity was not found."),
        408 => ("temporarily_unavailable", "DEADLINE_EXCEEDED", "The request timed out."),
        429 => ("quota_exceeded", "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        503 => ("internal_failure", "UNAVAILABLE", "The service is currently unavailable."),
        504 => ("internal_failure", "DEADLINE_EXCEEDED", "Deadline expired before operation could complete."),
        _ => ("internal_failure", "INTERNAL", "Internal error encountered."),
    };
    match body {
        Body::OAuth => errors::oauth_with(code, oauth, message),
        Body::Status => errors::status(code, name, message, Value::Null),
        Body::Html => errors::html(code, "Server Error", "The server encountered an error."),
        Body::Empty => Response::new(code, "text/plain", Vec::new()),
        Body::Throttled => errors::throttled(code),
        Body::IssuerUnreachable => errors::no_key_of_issuer(),
    }
}

/// The faults still to come, in the order of their injection.
#[derive(Default)]
pub struct Faults(Vec<(Endpoint, Fault, Times)>);

impl Faults {
    pub fn add(&mut self, endpoint: Endpoint, fault: Fault, times: Times) {
        if times != Times::N(0) {
            self.0.push((endpoint, fault, times));
        }
    }

    pub fn take(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let index = self.0.iter().position(|(own, _, _)| *own == endpoint)?;
        let (_, fault, times) = &mut self.0[index];
        let fault = fault.clone();
        match times {
            Times::Forever => {}
            Times::N(left) if *left > 1 => *left -= 1,
            Times::N(_) | Times::Once => drop(self.0.remove(index)),
        }
        Some(fault)
    }
}
