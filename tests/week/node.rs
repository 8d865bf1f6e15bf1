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

/// The variable with the directory of a node.
pub const DIRECTORY: &str = "GCP_WIF_WEEK_DIRECTORY";
/// The true time when the week begins, and how long the machine has run by then.
const BEGIN: UnixSeconds = 1_800_000_000;
const SINCE_BOOT: u64 = 100_000;
/// What a request takes.
const REQUEST: Duration = Duration::from_millis(60);
/// After this long the agent looks when nothing has woken it, as in `command/src/agent/run.rs`.
pub const LOOK: Duration = Duration::from_secs(15);
/// How long it need not look here when nothing happens.
const NOTHING: Duration = Duration::from_secs(3600);
/// What fills the disk.
const BALLAST: &str = "ballast";
pub const SITE: &str = "site@p.iam.gserviceaccount.com";
pub const OTHER: &str = "other@p.iam.gserviceaccount.com";

/// A process is killed here.
pub struct Killed;

/// An exchange that went to Google.
#[derive(Clone, Debug)]
pub struct Tried {
    /// User and identity.
    pub key: String,
    pub begun: Duration,
    pub ended: Duration,
    pub has_failed: bool,
    /// Whether it was Google that refused, so that the failure holds for the user's other jobs.
    pub is_googles: bool,
}

/// The serving process of the agent.
#[derive(Default)]
struct Agent {
    schedule: Schedule,
    jitter: f64,
    /// When it looks next.
    look: Duration,
}

pub struct World {
    directory: PathBuf,
    /// True time since the week began.
    time: Cell<Duration>,
    /// By how much the node's clock is wrong.
    pub set: Cell<i64>,
    pub google: Google,
    pub processes: Simulated,
    pub random: RefCell<fastrand::Rng>,
    agent: RefCell<Option<Agent>>,
    /// After so many more requests somebody is killed.
    pub kill_in: Cell<Option<u32>>,
    pub tried: RefCell<Vec<Tried>>,
    /// What the agent's journal has.
    pub journal: Hook,
}

impl Clock for World {
    fn now(&self) -> UnixSeconds {
        self.true_time() + self.set.get()
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
        // Nobody waits for a subject token: the time would be real.
        let subject = worker::read_subject_token(configuration, Duration::ZERO)?;
        let identity = grant.identity();
        let wanted = Wanted { identity, scopes: grant.scopes(), lifetime: grant.lifetime() };
        let reason = format!("slurm job {} of user {}", facts.job, facts.uid);
        let mut exchange = Exchange::new(configuration, &subject, wanted, reason).for_purpose(purpose);
        let begun = self.time.get();
        let result = run::run(&mut exchange, self, self, limits.budget)
            .map_err(|error| Failure::of_exchange(&error, configuration, subject.claims(), identity, self.now()));
        let is_googles = result.as_ref().is_err_and(|failure| matches!(failure.blame, Blame::Google { .. }));
        let (key, ended) = (format!("{} {identity}", facts.uid), self.time.get());
        self.tried.borrow_mut().push(Tried { key, begun, ended, has_failed: result.is_err(), is_googles });
        Ok(Exchanged { name: identity.to_string(), token: Token::new(result?, self.moment()) })
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let directory = PathBuf::from(std::env::var_os(DIRECTORY).expect("the parent says where"));
        let world = Self {
            directory,
            time: Cell::default(),
            set: Cell::default(),
            google: Google::default(),
            processes: Simulated::default(),
            random: RefCell::new(fastrand::Rng::with_seed(seed)),
            agent: RefCell::default(),
            kill_in: Cell::default(),
            tried: RefCell::default(),
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

    /// Goes on at a time, which may be over already.
    pub fn go_on_at(&self, time: Duration) {
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

    /// Replaces a file as an editor or the kubelet does, whose disk is another one.
    pub fn put(&self, name: &str, content: &[u8]) {
        let was_full = self.at(BALLAST).exists();
        self.empty_the_disk();
        fs::write(self.at("draft"), content).unwrap();
        fs::rename(self.at("draft"), self.at(name)).unwrap();
        if was_full {
            self.fill_the_disk();
        }
    }

    /// Makes a subject token that ends after so many seconds, by Google's clock.
    pub fn subject_token(&self, life: i64) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let (now, ends) = (self.true_time(), self.true_time() + life);
        let claims = json!({"sub": "s", "iat": now, "exp": ends}).to_string();
        let signature = part(&self.google.name("signature"));
        let text = format!("{}.{}.{signature}", part(r#"{"alg":"RS256"}"#), part(&claims));
        self.google.subjects.borrow_mut().insert(text.clone(), ends);
        text
    }

    pub fn serve<T>(&self, work: impl FnOnce(&Node<'_>) -> T) -> T {
        let (config_path, default_dir) = (self.at("site.json"), self.at("default"));
        let (config_path, default_dir, processes) = (&*config_path, &*default_dir, &self.processes);
        work(&Node { config_path, default_dir, exchanger: self, clock: self, processes })
    }

    /// Does it in a process that may be killed; none if it was.
    pub fn in_process<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(work));
        match done {
            Ok(done) => Some(done),
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

    /// A file of a job's, if it is there.
    pub fn file(&self, job: JobId, name: &str) -> Option<String> {
        fs::read_to_string(self.at("run/jobs").join(job.to_string()).join(name)).ok()
    }

    /// Ends the serving process. Its watcher starts another one if it still lives.
    pub fn kill_agent(&self, has_watcher: bool) {
        *self.agent.borrow_mut() = None;
        self.processes.has_agent.set(has_watcher);
        self.processes.is_woken.set(has_watcher);
    }

    /// Something has changed that nobody tells the agent: it finds out with its next look.
    pub fn let_the_agent_find_out(&self) {
        let look = self.time.get() + LOOK.mul_f64(self.random.borrow_mut().f64());
        if let Some(agent) = &mut *self.agent.borrow_mut() {
            agent.look = agent.look.min(look);
        }
    }

    /// When the agent looks next; none if there is none.
    pub fn next_look(&self) -> Option<Duration> {
        if self.processes.is_woken.get() {
            return Some(self.time.get());
        }
        self.agent.borrow().as_ref().map(|agent| agent.look)
    }

    /// A look of the agent's: what `reload` and `refresh` in `command/src/agent/run.rs` do. Where nothing has happened it
    /// does not look every 15 seconds, because it would find nothing.
    pub fn look(&self) {
        self.processes.is_woken.set(false);
        let Some(runtime) = self.runtime() else { return };
        let mut agent = self.agent.borrow_mut().take().unwrap_or_else(|| {
            let jitter = self.random.borrow_mut().f64();
            Agent { jitter, ..Agent::default() }
        });
        let is_alive = self.in_process(|| {
            self.serve(|node| {
                obtain::sweep(self, &runtime);
                let (mut served, mut longest) = (Vec::new(), NOTHING);
                for job in runtime.look_for_jobs().unwrap() {
                    let Some(record) = runtime.peek_record(job).as_deref().and_then(JobRecord::parse) else {
                        continue;
                    };
                    if heal(node, &self.journal, &runtime, &record).is_err() {
                        longest = LOOK;
                    }
                    served.extend(self.due(&record, agent.jitter));
                }
                let (begun, next) = agent.schedule.begin(served, self.moment(), longest);
                // After a refresh it looks again at once, but what has happened meanwhile comes first.
                let pause = if begun.is_empty() { next.max(Duration::from_secs(1)) } else { Duration::ZERO };
                for due in begun {
                    let how = refresh(node, &self.journal, runtime.path(), &due);
                    agent.schedule.ended(due, Some(&how), self.moment());
                }
                agent.look = self.time.get() + pause;
            });
        });
        match is_alive {
            Some(()) => *self.agent.borrow_mut() = Some(agent),
            // Its watcher starts another one.
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

    /// Leaves no room on the disk.
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
