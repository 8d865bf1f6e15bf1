//! What an instance remembers: the tokens it handed out, the requests it received, the faults
//! still to come, and its clock.

use std::collections::HashMap;
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::HandshakeKind;

use super::fault::{Endpoint, Fault, Faults, Times};
use super::jwt::Signer;
use super::options::{Bucket, Options};
use super::storage::Upload;

pub const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";

/// The identity that an access token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A federated token that STS made; the name is `principal://...`.
    Federated { subject: String, principal: String },
    /// An access token of a service account.
    ServiceAccount { email: String },
}

impl Identity {
    /// The name that Google's refusals use.
    pub fn name(&self) -> &str {
        match self {
            Self::Federated { principal, .. } => principal,
            Self::ServiceAccount { email } => email,
        }
    }

    /// Whether a list of emails, subjects or `*` has this identity.
    pub fn is_among(&self, list: &[String]) -> bool {
        let short = match self {
            Self::Federated { subject, .. } => subject,
            Self::ServiceAccount { email } => email,
        };
        list.iter().any(|entry| entry == "*" || entry == short || entry == self.name())
    }
}

/// What an opaque token means.
#[derive(Clone, Debug)]
pub struct AccessToken {
    pub identity: Identity,
    pub scopes: Vec<String>,
    pub issued: i64,
    pub expires: i64,
}

impl AccessToken {
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|own| own == scope)
    }
}

/// One request as it arrived, and its answer.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub endpoint: Endpoint,
    pub secure: bool,
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// The status of the answer; `None` while there is none, and for good after a hang-up.
    pub status: Option<u16>,
    pub time: SystemTime,
}

impl Recorded {
    /// A header's value, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct Memory {
    requests: Vec<Recorded>,
    secrets: Vec<String>,
    tokens: HashMap<String, AccessToken>,
    access_tokens: Vec<String>,
    faults: Faults,
    clock: i64,
    stopping: bool,
    next_connection: u64,
    opened: Vec<Option<HandshakeKind>>,
    connections: HashMap<u64, TcpStream>,
}

/// The shared state of an instance.
pub struct State {
    options: Mutex<Options>,
    memory: Mutex<Memory>,
    changed: Condvar,
    /// Resumable uploads under way, by their session.
    uploads: Mutex<HashMap<String, Upload>>,
    pub issuer_key: Signer,
    google_key: OnceLock<Signer>,
    pub registry_certificate: OnceLock<String>,
}

impl State {
    pub fn new(options: Options) -> Self {
        Self {
            options: Mutex::new(options),
            memory: Mutex::default(),
            changed: Condvar::new(),
            uploads: Mutex::default(),
            issuer_key: Signer::generate(),
            google_key: OnceLock::new(),
            registry_certificate: OnceLock::new(),
        }
    }

    pub fn options(&self) -> MutexGuard<'_, Options> {
        self.options.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub fn uploads(&self) -> MutexGuard<'_, HashMap<String, Upload>> {
        self.uploads.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Changes a bucket that exists.
    pub fn change_bucket<T>(&self, name: &str, change: impl FnOnce(&mut Bucket) -> T) -> Option<T> {
        self.options().buckets.iter_mut().find(|bucket| bucket.name == name).map(change)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The key that signs Google's own JWTs (identity and registry tokens).
    pub fn google_key(&self) -> &Signer {
        self.google_key.get_or_init(Signer::generate)
    }

    /// Google's time, in seconds since 1970.
    pub fn now(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_secs() as i64 + self.memory().clock
    }

    pub fn shift_clock(&self, seconds: i64) {
        self.memory().clock = seconds;
    }

    /// Remembers a secret that logs must not show.
    pub fn remember(&self, secret: &str) {
        self.memory().secrets.push(secret.to_owned());
    }

    /// Hands out an opaque token of about the length of Google's.
    pub fn issue(&self, token: AccessToken) -> String {
        let prefix = match token.identity {
            Identity::Federated { .. } => "ya29.d.",
            Identity::ServiceAccount { .. } => "ya29.c.",
        };
        let mut secret = format!("{prefix}{}", random_text(762));
        let bytes = self.options().token_bytes.unwrap_or(0);
        secret.extend(std::iter::repeat_n('x', bytes.saturating_sub(secret.len())));
        let mut memory = self.memory();
        memory.secrets.push(secret.clone());
        if matches!(token.identity, Identity::ServiceAccount { .. }) {
            memory.access_tokens.push(secret.clone());
        }
        memory.tokens.insert(secret.clone(), token);
        secret
    }

    /// What a token stands for, valid or expired.
    pub fn token(&self, secret: &str) -> Option<AccessToken> {
        self.memory().tokens.get(secret).cloned()
    }

    pub fn expire(&self, secret: &str) {
        if let Some(token) = self.memory().tokens.get_mut(secret) {
            token.expires = 0;
        }
    }

    pub fn secrets(&self) -> Vec<String> {
        self.memory().secrets.clone()
    }

    pub fn access_tokens(&self) -> Vec<String> {
        self.memory().access_tokens.clone()
    }

    /// Records an arrival; the number is for [`State::answered`].
    pub fn arrived(&self, request: Recorded) -> usize {
        let mut memory = self.memory();
        memory.requests.push(request);
        self.changed.notify_all();
        memory.requests.len() - 1
    }

    pub fn answered(&self, number: usize, status: u16) {
        if let Some(request) = self.memory().requests.get_mut(number) {
            request.status = Some(status);
        }
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.memory().requests.clone()
    }

    pub fn wait_for_requests(&self, count: usize, limit: Duration) -> bool {
        self.wait_until(limit, |memory| memory.requests.len() >= count)
    }

    /// Records a connection over which requests can come now.
    pub fn opened(&self, kind: Option<HandshakeKind>) {
        self.memory().opened.push(kind);
        self.changed.notify_all();
    }

    pub fn connections(&self) -> Vec<Option<HandshakeKind>> {
        self.memory().opened.clone()
    }

    pub fn wait_for_connections(&self, count: usize, limit: Duration) -> bool {
        self.wait_until(limit, |memory| memory.opened.len() >= count)
    }

    pub fn wait_until_closed(&self, limit: Duration) -> bool {
        self.wait_until(limit, |memory| memory.connections.is_empty())
    }

    fn wait_until(&self, limit: Duration, is_done: impl Fn(&Memory) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut memory = self.memory();
        while !is_done(&memory) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            memory = match self.changed.wait_timeout(memory, left) {
                Ok((memory, _)) => memory,
                Err(poison) => poison.into_inner().0,
            };
        }
        true
    }

    pub fn inject(&self, endpoint: Endpoint, fault: Fault, times: Times) {
        self.memory().faults.add(endpoint, fault, times);
    }

    pub fn clear_faults(&self) {
        self.memory().faults = Faults::default();
    }

    pub fn take_fault(&self, endpoint: Endpoint) -> Option<Fault> {
        self.memory().faults.take(endpoint)
    }

    /// Waits, unless the instance stops first; true if it is to stop.
    pub fn pause(&self, time: Duration) -> bool {
        self.wait_until(time, |memory| memory.stopping)
    }

    pub fn is_stopping(&self) -> bool {
        self.memory().stopping
    }

    /// Keeps hold of a connection so that [`State::stop`] can close it.
    pub fn connected(&self, stream: &TcpStream) -> u64 {
        let mut memory = self.memory();
        let number = memory.next_connection;
        memory.next_connection += 1;
        if let Ok(stream) = stream.try_clone() {
            memory.connections.insert(number, stream);
        }
        number
    }

    pub fn disconnected(&self, number: u64) {
        if let Some(stream) = self.memory().connections.remove(&number) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    /// Closes all connections but this one.
    pub fn close_others(&self, number: u64) {
        for (_, stream) in self.memory().connections.iter().filter(|(own, _)| **own != number) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub fn stop(&self) {
        let mut memory = self.memory();
        memory.stopping = true;
        for stream in memory.connections.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }
}

/// Random text of base64url characters, four for each three bytes.
pub fn random_text(bytes: usize) -> String {
    let mut buffer = vec![0; bytes];
    SystemRandom::new().fill(&mut buffer).expect("random bytes");
    URL_SAFE_NO_PAD.encode(buffer)
}

/// A random number with this many digits, without a leading zero.
pub fn random_digits(count: usize) -> String {
    let mut buffer = vec![0; count];
    SystemRandom::new().fill(&mut buffer).expect("random bytes");
    let digit = |(index, byte): (usize, u8)| {
        let digit = if index == 0 { 1 + byte % 9 } else { byte % 10 };
        char::from(b'0' + digit)
    };
    buffer.into_iter().enumerate().map(digit).collect()
}
