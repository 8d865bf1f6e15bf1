//! One hook of Slurm's, or one look of the agent's, in a process of its own: what is stopped.

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

/// The variable of a process that is a hook: its name, its world's directory, job and user, and blanks.
pub const HOOK: &str = "HOOK";

/// Where a hook of a world finds what it works with, and tells what came of it.
pub struct Paths(pub PathBuf);

impl Paths {
    /// The site configuration.
    pub fn site(&self) -> PathBuf {
        self.0.join("site.json")
    }

    /// What is traced: the runtime directory, and the default one, which remembers it.
    pub fn node(&self) -> PathBuf {
        self.0.join("node")
    }

    /// The configured runtime directory.
    pub fn runtime(&self) -> PathBuf {
        self.node().join("run")
    }

    /// The user's home.
    pub fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    /// What the hook's log says.
    pub fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// What became of a step.
    pub fn outcome(&self) -> PathBuf {
        self.0.join("outcome")
    }

    /// The access token that the agent is to replace.
    pub fn due(&self) -> PathBuf {
        self.0.join("due")
    }
}

/// Slurm, as the hook sees it.
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

/// Is a hook, as [`HOOK`] says.
pub fn be() {
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
    // The kind of process, by which the tracer tells one from the other.
    let begin = |name: &std::ffi::CStr| rustix::thread::set_name(name).unwrap();
    match name {
        "prolog" => {
            begin(c"prolog");
            with(&Worker, &|node| node.prolog(&slurm, &job));
        }
        "step" | "exit" => {
            begin(c"step");
            with(&Worker, &|node| {
                let outcome = node.step(&slurm, &job, StepId(0));
                std::fs::write(paths.outcome(), told(&outcome, &slurm).to_string()).unwrap();
                if let (Outcome::Issued { directory, .. }, "exit") = (&outcome, name) {
                    begin(c"exit");
                    node.step_exit(&slurm, directory);
                }
            });
        }
        "agent" => {
            begin(c"agent");
            let due = std::fs::read_to_string(paths.due()).unwrap();
            with(&Direct::new(), &|node| look(node, &slurm, &paths.runtime(), &due));
        }
        "epilog" => {
            begin(c"epilog");
            with(&Worker, &|node| node.epilog(&slurm, id));
        }
        name => panic!("{name} is no hook"),
    }
}

/// What the agent does when it looks at the records, and when one token is due.
fn look(node: &Node<'_>, slurm: &Slurm<'_>, runtime_dir: &Path, due: &str) {
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

/// What becomes of a step, and what it is given.
fn told(outcome: &Outcome, slurm: &Slurm<'_>) -> Value {
    let variable = |name| slurm.variable(name);
    json!({
        "is_issued": matches!(outcome, Outcome::Issued { .. }),
        "lines": outcome.lines(),
        "token": variable("GOOGLE_OAUTH_ACCESS_TOKEN"),
        "file": variable("GCP_WIF_ACCESS_TOKEN_FILE"),
        "enroot": variable("ENROOT_CONFIG_PATH"),
    })
}
