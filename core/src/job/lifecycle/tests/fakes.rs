//! A fake Slurm and a fake Google, and a node between them with a real runtime directory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::{JOB, STEP};
use crate::exchange::AccessToken;
use crate::job::node::{Exchanged, Exchanger, Host, Log, Node, Outcome};
use crate::job::refresh::{Due, Refreshed, refresh};
use crate::plan::environment::Change;
use crate::plan::record::JobRecord;
use crate::plan::report::{Blame, Failure, Stage};
use crate::policy::facts::JobFacts;
use crate::policy::grant::Grant;
use crate::policy::request::Options;
use crate::policy::site::Site;
use crate::testing::{self, Directory, FakeProcesses, SITE, facts};
use crate::tokens::Token;
use crate::words::secret::Secret;
use crate::words::time::UnixSeconds;

#[derive(Default)]
pub(super) struct FakeHost {
    pub(super) options: Options,
    pub(super) inherited: Options,
    pub(super) environment: RefCell<BTreeMap<String, String>>,
    pub(super) log: RefCell<Vec<String>>,
    pub(super) pyxis_is_earlier: bool,
}

impl Log for FakeHost {
    fn log(&self, line: &str) {
        self.log.borrow_mut().push(line.to_owned());
    }
}

impl Host for FakeHost {
    fn options(&self) -> Options {
        self.options.clone()
    }

    fn inherited_options(&self) -> Options {
        self.inherited.clone()
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.environment.borrow().get(name).cloned()
    }

    fn change(&self, change: &Change) {
        let mut environment = self.environment.borrow_mut();
        match change {
            Change::Set(name, value) => drop(environment.insert((*name).to_owned(), value.expose().to_owned())),
            Change::Unset(name) => drop(environment.remove(*name)),
        }
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.environment.borrow().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn pyxis_is_earlier(&self) -> bool {
        self.pyxis_is_earlier
    }
}

/// Hands out `IDENTITY-1`, `IDENTITY-2` and so on; fails while told to.
#[derive(Default)]
pub(super) struct FakeGoogle {
    pub(super) exchanges: Cell<u32>,
    pub(super) now: Cell<UnixSeconds>,
    pub(super) fails: Cell<bool>,
}

impl Exchanger for FakeGoogle {
    fn exchange(&self, _: &Site, grant: &Grant, _: &JobFacts, _: std::time::Duration) -> Result<Exchanged, Failure> {
        self.exchanges.set(self.exchanges.get() + 1);
        if self.fails.get() {
            return Err(Failure {
                stage: Stage::TokenExchange,
                cause: "no answer".to_owned(),
                advice: String::new(),
                blame: Blame::Google { is_final: false },
            });
        }
        let name = grant.identity().to_string();
        let token = format!("{name}-{}", self.exchanges.get());
        let token = AccessToken { token: Secret::new(token), expires_at: self.now.get() + 3600 };
        Ok(Exchanged { name, token: Token::new(token, self.now.get()) })
    }

    fn now(&self) -> UnixSeconds {
        self.now.get()
    }

    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }
}

/// A node with a site configuration.
pub(super) struct Machine {
    pub(super) directory: Directory,
    pub(super) google: FakeGoogle,
}

impl Machine {
    pub(super) fn new(settings: &str) -> Self {
        let directory = testing::directory();
        let google = FakeGoogle::default();
        google.now.set(1_000_000);
        let machine = Self { directory, google };
        machine.configure(settings);
        machine
    }

    pub(super) fn configure(&self, settings: &str) {
        let at = |name: &str| self.directory.join(name);
        let credential = format!(
            r#"{{"type": "external_account", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "token_url": "https://sts.googleapis.com/v1/token", "credential_source": {{"file": "/t"}},
            "service_account_impersonation_url":
            "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{SITE}:generateAccessToken"}}"#
        );
        std::fs::write(at("credential.json"), credential).unwrap();
        let delivery = if settings.contains("delivery") { "" } else { r#", "delivery": "direct""# };
        let site = format!(
            r#"{{"credential_configuration": "{}", "runtime_dir": "{}"{settings}{delivery}}}"#,
            at("credential.json").display(),
            at("run").display()
        );
        std::fs::write(at("site.json"), site).unwrap();
    }

    pub(super) fn serve<T>(&self, work: impl FnOnce(&Node<'_>) -> T) -> T {
        let config_path = self.directory.join("site.json");
        let default_dir = self.directory.join("default");
        let processes = FakeProcesses::default();
        work(&Node {
            config_path: &config_path,
            default_dir: &default_dir,
            exchanger: &self.google,
            processes: &processes,
        })
    }

    /// What the agent would refresh next.
    pub(super) fn due(&self) -> Due {
        let record = self.record();
        let issued = &record.issued[0];
        Due { job: JOB, run: record.run, identity: issued.identity().clone(), issued_at: issued.token.issued_at }
    }

    pub(super) fn refresh(&self, host: &FakeHost, due: &Due) -> Result<Refreshed, Failure> {
        self.serve(|node| refresh(node, host, &self.directory.join("run"), due))
    }

    pub(super) fn prolog(&self, options: &Options) {
        let host = FakeHost { options: options.clone(), ..FakeHost::default() };
        self.serve(|node| node.prolog(&host, facts()));
    }

    /// Starts a step; brings its outcome and environment.
    pub(super) fn step(&self, options: &Options, inherited: &Options) -> (Outcome, BTreeMap<String, String>) {
        let host = FakeHost { options: options.clone(), inherited: inherited.clone(), ..FakeHost::default() };
        let outcome = self.serve(|node| node.step(&host, &JobFacts { placement: None, ..facts() }, STEP));
        (outcome, host.environment.into_inner())
    }

    pub(super) fn epilog(&self) {
        self.serve(|node| node.epilog(&FakeHost::default(), JOB));
    }

    pub(super) fn record(&self) -> JobRecord {
        let text = std::fs::read(self.directory.join("run/records/7/record")).unwrap();
        JobRecord::parse(&text).unwrap()
    }

    pub(super) fn file(&self, below: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.join("run/jobs/7").join(below)).ok()
    }
}
