//! Plain requests and responses, the trait [`Transport`], and the one that speaks HTTP: ureq, over connections and TLS
//! of its own.
//!
//! The process's environment has no influence: no proxy variable is read and no certificate variable. Redirects are not
//! followed, bodies are capped, and each call has a time limit that includes the look-up of the name.
#![forbid(unsafe_code)]

mod connections;
mod tls;

use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::unversioned::resolver::DefaultResolver;
use zeroize::Zeroizing;

use crate::words::google::Endpoint;
use crate::words::names::clip;
use crate::words::secret::Secret;
use crate::world::fs::{self, FileError};
use connections::Connections;

/// Google's answers are short; tokens are at most 12 KiB.
const LONGEST_BODY: u64 = 64 << 10;
const LONGEST_HEADERS: usize = 32 << 10;
/// Where the distributions keep the system's certificate authorities (Debian, Red Hat, SUSE, Alpine).
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A POST request.
#[derive(Debug)]
pub struct Request {
    /// Where to.
    pub endpoint: Endpoint,
    /// The bearer token, if there is one.
    pub bearer: Option<Secret>,
    /// The body's type.
    pub content_type: &'static str,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Secret,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The body's type, empty if the server named none.
    pub content_type: String,
    /// Seconds after which the server wishes to be asked again, by its header Retry-After.
    pub retry_after: Option<u64>,
    /// The body; it can hold a token.
    pub body: Body,
}

/// A response's body: bytes that are wiped when dropped and not shown by `Debug`.
pub struct Body(Zeroizing<Vec<u8>>);

impl Body {
    /// Takes the bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

/// Why there was no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportError {
    /// The host's name has no address.
    Resolve,
    /// No connection came about, or it broke.
    Connection(String),
    /// The time was over.
    Timeout,
    /// The server's certificate was not accepted, or TLS failed otherwise.
    Tls(String),
    /// The proxy refused.
    Proxy(String),
    /// The answer was cut off or was no HTTP.
    Protocol(String),
    /// The answer was longer than 64 KiB.
    TooLong,
}

impl TransportError {
    /// Whether trying again may help: what a restarting server or a busy network does.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Resolve | Self::Connection(_) | Self::Timeout | Self::Protocol(_) | Self::Proxy(_))
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve => f.write_str("its name cannot be resolved"),
            Self::Connection(text) => write!(f, "no connection: {text}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Tls(text) => write!(f, "TLS: {text}"),
            Self::Proxy(text) => write!(f, "the proxy refused: {text}"),
            Self::Protocol(text) => write!(f, "broken answer: {text}"),
            Self::TooLong => write!(f, "its answer is longer than {LONGEST_BODY} bytes"),
        }
    }
}

impl std::error::Error for TransportError {}

/// Sends a request and brings the answer.
pub trait Transport {
    /// Sends `request` and waits at most `limit` for the whole answer.
    ///
    /// # Errors
    /// When there is no answer. An answer with an error status is an answer.
    fn send(&self, request: &Request, limit: Duration) -> Result<Response, TransportError>;

    /// Begins to open a connection to the server of an endpoint that is asked next, and returns at once. A failure is
    /// nobody's concern: the request opens its own connection then. Takes at most `limit`.
    fn open_ahead(&self, _endpoint: &Endpoint, _limit: Duration) {}
}

/// Why no client could be made.
#[derive(Debug)]
pub enum ClientError {
    /// The certificate file cannot be read.
    File(FileError),
    /// It holds no certificate.
    NoCertificates(PathBuf),
    /// None of the system's usual files is there.
    NoSystemCertificates,
    /// TLS cannot be had at all.
    Tls(rustls::Error),
    /// The proxy's URL is not valid.
    Proxy(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "ca_certificates: {error}"),
            Self::NoCertificates(path) => write!(f, "ca_certificates: {}: no certificate in it", path.display()),
            Self::NoSystemCertificates => {
                f.write_str("the system has no certificate store; install ca-certificates or set ca_certificates")
            }
            Self::Tls(problem) => write!(f, "TLS: {problem}"),
            Self::Proxy(problem) => write!(f, "proxy: {problem}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// What clients share that are made one after the other: the authorities, parsed, and TLS sessions that the next client
/// resumes. Connections are not kept, so that a process that waits for half an hour has none open.
#[derive(Default)]
pub struct Sessions(Mutex<Option<Trust>>);

/// A TLS configuration, and what it was made of.
struct Trust {
    pem: (usize, u64),
    tls: Arc<rustls::ClientConfig>,
}

impl Sessions {
    /// No sessions yet.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Makes a client that trusts the authorities of a PEM file, or else the system's, and uses a proxy if one is
    /// given. It resumes sessions of earlier clients, as long as the authorities are the same: nobody checks the
    /// server's certificate again then.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn client(&self, ca_certificates: Option<&Path>, proxy: Option<&str>) -> Result<Client, ClientError> {
        let proxy = match proxy {
            Some(url) => Some(ureq::Proxy::new(url).map_err(|e| ClientError::Proxy(e.to_string()))?),
            None => None,
        };
        Ok(Client::over(self.tls(ca_certificates)?, proxy))
    }

    fn tls(&self, ca_certificates: Option<&Path>) -> Result<Arc<rustls::ClientConfig>, ClientError> {
        let (path, content) = certificates(ca_certificates)?;
        // The file is root's, so nobody seeks another one of the same hash.
        let pem = (content.len(), BuildHasherDefault::<DefaultHasher>::default().hash_one(&content));
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trust) = kept.as_ref().filter(|trust| trust.pem == pem) {
            return Ok(Arc::clone(&trust.tls));
        }
        let tls = tls::config(&content).map_err(ClientError::Tls)?.ok_or(ClientError::NoCertificates(path))?;
        Ok(Arc::clone(&kept.insert(Trust { pem, tls: Arc::new(tls) }).tls))
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sessions")
    }
}

/// The HTTP client of one exchange.
pub struct Client {
    agent: Agent,
    connections: Connections,
}

impl Client {
    /// Makes a client as [`Sessions::client`] does, which resumes nothing.
    ///
    /// # Errors
    /// When the certificates cannot be read.
    pub fn new(ca_certificates: Option<&Path>, proxy: Option<&str>) -> Result<Self, ClientError> {
        Sessions::new().client(ca_certificates, proxy)
    }

    fn over(tls: Arc<rustls::ClientConfig>, proxy: Option<ureq::Proxy>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::Never)
            .proxy(proxy)
            .user_agent(concat!("gcp-wif/", env!("CARGO_PKG_VERSION")))
            .max_response_header_size(LONGEST_HEADERS)
            .build();
        let connections = Connections::new(tls);
        let agent = Agent::with_parts(config, connections.clone(), DefaultResolver::default());
        Self { agent, connections }
    }
}

impl Client {
    /// The time at an endpoint's server, by the date of its answer, whatever the answer is.
    pub fn time_at(&self, endpoint: &Endpoint, limit: Duration) -> Option<OffsetDateTime> {
        let call = self.agent.get(endpoint.as_str()).config().timeout_global(Some(limit)).build();
        let response = call.call().ok()?;
        OffsetDateTime::parse(response.headers().get("date")?.to_str().ok()?, &Rfc2822).ok()
    }

    /// Fetches what is at a URL: its status, the challenge of its header WWW-Authenticate, and the body.
    ///
    /// # Errors
    /// When there is no answer. An answer with an error status is an answer.
    pub fn get(
        &self,
        endpoint: &Endpoint,
        authorization: Option<&Secret>,
        limit: Duration,
    ) -> Result<(u16, Option<String>, Body), TransportError> {
        let mut call = self.agent.get(endpoint.as_str()).config().timeout_global(Some(limit)).build();
        if let Some(value) = authorization {
            call = call.header("Authorization", value.expose());
        }
        let mut response = call.header("Accept", "*/*").call().map_err(transport_error)?;
        let challenge = response.headers().get("www-authenticate").and_then(|value| value.to_str().ok());
        let (challenge, status) = (challenge.map(str::to_owned), response.status().as_u16());
        let body = response.body_mut().with_config().limit(LONGEST_BODY).read_to_vec().map_err(transport_error)?;
        Ok((status, challenge, Body::new(body)))
    }
}

impl Transport for Client {
    fn send(&self, request: &Request, limit: Duration) -> Result<Response, TransportError> {
        let mut call = self
            .agent
            .post(request.endpoint.as_str())
            .config()
            .timeout_global(Some(limit))
            .build()
            .header("Content-Type", request.content_type)
            .header("Accept", "application/json");
        for (name, value) in &request.headers {
            call = call.header(*name, value);
        }
        if let Some(bearer) = &request.bearer {
            call = call.header("Authorization", Zeroizing::new(format!("Bearer {}", bearer.expose())).as_str());
        }
        let mut response = call.send(request.body.expose()).map_err(transport_error)?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (content_type, retry_after) = (header("content-type").unwrap_or_default(), header("retry-after"));
        let retry_after = retry_after.and_then(|text| retry_after_seconds(&text, OffsetDateTime::now_utc()));
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(LONGEST_BODY).read_to_vec().map_err(transport_error)?;
        Ok(Response { status, content_type, retry_after, body: Body::new(body) })
    }

    fn open_ahead(&self, endpoint: &Endpoint, limit: Duration) {
        if let Ok(uri) = endpoint.as_str().parse() {
            self.connections.open_ahead(self.agent.config(), uri, limit);
        }
    }
}

/// The header Retry-After: seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after_seconds(text: &str, now: OffsetDateTime) -> Option<u64> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(seconds);
    }
    let date = OffsetDateTime::parse(text.trim(), &Rfc2822).ok()?;
    u64::try_from((date - now).whole_seconds()).ok().or(Some(0))
}

/// Checks a proxy's URL.
pub(crate) fn check_proxy(url: &str) -> Result<(), String> {
    let refused = || "not a proxy's URL (http://HOST:PORT)".to_owned();
    if !url.starts_with("http://") {
        return Err(refused());
    }
    ureq::Proxy::new(url).map(drop).map_err(|_| refused())
}

/// The PEM file with the authorities, and its content.
fn certificates(path: Option<&Path>) -> Result<(PathBuf, Vec<u8>), ClientError> {
    match path {
        Some(path) => Ok((path.to_owned(), fs::read_trusted(path).map_err(ClientError::File)?)),
        None => SYSTEM_CERTIFICATES
            .iter()
            .map(Path::new)
            .find_map(|path| Some((path.to_owned(), fs::read_trusted(path).ok()?)))
            .ok_or(ClientError::NoSystemCertificates),
    }
}

fn transport_error(error: ureq::Error) -> TransportError {
    match error {
        ureq::Error::HostNotFound => TransportError::Resolve,
        ureq::Error::Timeout(_) => TransportError::Timeout,
        ureq::Error::BodyExceedsLimit(_) => TransportError::TooLong,
        ureq::Error::Tls(text) => TransportError::Tls(text.to_owned()),
        ureq::Error::Rustls(error) => TransportError::Tls(clip(&error.to_string(), 200)),
        ureq::Error::ConnectProxyFailed(text) => TransportError::Proxy(clip(&text, 200)),
        ureq::Error::Io(error) => io_error(&error),
        other => TransportError::Protocol(clip(&other.to_string(), 200)),
    }
}

fn io_error(error: &io::Error) -> TransportError {
    if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return TransportError::Tls(clip(&tls.to_string(), 200));
    }
    match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => TransportError::Timeout,
        io::ErrorKind::ConnectionRefused => TransportError::Connection("connection refused".to_owned()),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            TransportError::Connection("it was reset".to_owned())
        }
        io::ErrorKind::UnexpectedEof => TransportError::Protocol("it ends too early".to_owned()),
        _ if error.to_string().contains("lookup address") => TransportError::Resolve,
        _ => TransportError::Connection(clip(&error.to_string(), 200)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = OffsetDateTime::from_unix_timestamp(784_111_770).unwrap();
        assert_eq!(retry_after_seconds("7", now), Some(7));
        assert_eq!(retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(7));
        assert_eq!(retry_after_seconds("Sun, 06 Nov 1994 08:49:00 GMT", now), Some(0));
        assert_eq!(retry_after_seconds("soon", now), None);
    }
}
