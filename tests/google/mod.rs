//! The embedded Google: the endpoints of Google Cloud that a job's credentials come from and go
//! to, served on 127.0.0.1 over http and https, as strict as the real ones.
//!
//! It verifies what Google verifies (signature, issuer, audience and times of the subject token,
//! bindings of the service account, scopes and expiry of every access token) and refuses in
//! Google's own words. Where those words are on record, the source is named in [`errors`]; the
//! few that are not are marked there as inferred.
//!
//! ```no_run
//! let google = Google::start(Options::default());
//! let volume = ProjectedVolume::new(directory, &google.subject_token(&Claims::default()));
//! let file = google.credential_configuration(&Source::file(volume.token()));
//! google.inject(Endpoint::Sts, Fault::status(503), Times::Once);
//! // ... run what is under test ...
//! assert_eq!(google.requests().len(), 3);
//! for secret in google.tokens() { assert!(!log.contains(&secret)); }
//! ```
//!
//! Every instance has its own ports, keys, issuer, project, pool and state, so tests run in
//! parallel. Dropping it closes its connections and ends its threads.
//!
//! | module | what |
//! |---|---|
//! | [`options`] | what exists: provider, service accounts, buckets |
//! | [`jwt`] | RS256 keys, subject tokens and their claims |
//! | [`sts`], [`iam`], [`storage`], [`registry`] | the endpoints |
//! | [`fault`] | answers that go wrong on purpose |
//! | [`state`] | tokens handed out, requests received, the clock |
//! | [`server`], [`wire`], [`tls`] | connections, HTTP/1.1, TLS |
//! | [`credential_configuration`], [`volume`] | the two files that a site gives to a node |

// Each test binary includes the whole module and uses a part of it.
#![allow(dead_code, unreachable_pub, missing_docs)]
// A test's server may panic at anything unexpected.
#![allow(clippy::expect_used, clippy::indexing_slicing)]

pub mod credential_configuration;
pub mod errors;
pub mod fault;
pub mod iam;
pub mod jwt;
pub mod options;
pub mod registry;
pub mod server;
pub mod state;
pub mod storage;
pub mod sts;
pub mod tls;
pub mod volume;
pub mod wire;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::HandshakeKind;

#[allow(unused_imports)]
pub use self::{
    credential_configuration::{Format, Source},
    fault::{Body, Endpoint, Fault, Times},
    jwt::{Claims, Signer},
    options::{Bucket, Certificate, Options, SERVICE_ACCOUNT, SUBJECT, ServiceAccount},
    state::Recorded,
    volume::ProjectedVolume,
};
use self::{server::Port, state::State, tls::Authority};

/// A running instance.
pub struct Google {
    pub(crate) state: Arc<State>,
    authority: Authority,
    http: SocketAddr,
    https: SocketAddr,
    acceptors: Vec<JoinHandle<()>>,
}

impl Google {
    /// Listens on two ports of 127.0.0.1 that the kernel chooses.
    pub fn start(options: Options) -> Self {
        let authority = Authority::new(options.certificate);
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let (plain, secure) = (listen(), listen());
        let http = plain.local_addr().expect("a bound port");
        let https = secure.local_addr().expect("a bound port");
        let state = Arc::new(State::new(options));
        let acceptors = vec![
            server::accept(plain, Port::Http, Arc::clone(&state)),
            server::accept(secure, Port::Https(authority.server()), Arc::clone(&state)),
        ];
        Self { state, authority, http, https, acceptors }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    /// `https://127.0.0.1:PORT`.
    pub fn https_url(&self) -> String {
        format!("https://{}", self.https)
    }

    /// The root that signed the certificate of the https port, as PEM.
    pub fn ca_certificate(&self) -> &str {
        self.authority.certificate()
    }

    /// The provider's name as a client gives it to STS, `//iam.googleapis.com/projects/...`.
    pub fn audience(&self) -> String {
        self.state.options().audience()
    }

    /// The federated identity of a subject, `principal://iam.googleapis.com/...`.
    pub fn principal(&self, subject: &str) -> String {
        self.state.options().principal(subject)
    }

    /// Mints a subject token, as the kubelet writes it into a projected volume.
    pub fn subject_token(&self, claims: &Claims) -> String {
        let token = claims.mint(&self.state);
        self.state.remember(&token);
        token
    }

    /// Changes what exists, while serving: disable the provider, add a binding, shorten lives.
    pub fn configure(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.state.options());
    }

    /// Sets the difference of Google's clock to this machine's, in seconds (negative: behind).
    pub fn shift_clock(&self, seconds: i64) {
        self.state.shift_clock(seconds);
    }

    /// Injects faults into the next requests to an endpoint. Faults of one endpoint are used in order.
    pub fn inject(&self, endpoint: Endpoint, fault: Fault, times: Times) {
        self.state.inject(endpoint, fault, times);
    }

    /// Forgets the faults that have not happened yet.
    pub fn clear_faults(&self) {
        self.state.clear_faults();
    }

    /// Everything received so far, in order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.state.requests()
    }

    /// The requests to one endpoint.
    pub fn requests_to(&self, endpoint: Endpoint) -> Vec<Recorded> {
        self.requests().into_iter().filter(|request| request.endpoint == endpoint).collect()
    }

    /// Waits until `count` requests have arrived; false if the limit passed first.
    pub fn wait_for_requests(&self, count: usize, limit: Duration) -> bool {
        self.state.wait_for_requests(count, limit)
    }

    /// All connections over which requests can or could arrive: how TLS began; nothing if there is no TLS.
    pub fn connections(&self) -> Vec<Option<HandshakeKind>> {
        self.state.connections()
    }

    /// Waits until clients have closed all connections; false if the limit passed first.
    pub fn wait_until_closed(&self, limit: Duration) -> bool {
        self.state.wait_until_closed(limit)
    }

    /// Every secret ever minted or handed out: subject, federated, access, identity and registry
    /// tokens. None of them may be found in a log.
    pub fn tokens(&self) -> Vec<String> {
        self.state.secrets()
    }

    /// The access tokens of service accounts handed out so far, oldest first.
    pub fn access_tokens(&self) -> Vec<String> {
        self.state.access_tokens()
    }

    /// Invalidates a token at once, as if it had expired.
    pub fn expire(&self, token: &str) {
        self.state.expire(token);
    }

    /// The certificate that docker-registry trusts (`auth.token.rootcertbundle`), as PEM.
    pub fn registry_certificate(&self) -> String {
        registry::root_certificate(&self.state)
    }
}

impl Drop for Google {
    fn drop(&mut self) {
        self.state.stop();
        for address in [self.http, self.https] {
            let _wakes_the_acceptor = TcpStream::connect(address);
        }
        for acceptor in self.acceptors.drain(..) {
            let _ = acceptor.join();
        }
    }
}
