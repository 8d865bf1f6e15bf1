//! TLS connections.
//!
//! ureq's own connector creates a new configuration for each request that has a time limit, so it would parse the
//! authorities each time and resume no session.
#![forbid(unsafe_code)]

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::SigningKey;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, LazyBuffers, NextTimeout, Transport, TransportAdapter, time,
};

/// The number of sessions to keep: eight tickets for each of four servers. An exchange uses fewer servers.
const SESSIONS: usize = 32;
/// A connection counts as open for this long after the handshake, because no server closes it so soon and because the
/// check takes time, see [`Tls::takes_tickets`].
const YOUNG: Duration = Duration::from_millis(200);
/// How long the check of an unused connection waits for input. The kernel rounds this up to its timer tick, which can
/// be ten milliseconds.
const LOOK: Duration = Duration::from_millis(1);

/// Creates a configuration that trusts the authorities in a PEM file. Returns `None` if the file contains none.
///
/// # Errors
/// When the TLS provider supports no version of TLS.
pub(super) fn config(pem: &[u8]) -> Result<Option<ClientConfig>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Ok(None);
    }
    let provider = Arc::new(CryptoProvider { key_provider: &NoKeys, ..rustls::crypto::ring::default_provider() });
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Some(config))
}

/// A key provider without keys: clients show no certificate, so the linker can leave the signing code out of the
/// plugin.
#[derive(Debug)]
struct NoKeys;

impl KeyProvider for NoKeys {
    fn load_private_key(&self, _: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General("no certificate is shown".to_owned()))
    }
}

/// Performs the TLS handshake over `transport`.
///
/// # Errors
/// When the server's certificate is not valid for its name, the connection breaks, or the time limit passes.
pub(super) fn connect(
    config: &Arc<ClientConfig>,
    details: &ConnectionDetails<'_>,
    transport: Box<dyn Transport>,
) -> Result<Tls, ureq::Error> {
    let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host).map_err(|_| ureq::Error::Tls("its host is no DNS name"))?.to_owned();
    let mut session = ClientConnection::new(Arc::clone(config), name)?;
    let mut socket = TransportAdapter::new(transport, Arc::clone(&details.current_time));
    socket.set_timeout(remaining(details));
    session.complete_io(&mut socket)?;
    let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
    Ok(Tls { buffers, stream: StreamOwned::new(session, socket), unused_since: Some(Instant::now()) })
}

/// Returns the remaining time to connect.
pub(super) fn remaining(details: &ConnectionDetails<'_>) -> NextTimeout {
    let passed = match ((details.current_time)(), details.now) {
        (time::Instant::Exact(now), time::Instant::Exact(then)) => now.saturating_duration_since(then),
        _ => Duration::ZERO,
    };
    let after = match details.timeout.after {
        time::Duration::Exact(limit) => limit.saturating_sub(passed).into(),
        never @ time::Duration::NotHappening => never,
    };
    NextTimeout { after, ..details.timeout }
}

/// A TLS connection.
pub(super) struct Tls {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    /// When the handshake ended, if nothing has been sent since.
    unused_since: Option<Instant>,
}

impl Tls {
    /// Reads the session tickets that a TLS 1.3 server sends after the handshake. Returns whether the server has sent
    /// nothing else and the connection is still open.
    fn takes_tickets(&mut self) -> bool {
        loop {
            self.stream.sock.set_timeout(NextTimeout { after: LOOK.into(), ..NextTimeout::default() });
            match self.stream.conn.read_tls(&mut self.stream.sock) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return matches!(ureq::Error::from(error), ureq::Error::Timeout(_)),
            }
            match self.stream.conn.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                _ => return false,
            }
        }
    }
}

impl Transport for Tls {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.unused_since = None;
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        match self.unused_since {
            Some(since) => since.elapsed() < YOUNG || self.takes_tickets(),
            None => self.stream.sock.get_mut().is_open(),
        }
    }

    fn is_tls(&self) -> bool {
        true
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("over", &self.stream.sock.inner()).finish_non_exhaustive()
    }
}
