//! A fake Slurm, a fake Google, and a node with a real runtime directory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use super::{JOB, STEP};
use crate::exchange::AccessToken;
use crate::exchange::Purpose;
use crate::job::node::{Exchanged, Exchanger, Host, Job, Limits, Log, Node, Outcome, TokenRequest};
use crate::job::refresh::{Due, Refreshed, refresh};
use crate::plan::environment::Change;
use crate::plan::record::JobRecord;
use crate::plan::report::{Blame, Failure, Stage};
use crate::policy::facts::JobFacts;
use crate::policy::grant::Grant;
use crate::policy::request::Options;
use crate::testing::{self, Directory, Environment, FakeProcesses, SITE, facts};
use crate::tokens::Token;
use crate::words::names::StepId;
use crate::words::secret::Secret;
use crate::words::time::{Moment, UnixSeconds};
use crate::world::clock::Clock;
use crate::world::fs::RuntimeDirectory;

#[derive(Default)]
pub(super) struct FakeHost {
    pub(super) options: Options,
    pub(super) inherited: Options,
    pub(super) environment: Environment,
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
        self.environment.get(name)
    }

    fn change(&self, change: &Change) {
        self.environment.change(change);
    }

    fn environment(&self) -> Vec<(String, String)> {
        self.environment.all()
    }

    fn pyxis_is_earlier(&self) -> bool {
        self.pyxis_is_earlier
    }
}

impl Default for FakeGoogle {
    fn default() -> Self {
        Self {
            exchanges: Cell::default(),
            now: Cell::default(),
            fails: Cell::default(),
            blame: Cell::new(Blame::Google { is_final: false }),
            behind: Cell::default(),
            patience: Cell::default(),
            grants: RefCell::default(),
        }
    }
}

impl FakeGoogle {
    pub(super) fn set_clock(&self, now: Moment) {
        self.now.set(now.unix);
        self.behind.set(now.unix - now.since_boot);
    }
}

/// Issues the tokens `IDENTITY-1`, `IDENTITY-2` and so on, or fails on demand.
pub(super) struct FakeGoogle {
    pub(super) exchanges: Cell<u32>,
    pub(super) now: Cell<UnixSeconds>,
    pub(super) fails: Cell<bool>,
    /// The blame of its failures.
    pub(super) blame: Cell<Blame>,
    /// The time of day minus the time since boot.
    behind: Cell<i64>,
    /// The patience of the last exchange.
    pub(super) patience: Cell<Duration>,
    /// The grants of all exchanges.
    pub(super) grants: RefCell<Vec<Grant>>,
}

impl Exchanger for FakeGoogle {
    fn exchange(&self, request: TokenRequest<'_>, limits: Limits) -> Result<Exchanged, Failure> {
        let TokenRequest { grant, purpose, .. } = request;
        self.exchanges.set(self.exchanges.get() + 1);
        self.grants.borrow_mut().push(grant.clone());
        self.patience.set(limits.patience);
        if self.fails.get() {
            return Err(Failure {
                stage: Stage::TokenExchange,
                cause: "no answer".to_owned(),
                advice: String::new(),
                blame: self.blame.get(),
            });
        }
        let name = grant.identity().to_string();
        let mut token = format!("{name}-{}", self.exchanges.get());
        if let Purpose::IdToken(audience) = purpose {
            token += &format!(" for {audience}");
        }
        let token = AccessToken { token: Secret::new(token), expires_at: self.now.get() + 3600 };
        Ok(Exchanged { name, token: Token::new(token, self.moment()) })
    }
}

/// It is also the node's clock.
impl Clock for FakeGoogle {
    fn now(&self) -> UnixSeconds {
        self.now.get()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs((self.now.get() - self.behind.get()).unsigned_abs())
    }

    fn sleep(&self, _: Duration) {}

    fn jitter(&self) -> f64 {
        0.0
    }
}

/// A Google that is slow once: `meanwhile` runs before its response.
struct SlowGoogle<'a, F> {
    google: &'a FakeGoogle,
    meanwhile: Cell<Option<F>>,
}

impl<F: FnOnce()> Exchanger for SlowGoogle<'_, F> {
    fn exchange(&self, request: TokenRequest<'_>, limits: Limits) -> Result<Exchanged, Failure> {
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile();
        }
        self.google.exchange(request, limits)
    }
}

fn job<'a>(facts: &JobFacts, all: &'a dyn Fn() -> Result<JobFacts, Failure>) -> Job<'a> {
    Job { id: facts.job, uid: facts.uid, gid: facts.gid, groups: &|| Ok(Vec::new()), facts: all }
}

/// Runs the prolog of a job.
pub(super) fn run_prolog(node: &Node<'_>, host: &FakeHost, facts: &JobFacts) {
    node.prolog(host, &job(facts, &|| Ok(facts.clone())));
}

/// Starts a step.
pub(super) fn start_step(node: &Node<'_>, host: &FakeHost, facts: &JobFacts, step: StepId) -> Outcome {
    node.step(host, &job(facts, &|| Ok(facts.clone())), step)
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

    /// Changes the site configuration.
    pub(super) fn configure(&self, settings: &str) {
        self.configure_in("run", settings);
    }

    /// Changes the site configuration, with another runtime directory.
    pub(super) fn configure_in(&self, runtime_dir: &str, settings: &str) {
        self.trust(SITE);
        let at = |name: &str| self.directory.join(name);
        let delivery = if settings.contains("delivery") { "" } else { r#", "delivery": "direct""# };
        let site = format!(
            r#"{{"credential_configuration": "{}", "runtime_dir": "{}"{settings}{delivery}}}"#,
            at("credential.json").display(),
            at(runtime_dir).display()
        );
        std::fs::write(at("site.json"), site).unwrap();
    }

    /// Changes the service account of the credential configuration.
    pub(super) fn trust(&self, email: &str) {
        let text = testing::credential_configuration(email);
        std::fs::write(self.directory.join("credential.json"), text).unwrap();
    }

    pub(super) fn serve<T>(&self, work: impl FnOnce(&Node<'_>) -> T) -> T {
        self.serve_with(&self.google, work)
    }

    fn serve_with<T>(&self, exchanger: &dyn Exchanger, work: impl FnOnce(&Node<'_>) -> T) -> T {
        let config_path = self.directory.join("site.json");
        let default_dir = self.directory.join("default");
        let processes = FakeProcesses::default();
        let (config_path, default_dir, clock) = (&*config_path, &*default_dir, &self.google);
        work(&Node { config_path, default_dir, exchanger, clock, processes: &processes })
    }

    /// Advances the clock.
    pub(super) fn wait(&self, seconds: UnixSeconds) {
        self.google.now.set(self.google.now.get() + seconds);
    }

    /// Returns the job's token as the agent would refresh it.
    pub(super) fn due(&self) -> Due {
        self.due_of(0)
    }

    /// The same for any of the job's identities.
    pub(super) fn due_of(&self, number: usize) -> Due {
        let record = self.record();
        let issued = &record.issued[number];
        Due { job: JOB, run: record.run, identity: issued.identity().clone(), issued_at: issued.token.issued_at }
    }

    pub(super) fn refresh(&self, host: &FakeHost, due: &Due) -> Result<Refreshed, Failure> {
        self.refresh_while(host, due, || {})
    }

    /// Refreshes; `meanwhile` runs during the exchange.
    pub(super) fn refresh_while(
        &self,
        host: &FakeHost,
        due: &Due,
        meanwhile: impl FnOnce(),
    ) -> Result<Refreshed, Failure> {
        let google = SlowGoogle { google: &self.google, meanwhile: Cell::new(Some(meanwhile)) };
        self.serve_with(&google, |node| refresh(node, host, &self.directory.join("run"), due))
    }

    pub(super) fn prolog(&self, options: &Options) {
        let host = FakeHost { options: options.clone(), ..FakeHost::default() };
        self.serve(|node| run_prolog(node, &host, &facts()));
    }

    /// Starts a step and returns its outcome and environment.
    pub(super) fn step(&self, options: &Options, inherited: &Options) -> (Outcome, BTreeMap<String, String>) {
        self.step_in(BTreeMap::new(), STEP, options, inherited)
    }

    /// The same for any step, with an initial environment.
    pub(super) fn step_in(
        &self,
        environment: BTreeMap<String, String>,
        step: StepId,
        options: &Options,
        inherited: &Options,
    ) -> (Outcome, BTreeMap<String, String>) {
        let environment = Environment(RefCell::new(environment));
        let host =
            FakeHost { options: options.clone(), inherited: inherited.clone(), environment, ..FakeHost::default() };
        let outcome = self.serve(|node| start_step(node, &host, &JobFacts { placement: None, ..facts() }, step));
        (outcome, host.environment.0.into_inner())
    }

    pub(super) fn epilog(&self) {
        self.serve(|node| node.epilog(&FakeHost::default(), JOB));
    }

    /// Removes all kept tokens, which ends the locks of running exchanges as if they were late.
    pub(super) fn end_locks(&self) {
        std::fs::remove_dir_all(self.directory.join("run/tokens")).unwrap();
    }

    pub(super) fn runtime(&self) -> RuntimeDirectory {
        RuntimeDirectory::existing(&self.directory.join("run")).unwrap().unwrap()
    }

    pub(super) fn record(&self) -> JobRecord {
        let text = std::fs::read(self.directory.join("run/records/7/record")).unwrap();
        JobRecord::parse(&text).unwrap()
    }

    pub(super) fn file(&self, below: &str) -> Option<String> {
        std::fs::read_to_string(self.directory.join("run/jobs/7").join(below)).ok()
    }
}
