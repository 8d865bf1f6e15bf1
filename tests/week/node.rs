//! The node: its clocks, its files, and its agent.

use std::cell::{Cell, RefCell};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gcp_wif_core::exchange::{Exchange, Wanted, run};
use gcp_wif_core::job::node::{Exchanged, Exchanger, Limits, Node, TokenRequest};
use gcp_wif_core::job::refresh::{Due, heal, refresh};
use gcp_wif_core::job::schedule::Schedule;
use gcp_wif_core::job::{obtain, worker};
use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::plan::report::{Blame, Failure};
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::time::{Moment, UnixSeconds};
use gcp_wif_core::world::clock::Clock;
use gcp_wif_core::world::fs::RuntimeDirectory;
use gcp_wif_core::world::http::{Request, Response, Transport, TransportError};
use serde_json::json;

use crate::google::Google;
use crate::slurm::{Hook, Simulated};

/// The environment variable with the directory of a node.
pub const DIRECTORY: &str = "GCP_WIF_WEEK_DIRECTORY";
/// The true time at the start of the simulation, and the machine's uptime in seconds.
const BEGIN: UnixSeconds = 1_800_000_000;
const SINCE_BOOT: u64 = 100_000;
/// The duration of a request.
const REQUEST: Duration = Duration::from_millis(60);
/// The interval between two looks of the agent if nothing wakes it, as in `command/src/agent/run.rs`.
pub const LOOK: Duration = Duration::from_secs(15);
/// The longest interval here while nothing happens.
const IDLE: Duration = Duration::from_secs(3600);
/// The file that fills the disk.
const BALLAST: &str = "ballast";
pub const SITE: &str = "site@p.iam.gserviceaccount.com";
pub const OTHER: &str = "other@p.iam.gserviceaccount.com";

/// The panic payload that stands for the kill of a process.
pub struct Killed;

/// An exchange with Google.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// User and identity.
    pub key: String,
    pub started: Duration,
    pub ended: Duration,
    pub has_failed: bool,
    /// Whether Google caused the failure, so that it is kept for the user's other jobs.
    pub is_googles: bool,
}

/// The serving process of the agent.
#[derive(Default)]
struct Agent {
    schedule: Schedule,
    jitter: f64,
    /// The time of the next look.
    look: Duration,
}

pub struct World {
    directory: PathBuf,
    /// The true time since the start of the simulation.
    time: Cell<Duration>,
    /// The error of the node's clock, in seconds.
    pub clock_error: Cell<i64>,
    pub google: Google,
    pub processes: Simulated,
    pub random: RefCell<fastrand::Rng>,
    agent: RefCell<Option<Agent>>,
    /// After this number of further requests, the process that sends the next one is killed.
    pub kill_in: Cell<Option<u32>>,
    pub attempts: RefCell<Vec<Attempt>>,
    /// The agent's journal.
    pub journal: Hook,
}

impl Clock for World {
    fn now(&self) -> UnixSeconds {
        self.true_time() + self.clock_error.get()
    }

    fn elapsed(&self) -> Duration {
        self.time.get() + Duration::from_secs(SINCE_BOOT)
    }

    fn sleep(&self, pause: Duration) {
        self.pass(pause);
    }

    fn jitter(&self) -> f64 {
        self.random.borrow_mut().f64()
    }
}

impl Transport for World {
    fn send(&self, request: &Request, limit: Duration) -> Result<Response, TransportError> {
        if let Some(left) = self.kill_in.get() {
            self.kill_in.set(left.checked_sub(1));
            if left == 0 {
                resume_unwind(Box::new(Killed));
            }
        }
        let answer = self.google.answer(request, self.true_time());
        let is_lost = matches!(answer, Err(TransportError::Timeout));
        self.pass(if is_lost { limit } else { REQUEST.min(limit) });
        answer
    }
}

impl Exchanger for World {
    fn exchange(&self, request: TokenRequest<'_>, limits: Limits) -> Result<Exchanged, Failure> {
        let TokenRequest { site, grant, purpose, facts } = request;
        let configuration = &site.configuration;
        // Do not wait for a subject token, because the wait would be in real time.
        let subject = worker::read_subject_token(configuration, Duration::ZERO)?;
        let identity = grant.identity();
        let wanted = Wanted { identity, scopes: grant.scopes(), lifetime: grant.lifetime() };
        let reason = format!("slurm job {} of user {}", facts.job, facts.uid);
        let mut exchange = Exchange::new(configuration, &subject, wanted, reason).for_purpose(purpose);
        let started = self.time.get();
        let result = run::run(&mut exchange, self, self, limits.budget)
            .map_err(|error| Failure::of_exchange(&error, configuration, subject.claims(), identity, self.now()));
        let is_googles = result.as_ref().is_err_and(|failure| matches!(failure.blame, Blame::Google { .. }));
        let (key, ended) = (format!("{} {identity}", facts.uid), self.time.get());
        self.attempts.borrow_mut().push(Attempt { key, started, ended, has_failed: result.is_err(), is_googles });
        Ok(Exchanged { name: identity.to_string(), token: Token::new(result?, self.moment()) })
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("the parent process sets it"));
        let world = Self {
            directory,
            time: Cell::default(),
            clock_error: Cell::default(),
            google: Google::default(),
            processes: Simulated::default(),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            agent: RefCell::default(),
            kill_in: Cell::default(),
            attempts: RefCell::default(),
            journal: Hook::default(),
        };
        let credential = json!({
            "type": "external_account",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": {"file": world.at("token")},
            "service_account_impersonation_url": format!(
                "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{SITE}:generateAccessToken"
            ),
        });
        fs::write(world.at("credential.json"), credential.to_string()).unwrap();
        world
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub fn time(&self) -> Duration {
        self.time.get()
    }

    pub fn true_time(&self) -> UnixSeconds {
        BEGIN + self.time.get().as_secs() as UnixSeconds
    }

    fn pass(&self, time: Duration) {
        self.time.set(self.time.get() + time);
    }

    /// Advances the clock to a time. Does nothing if it has passed.
    pub fn advance_to(&self, time: Duration) {
        self.time.set(self.time.get().max(time));
    }

    pub fn moment(&self) -> Moment {
        Clock::moment(self)
    }

    /// Writes the site configuration.
    pub fn configure(&self, rules: &serde_json::Value) {
        let config = json!({
            "credential_configuration": self.at("credential.json"),
            "runtime_dir": self.at("run"),
            "registries": [],
            "rules": rules,
        });
        self.put("site.json", config.to_string().as_bytes());
    }

    /// Replaces a file as an editor or the kubelet does. Works while the disk is full, because these files are on
    /// another disk on a real node.
    pub fn put(&self, name: &str, content: &[u8]) {
        let was_full = self.at(BALLAST).exists();
        self.empty_the_disk();
        fs::write(self.at("draft"), content).unwrap();
        fs::rename(self.at("draft"), self.at(name)).unwrap();
        if was_full {
            self.fill_the_disk();
        }
    }

    /// Creates a subject token with a lifetime in seconds, by Google's clock.
    pub fn subject_token(&self, lifetime: i64) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let (now, expires) = (self.true_time(), self.true_time() + lifetime);
        let claims = json!({"sub": "s", "iat": now, "exp": expires}).to_string();
        let signature = part(&self.google.unique("signature"));
        let text = format!("{}.{}.{signature}", part(r#"{"alg":"RS256"}"#), part(&claims));
        self.google.subjects.borrow_mut().insert(text.clone(), expires);
        text
    }

    pub fn with_node<T>(&self, work: impl FnOnce(&Node<'_>) -> T) -> T {
        let (config_path, default_dir) = (self.at("site.json"), self.at("default"));
        let (config_path, default_dir, processes) = (&*config_path, &*default_dir, &self.processes);
        work(&Node { config_path, default_dir, exchanger: self, clock: self, processes })
    }

    /// Runs `work` as a process that can be killed. Returns `None` if it was killed.
    pub fn in_process<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => Some(result),
            Err(cause) if cause.is::<Killed>() => None,
            Err(cause) => resume_unwind(cause),
        }
    }

    pub fn runtime(&self) -> Option<RuntimeDirectory> {
        RuntimeDirectory::existing(&self.at("run")).ok().flatten()
    }

    pub fn record(&self, job: JobId) -> Option<JobRecord> {
        JobRecord::parse(&self.runtime()?.peek_record(job)?)
    }

    /// Reads a file of a job, if it exists.
    pub fn file(&self, job: JobId, name: &str) -> Option<String> {
        fs::read_to_string(self.at("run/jobs").join(job.to_string()).join(name)).ok()
    }

    /// Kills the serving process. The watcher starts another one, unless it is killed too.
    pub fn kill_agent(&self, has_watcher: bool) {
        *self.agent.borrow_mut() = None;
        self.processes.has_agent.set(has_watcher);
        self.processes.is_woken.set(has_watcher);
    }

    /// Schedules the next look of the agent for a change that does not wake it.
    pub fn schedule_look(&self) {
        let look = self.time.get() + LOOK.mul_f64(self.random.borrow_mut().f64());
        if let Some(agent) = &mut *self.agent.borrow_mut() {
            agent.look = agent.look.min(look);
        }
    }

    /// Returns the time of the agent's next look, or `None` if no agent runs.
    pub fn next_look(&self) -> Option<Duration> {
        if self.processes.is_woken.get() {
            return Some(self.time.get());
        }
        self.agent.borrow().as_ref().map(|agent| agent.look)
    }

    /// Runs a look of the agent, as `reload` and `refresh` in `command/src/agent/run.rs` do. Skips the looks every 15
    /// seconds while nothing has changed, because they would find nothing.
    pub fn look(&self) {
        self.processes.is_woken.set(false);
        let Some(runtime) = self.runtime() else { return };
        let mut agent = self.agent.borrow_mut().take().unwrap_or_else(|| {
            let jitter = self.random.borrow_mut().f64();
            Agent { jitter, ..Agent::default() }
        });
        let is_alive = self.in_process(|| {
            self.with_node(|node| {
                obtain::sweep(self, &runtime);
                let (mut served, mut longest) = (Vec::new(), IDLE);
                for job in runtime.look_for_jobs().unwrap() {
                    let Some(record) = runtime.peek_record(job).as_deref().and_then(JobRecord::parse) else {
                        continue;
                    };
                    if heal(node, &self.journal, &runtime, &record).is_err() {
                        longest = LOOK;
                    }
                    served.extend(self.due(&record, agent.jitter));
                }
                let (started, next) = agent.schedule.begin(served, self.moment(), longest);
                // After a refresh, the agent looks again at once, after the events that have happened meanwhile.
                let pause = if started.is_empty() { next.max(Duration::from_secs(1)) } else { Duration::ZERO };
                for due in started {
                    let result = refresh(node, &self.journal, runtime.path(), &due);
                    agent.schedule.ended(due, Some(&result), self.moment());
                }
                agent.look = self.time.get() + pause;
            });
        });
        match is_alive {
            Some(()) => *self.agent.borrow_mut() = Some(agent),
            // The watcher starts another one.
            None => self.processes.is_woken.set(true),
        }
    }

    fn due(&self, record: &JobRecord, jitter: f64) -> Vec<(Due, UnixSeconds)> {
        let now = self.moment();
        let served = record.issued.iter().filter(|issued| issued.port.is_some());
        let due = served.map(|issued| {
            let identity = issued.identity().clone();
            let due = Due { job: record.facts.job, run: record.run, identity, issued_at: issued.token.issued_at };
            (due, issued.token.due(now, jitter))
        });
        due.collect()
    }

    /// Fills the disk completely.
    pub fn fill_the_disk(&self) {
        let mut ballast = OpenOptions::new().create(true).append(true).open(self.at(BALLAST)).unwrap();
        for size in [64 << 10, 1] {
            while ballast.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub fn empty_the_disk(&self) {
        let _ = fs::remove_file(self.at(BALLAST));
    }
}
