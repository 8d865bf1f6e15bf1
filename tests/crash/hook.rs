//! Runs one hook of Slurm, or one refresh of the agent, in its own process, which the tracer traces.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use gcp_wif_core::job::node::{Exchanger, Host, Job, Log, Node, Outcome};
use gcp_wif_core::job::processes::Proc;
use gcp_wif_core::job::refresh::{Due, heal, refresh};
use gcp_wif_core::job::worker::{Direct, Worker};
use gcp_wif_core::job::{obtain, tell};
use gcp_wif_core::plan::environment::Change;
use gcp_wif_core::plan::metrics::Served;
use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::policy::facts::{JobFacts, Placement};
use gcp_wif_core::policy::request::Options;
use gcp_wif_core::testing::Environment;
use gcp_wif_core::words::names::{JobId, StepId};
use gcp_wif_core::world::clock::SystemClock;
use gcp_wif_core::world::fs::RuntimeDirectory;
use serde_json::{Value, json};

/// The environment variable that names the hook, the directory of its world, the job and the user, separated by spaces.
pub const HOOK: &str = "HOOK";

/// The paths of a world: the input of a hook, and its results.
pub struct Paths(pub PathBuf);

impl Paths {
    /// The site configuration.
    pub fn site(&self) -> PathBuf {
        self.0.join("site.json")
    }

    /// The traced directory. It contains the runtime directory, and the default one, which has a link to it.
    pub fn node(&self) -> PathBuf {
        self.0.join("node")
    }

    /// The configured runtime directory.
    pub fn runtime(&self) -> PathBuf {
        self.node().join("run")
    }

    /// The user's home directory.
    pub fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    /// The log of the hook.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The outcome of a step, as JSON.
    pub fn outcome(&self) -> PathBuf {
        self.0.join("outcome")
    }

    /// The access token that the agent must refresh.
    pub fn due(&self) -> PathBuf {
        self.0.join("due")
    }
}

/// Slurm's side of a hook.
struct Slurm<'a> {
    paths: &'a Paths,
    environment: Environment,
}

impl Log for Slurm<'_> {
    fn log(&self, line: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.paths.log()).unwrap();
        writeln!(file, "{line}").unwrap();
    }
}

impl Host for Slurm<'_> {
    fn options(&self) -> Options {
        Options { wanted: true, ..Options::default() }
    }

    fn inherited_options(&self) -> Options {
        self.options()
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
        false
    }
}

/// Runs the hook that [`HOOK`] names.
pub fn run() {
    let words = std::env::var(HOOK).unwrap();
    let words: Vec<&str> = words.split(' ').collect();
    let [name, directory, job, uid] = *words else { panic!("{words:?}") };
    let (paths, id, uid) = (Paths(directory.into()), JobId(job.parse().unwrap()), uid.parse().unwrap());
    let home = paths.home();
    let environment = [("HOME", home.clone()), ("ENROOT_CONFIG_PATH", home.join("enroot"))];
    let environment = environment.map(|(name, path)| (name.to_owned(), path.display().to_string())).into();
    let slurm = Slurm { paths: &paths, environment: Environment(RefCell::new(environment)) };
    let (config_path, default_dir) = (paths.site(), paths.node().join("default"));
    let processes = Proc::new(config_path.clone());
    let with = |exchanger: &dyn Exchanger, work: &dyn Fn(&Node<'_>)| {
        let (config_path, default_dir) = (&*config_path, &*default_dir);
        work(&Node { config_path, default_dir, exchanger, clock: &SystemClock, processes: &processes });
    };
    let of_prolog = name == "prolog";
    let facts = || {
        let placement = of_prolog.then(Placement::default);
        Ok(JobFacts { job: id, uid, gid: uid, user: None, groups: Vec::new(), placement })
    };
    let job = Job { id, uid, gid: uid, groups: &|| Ok(Vec::new()), facts: &facts };
    // The tracer reads the kind of process from the thread's name.
    let set_role = |name: &std::ffi::CStr| rustix::thread::set_name(name).unwrap();
    match name {
        "prolog" => {
            set_role(c"prolog");
            with(&Worker, &|node| node.prolog(&slurm, &job));
        }
        "step" | "exit" => {
            set_role(c"step");
            with(&Worker, &|node| {
                let outcome = node.step(&slurm, &job, StepId(0));
                std::fs::write(paths.outcome(), outcome_json(&outcome, &slurm).to_string()).unwrap();
                if let (Outcome::Issued { directory, .. }, "exit") = (&outcome, name) {
                    set_role(c"exit");
                    node.step_exit(&slurm, directory);
                }
            });
        }
        "agent" => {
            set_role(c"agent");
            let due = std::fs::read_to_string(paths.due()).unwrap();
            with(&Direct::new(), &|node| agent(node, &slurm, &paths.runtime(), &due));
        }
        "epilog" => {
            set_role(c"epilog");
            with(&Worker, &|node| node.epilog(&slurm, id));
        }
        name => panic!("unknown hook {name}"),
    }
}

/// Does the work of the agent: reads all records, heals incomplete files, and refreshes the tokens that are due.
fn agent(node: &Node<'_>, slurm: &Slurm<'_>, runtime_dir: &Path, due: &str) {
    let runtime = RuntimeDirectory::existing(runtime_dir).unwrap().unwrap();
    obtain::sweep(&SystemClock, &runtime);
    let mut tokens = Vec::new();
    let mut served = Served { jobs: 0, next_expiry: None, start: 1, version: "1" };
    for job in runtime.jobs() {
        let Some(record) = runtime.peek_record(job).as_deref().and_then(JobRecord::parse) else { continue };
        if let Err(failure) = heal(node, slurm, &runtime, &record) {
            slurm.log(&failure.to_string());
        }
        served.jobs += 1;
        for issued in record.issued {
            served.next_expiry = served.next_expiry.into_iter().chain([issued.token.expires_at]).min();
            if issued.token.secret().expose() == due {
                let (identity, issued_at) = (issued.identity().clone(), issued.token.issued_at);
                tokens.push(Due { job, run: record.run, identity, issued_at });
            }
        }
    }
    tell::tell_served(&runtime, &served);
    for due in tokens {
        if let Err(failure) = refresh(node, slurm, runtime_dir, &due) {
            slurm.log(&failure.to_string());
        }
    }
}

/// Renders the outcome of a step, and the environment that the step gets.
fn outcome_json(outcome: &Outcome, slurm: &Slurm<'_>) -> Value {
    let variable = |name| slurm.variable(name);
    json!({
        "is_issued": matches!(outcome, Outcome::Issued { .. }),
        "lines": outcome.lines(),
        "token": variable("GOOGLE_OAUTH_ACCESS_TOKEN"),
        "file": variable("GCP_WIF_ACCESS_TOKEN_FILE"),
        "enroot": variable("ENROOT_CONFIG_PATH"),
    })
}
