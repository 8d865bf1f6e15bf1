//! Requests and responses as plain values, the trait [`Transport`], and its HTTP implementation [`Client`]: ureq, with
//! a connector that opens connections ahead and resumes TLS sessions.
//!
//! The environment has no influence: neither proxy nor certificate variables are read. Redirects are not followed, the
//! size of bodies is limited, and each call has a time limit that includes name resolution.
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
use crate::words::time::UnixSeconds;
use crate::world::fs::{self, FileError};
use connections::Connections;

/// Google's responses are short; tokens have at most 12 KiB.
const LONGEST_BODY: u64 = 64 << 10;
const LONGEST_HEADERS: usize = 32 << 10;
/// Paths of the system's certificate authorities on Debian, Red Hat, SUSE and Alpine.
const SYSTEM_CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A POST request.
#[derive(Debug)]
pub struct Request {
    /// The URL.
    pub endpoint: Endpoint,
    /// The bearer token for the Authorization header.
    pub bearer: Option<Secret>,
    /// The content type of the body.
    pub content_type: &'static str,
    /// Additional headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Secret,
}

/// A response with any status.
#[derive(Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The content type of the body; empty if the server sent none.
    pub content_type: String,
    /// The Retry-After header, in seconds.
    pub retry_after: Option<u64>,
    /// The Date header: the server's time.
    pub date: Option<UnixSeconds>,
    /// The body, which can contain a token.
    pub body: Body,
}

/// The body of a response. The bytes are wiped on drop, and `Debug` does not show them.
pub struct Body(Zeroizing<Vec<u8>>);

impl Body {
    /// Takes ownership of the bytes.
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

/// Why a request got no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportError {
    /// The host name does not resolve.
    Resolve,
    /// The connection failed or broke.
    Connection(String),
    /// The time limit passed.
    Timeout,
    /// The server's certificate was not accepted, or TLS failed in another way.
    Tls(String),
    /// The proxy refused the request.
    Proxy(String),
    /// The response was truncated or is not HTTP.
    Protocol(String),
    /// The response is longer than 64 KiB.
    TooLong,
}

impl TransportError {
    /// Returns whether a retry can succeed, as after a server restart or on a busy network.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Resolve | Self::Connection(_) | Self::Timeout | Self::Protocol(_) | Self::Proxy(_))
    }
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve => f.write_str("the host name cannot be resolved"),
            Self::Connection(text) => write!(f, "no connection: {text}"),
            Self::Timeout => f.write_str("no response in time"),
            Self::Tls(text) => write!(f, "TLS: {text}"),
            Self::Proxy(text) => write!(f, "the proxy refused: {text}"),
            Self::Protocol(text) => write!(f, "invalid response: {text}"),
            Self::TooLong => write!(f, "the response is longer than {LONGEST_BODY} bytes"),
        }
    }
}

impl std::error::Error for TransportError {}

/// Sends requests and returns responses.
pub trait Transport {
    /// Sends `request` and waits at most `limit` for the complete response.
    ///
    /// # Errors
    /// When there is no response. A response with an error status is not an error here.
    fn send(&self, request: &Request, limit: Duration) -> Result<Response, TransportError>;

    /// Starts to open a connection for the next request to `endpoint`, and returns at once. Opening takes at most
    /// `limit`. If it fails, the request opens a connection itself.
    fn open_ahead(&self, _endpoint: &Endpoint, _limit: Duration) {}
}

/// Why a client cannot be created.
#[derive(Debug)]
pub enum ClientError {
    /// The certificate file cannot be read.
    File(FileError),
    /// The certificate file contains no certificate.
    NoCertificates(PathBuf),
    /// None of the system's usual certificate files exists.
    NoSystemCertificates,
    /// The TLS configuration is invalid.
    Tls(rustls::Error),
    /// The proxy URL is invalid.
    Proxy(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => write!(f, "ca_certificates: {error}"),
            Self::NoCertificates(path) => write!(f, "ca_certificates: {}: contains no certificate", path.display()),
            Self::NoSystemCertificates => {
                f.write_str("the system has no certificate store; install ca-certificates or set ca_certificates")
            }
            Self::Tls(problem) => write!(f, "TLS: {problem}"),
            Self::Proxy(problem) => write!(f, "proxy: {problem}"),
        }
    }
}

impl std::error::Error for ClientError {}

/// State that successive clients share: the parsed certificate authorities, and TLS sessions to resume. Connections are
/// not shared, so a process that waits for half an hour has none open.
#[derive(Default)]
pub struct Sessions(Mutex<Option<Trust>>);

/// A TLS configuration, and the length and hash of its PEM file.
struct Trust {
    pem: (usize, u64),
    tls: Arc<rustls::ClientConfig>,
}

impl Sessions {
    /// Creates an empty set of sessions.
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Creates a client that trusts the authorities of a PEM file, or of the system if there is none, and uses the
    /// proxy if one is given. The client resumes sessions of earlier clients only while the authorities are unchanged,
    /// because a resumed session does not check the server's certificate again.
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
        // The hash need not be cryptographic: the file belongs to root, so nobody else chooses its content.
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
    /// Creates a client like [`Sessions::client`], but without sessions to resume.
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
    /// Returns the Date header of an endpoint's response, whatever its status is.
    pub fn time_at(&self, endpoint: &Endpoint, limit: Duration) -> Option<OffsetDateTime> {
        let call = self.agent.get(endpoint.as_str()).config().timeout_global(Some(limit)).build();
        let response = call.call().ok()?;
        date(response.headers().get("date")?.to_str().ok()?)
    }

    /// Sends a GET request. Returns the status, the WWW-Authenticate header and the body.
    ///
    /// # Errors
    /// When there is no response. A response with an error status is not an error here.
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
        let date = header("date").and_then(|text| date(&text)).map(OffsetDateTime::unix_timestamp);
        let retry_after =
            retry_after.and_then(|text| retry_after_seconds(&text, OffsetDateTime::now_utc().unix_timestamp()));
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(LONGEST_BODY).read_to_vec().map_err(transport_error)?;
        Ok(Response { status, content_type, retry_after, date, body: Body::new(body) })
    }

    fn open_ahead(&self, endpoint: &Endpoint, limit: Duration) {
        if let Ok(uri) = endpoint.as_str().parse() {
            self.connections.open_ahead(self.agent.config(), uri, limit);
        }
    }
}

/// Parses the Retry-After header, which has seconds or a date (RFC 9110 section 10.2.3). Returns seconds from `now`.
pub fn retry_after_seconds(text: &str, now: UnixSeconds) -> Option<u64> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(seconds);
    }
    u64::try_from(date(text)?.unix_timestamp().saturating_sub(now)).ok().or(Some(0))
}

/// Parses an HTTP date.
fn date(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text.trim(), &Rfc2822).ok()
}

/// Checks a proxy URL.
pub(crate) fn check_proxy(url: &str) -> Result<(), String> {
    let refused = || "not a proxy's URL (http://HOST:PORT)".to_owned();
    if !url.starts_with("http://") {
        return Err(refused());
    }
    ureq::Proxy::new(url).map(drop).map_err(|_| refused())
}

/// Returns the path and the content of the PEM file with the authorities.
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
        io::ErrorKind::UnexpectedEof => TransportError::Protocol("it ends prematurely".to_owned()),
        _ if error.to_string().contains("lookup address") => TransportError::Resolve,
        _ => TransportError::Connection(clip(&error.to_string(), 200)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = 784_111_770;
        assert_eq!(retry_after_seconds("7", now), Some(7));
        assert_eq!(retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(7));
        assert_eq!(retry_after_seconds("Sun, 06 Nov 1994 08:49:00 GMT", now), Some(0));
        assert_eq!(retry_after_seconds("soon", now), None);
    }
}
