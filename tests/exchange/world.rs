//! A node's side of an exchange, with a clock that never waits.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::time::Duration;

use gcp_wif_core::exchange::credential_configuration::CredentialConfiguration;
use gcp_wif_core::exchange::run::run;
use gcp_wif_core::exchange::subject_token::SubjectToken;
use gcp_wif_core::exchange::{AccessToken, Exchange, ExchangeError, Wanted};
use gcp_wif_core::words::google::{Identity, Scope};
use gcp_wif_core::words::time::UnixSeconds;
use gcp_wif_core::world::clock::{Clock, SystemClock};
use gcp_wif_core::world::http::Client;

use crate::google::{Claims, Google, Source};

/// Enough time for every exchange that should succeed.
pub const BUDGET: Duration = Duration::from_secs(60);

/// A Google, and what a node knows about it.
pub struct World {
    pub google: Google,
    pub configuration: CredentialConfiguration,
    pub clock: Impatient,
    directory: tempfile::TempDir,
}

impl World {
    /// Whose credential configuration is changed as text.
    pub fn new(google: Google, source: &Source, edit: impl Fn(String) -> String) -> Self {
        let text = edit(google.credential_configuration_text(source));
        let configuration = CredentialConfiguration::parse(text.as_bytes()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), google.ca_certificate()).unwrap();
        Self { google, configuration, clock: Impatient::default(), directory }
    }

    /// A client that trusts this Google.
    pub fn client(&self, proxy: Option<&str>) -> Client {
        Client::new(Some(&self.authorities()), proxy).unwrap()
    }

    /// The PEM file of this Google's authority.
    pub fn authorities(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// One exchange, for the identity of the credential configuration.
    pub fn exchange(&self, client: &Client) -> Result<AccessToken, ExchangeError> {
        let subject_token = self.google.subject_token(&Claims::default());
        let subject_token =
            SubjectToken::parse(subject_token.as_bytes(), &self.configuration.subject_token_format).unwrap();
        let identity = match &self.configuration.impersonation {
            Some(impersonation) => Identity::ServiceAccount(impersonation.service_account.clone()),
            None => Identity::Federated,
        };
        let scopes = [Scope::cloud_platform()];
        let wanted = Wanted { identity: &identity, scopes: &scopes, lifetime: None };
        let mut exchange = Exchange::new(&self.configuration, &subject_token, wanted, "slurm job 1".to_owned());
        run(&mut exchange, client, &self.clock, BUDGET)
    }
}

/// A clock that jumps over pauses.
#[derive(Default)]
pub struct Impatient {
    jumped: Cell<Duration>,
    pub pauses: RefCell<Vec<Duration>>,
}

impl Clock for Impatient {
    fn now(&self) -> UnixSeconds {
        SystemClock.now()
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed() + self.jumped.get()
    }

    fn sleep(&self, pause: Duration) {
        self.pauses.borrow_mut().push(pause);
        self.jumped.set(self.jumped.get() + pause);
    }

    fn jitter(&self) -> f64 {
        0.5
    }
}
