//! Opens connections, either for a request or ahead of it.
//!
//! ```text
//! a request ──► ureq's pool ──► connect() ──┬─ one was opened ahead, or is being opened ──► that one
//!                                           └─ none, or it failed ──► proxy? ─► TCP ─► TLS?
//! ```
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, Scheme};
use rustls::ClientConfig;
use ureq::Error;
use ureq::config::Config;
use ureq::unversioned::resolver::{DefaultResolver, Resolver};
use ureq::unversioned::transport::{
    ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport, time,
};

use super::tls::{self, remaining};

/// Enough for a TLS handshake; the default is four times as much.
const STACK: usize = 512 << 10;

/// The connector of one client.
#[derive(Clone)]
pub(super) struct Connections {
    tls: Arc<ClientConfig>,
    ahead: Arc<Mutex<Option<Ahead>>>,
}

/// A connection that is opened ahead of its request.
struct Ahead {
    server: (Option<Scheme>, Option<Authority>),
    opening: JoinHandle<Result<Box<dyn Transport>, Error>>,
}

impl Connections {
    /// Creates a connector with these authorities and sessions.
    pub(super) fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls, ahead: Arc::default() }
    }

    /// Opens a connection to a server in a new thread, within `limit`. The first request to that server waits for the
    /// thread and uses the connection, so `limit` must not exceed the time limit of that request.
    pub(super) fn open_ahead(&self, config: &Config, uri: Uri, limit: Duration) {
        let server = server(&uri);
        let (this, config) = (self.clone(), config.clone());
        let work = move || this.open_now(&config, &uri, limit);
        // If no thread can be started, the request opens the connection itself.
        if let Ok(opening) = thread::Builder::new().name("gcp-wif-ahead".to_owned()).stack_size(STACK).spawn(work) {
            *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some(Ahead { server, opening });
        }
    }

    /// Connects in the same way as ureq does for a request.
    fn open_now(&self, config: &Config, uri: &Uri, limit: Duration) -> Result<Box<dyn Transport>, Error> {
        let this = self.clone();
        let resolver = DefaultResolver::default();
        let mut details = ConnectionDetails {
            uri,
            addrs: resolver.empty(),
            config,
            request_level: false,
            resolver: &resolver,
            now: time::Instant::now(),
            timeout: NextTimeout { after: limit.into(), ..NextTimeout::default() },
            current_time: Arc::new(time::Instant::now),
            run_connector: Arc::new(move |details| this.open(details)),
            register_shutdown: Arc::new(|_| Ok(())),
        };
        // A proxy resolves the name itself.
        if config.proxy().is_none() {
            details.addrs = resolver.resolve(uri, config, details.timeout)?;
        }
        self.open(&details)
    }

    fn open(&self, details: &ConnectionDetails<'_>) -> Result<Box<dyn Transport>, Error> {
        let tunnel = ConnectProxyConnector::default().connect(details, None::<()>)?;
        let details = in_what_remains(details);
        let transport = TcpConnector::default().connect(&details, tunnel)?.ok_or(Error::ConnectionFailed)?;
        if details.needs_tls() {
            Ok(Box::new(tls::connect(&self.tls, &details, Box::new(transport))?))
        } else {
            Ok(Box::new(transport))
        }
    }

    /// Waits for the thread that opens a connection to this server ahead, if there is one, and returns the connection
    /// if it is still open.
    fn take(&self, uri: &Uri) -> Option<Box<dyn Transport>> {
        let ahead =
            self.ahead.lock().unwrap_or_else(PoisonError::into_inner).take_if(|one| one.server == server(uri))?;
        // Ignore an error: the request connects again and reports its own.
        let mut transport = ahead.opening.join().ok()?.ok()?;
        transport.is_open().then_some(transport)
    }
}

impl Connector<()> for Connections {
    type Out = Box<dyn Transport>;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        if let Some(transport) = self.take(details.uri) {
            return Ok(Some(transport));
        }
        let details = in_what_remains(details);
        if details.timeout.after.is_zero() {
            return Err(Error::Timeout(details.timeout.reason));
        }
        self.open(&details).map(Some)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

/// Returns the key by which ureq's pool distinguishes servers.
fn server(uri: &Uri) -> (Option<Scheme>, Option<Authority>) {
    (uri.scheme().cloned(), uri.authority().cloned())
}

/// Returns the same details with the remaining time as timeout: ureq subtracts the elapsed time only once.
fn in_what_remains<'a>(details: &ConnectionDetails<'a>) -> ConnectionDetails<'a> {
    ConnectionDetails {
        uri: details.uri,
        addrs: details.addrs.clone(),
        config: details.config,
        request_level: details.request_level,
        resolver: details.resolver,
        now: (details.current_time)(),
        timeout: remaining(details),
        current_time: Arc::clone(&details.current_time),
        run_connector: Arc::clone(&details.run_connector),
        register_shutdown: Arc::clone(&details.register_shutdown),
    }
}
