//! A node without Slurm: a site configuration, a runtime directory on a tmpfs, the embedded Google, an agent that
//! answers; and pictures of its runtime directory, to which it is set back.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use gcp_wif_core::job::wake;
use gcp_wif_core::plan::record::JobRecord;
use serde_json::{Value, json};

use crate::google::{
    Claims, Format, Google, Options, ProjectedVolume, SERVICE_ACCOUNT, SUBJECT, ServiceAccount, Source,
};
use crate::hook::{HOOK, Paths};
use crate::state::{State, state};
use crate::trace::{self, Call, Plan, Tracer, Watch};

/// Bob's service account; alice has the one of the credential configuration.
const BOBS_ACCOUNT: &str = "other@demo-project.iam.gserviceaccount.com";

/// A job of a user's.
#[derive(Clone, Copy, Debug)]
pub struct Whose {
    /// The job.
    pub job: u32,
    /// The user's number.
    pub uid: u32,
}

// No Slurm that runs meanwhile has jobs of these numbers: a sweep looks at all processes of the machine.

/// The job that this is about.
pub const ALICES: Whose = Whose { job: 41_000_007, uid: 61001 };
/// Another user's, which runs all the time.
pub const BOBS: Whose = Whose { job: 41_000_008, uid: 61002 };
/// Another user's, which comes later.
pub const BOBS_NEXT: Whose = Whose { job: 41_000_009, uid: 61002 };

/// What came of a hook.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    /// What its log says.
    pub log: Vec<String>,
    /// What became of a step.
    pub outcome: Option<Value>,
    /// The calls that changed something.
    pub calls: Vec<Call>,
    /// Where what was planned happened.
    pub hit: Option<Call>,
}

/// A node.
pub struct World {
    pub paths: Paths,
    pub google: Google,
    directory: tempfile::TempDir,
    /// Whether another process stands for the slurmd that starts a hook.
    is_restarted: bool,
    /// Whether no agent runs.
    is_alone: bool,
}

impl World {
    /// With a kind of delivery.
    pub fn new(delivery: &str) -> Self {
        let account = |email: &&str| ServiceAccount::new(email, &[SUBJECT]);
        let service_accounts = [SERVICE_ACCOUNT, BOBS_ACCOUNT].iter().map(account).collect();
        let google = Google::start(Options { service_accounts, ..Options::default() });
        let directory = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
        let paths = Paths(directory.path().to_owned());
        fs::set_permissions(&paths.0, fs::Permissions::from_mode(0o711)).unwrap();
        let volume = ProjectedVolume::new(paths.0.join("tokens"), &google.subject_token(&Claims::default()));
        let source = Source::file(volume.token()).format(Format::Text).service_account(SERVICE_ACCOUNT);
        fs::write(paths.0.join("credential.json"), google.credential_configuration_text(&source)).unwrap();
        let site = json!({
            "credential_configuration": paths.0.join("credential.json"),
            "runtime_dir": paths.runtime(),
            "delivery": delivery,
            "audit": "json",
            "rules": [
                {"users": [ALICES.uid], "service_account": SERVICE_ACCOUNT},
                {"users": [BOBS.uid], "service_account": BOBS_ACCOUNT},
            ],
        });
        fs::write(paths.site(), site.to_string()).unwrap();
        fs::create_dir(paths.node()).unwrap();
        users_enroot(&paths.home());
        Self { paths, google, directory, is_restarted: false, is_alone: false }
    }

    /// Runs a hook to its end, and the end of what it leaves behind.
    pub fn run(&self, hook: &str, whose: Whose, plan: Option<Plan>) -> Done {
        for path in [self.paths.log(), self.paths.outcome()] {
            let _ = fs::remove_file(path);
        }
        let agent = (!self.is_alone).then(|| Agent::start(&self.paths.runtime()));
        let program = std::env::current_exe().unwrap();
        let mut words: Vec<&OsStr> = Vec::new();
        if self.is_restarted {
            words.extend(["/bin/sh", "-c", "\"$@\"; exit $?", "slurmd"].map(OsStr::new));
        }
        words.push(program.as_os_str());
        words.extend(["--exact", "--ignored", "--nocapture", "--test-threads=1", "a_hook"].map(OsStr::new));
        let value = format!("{hook} {} {} {}", self.paths.0.display(), whose.job, whose.uid);
        let output = File::create(self.directory.path().join("output")).unwrap();
        let watch = Arc::new(Mutex::new(Watch { plan, ..Watch::default() }));
        let status = Tracer::new(&self.paths.node(), role, Arc::clone(&watch)).run(&words, (HOOK, &value), &output);
        drop(agent);
        let Watch { calls, hit, .. } = std::mem::take(&mut *trace::lock(&watch));
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let log = text(self.paths.log()).lines().map(str::to_owned).collect();
        Done { status, log, outcome: serde_json::from_str(&text(self.paths.outcome())).ok(), calls, hit }
    }

    /// The same under a slurmd that was started again.
    pub fn run_after_restart(&mut self, hook: &str, whose: Whose) -> Done {
        self.is_restarted = true;
        let done = self.run(hook, whose, None);
        self.is_restarted = false;
        done
    }

    /// The same where no agent runs.
    pub fn run_alone(&mut self, hook: &str, whose: Whose, plan: Plan) -> Done {
        self.is_alone = true;
        let done = self.run(hook, whose, Some(plan));
        self.is_alone = false;
        done
    }

    /// What is there.
    pub fn state(&self) -> State {
        state(&self.paths.node(), &self.google)
    }

    /// Keeps a picture of all that is there.
    pub fn keep(&self, picture: &str) {
        copy(&self.paths.node(), &self.paths.0.join(format!("picture-{picture}")));
    }

    /// Sets everything back to a picture.
    pub fn set_back(&self, picture: &str) {
        copy(&self.paths.0.join(format!("picture-{picture}")), &self.paths.node());
    }

    /// The job's record, if there is one that can be read.
    pub fn record(&self, whose: Whose) -> Option<JobRecord> {
        let path = self.paths.runtime().join(format!("records/{}/record", whose.job));
        JobRecord::parse(&fs::read(path).ok()?)
    }
}

/// The kind of process: the name that a hook has given itself, and what a prolog leaves behind.
fn role(thread: u32) -> String {
    let name = trace::field(thread, "Name:").unwrap_or_default();
    let is_left = trace::field(thread, "PPid:") != Some(std::process::id().to_string());
    if name == "prolog" && is_left { "worker".to_owned() } else { name }
}

/// Replaces a directory by a copy, with owners, modes and attributes.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let status = Command::new("cp").args(["--archive", "--no-target-directory"]).args([from, to]).status();
    assert!(status.expect("cp runs").success());
}

/// An enroot configuration of the user's own.
fn users_enroot(home: &Path) {
    let enroot = home.join("enroot");
    fs::create_dir_all(enroot.join("hooks.d")).unwrap();
    fs::write(enroot.join(".credentials"), "machine example.org login alice password secret\n").unwrap();
    fs::write(enroot.join("hooks.d/10-own.sh"), "#!/bin/sh\n").unwrap();
    for path in [home, &enroot, &enroot.join("hooks.d"), &enroot.join(".credentials")] {
        chown(path, Some(ALICES.uid), Some(ALICES.uid)).unwrap();
    }
}

/// An agent that only answers: it serves every port that a record has.
struct Agent {
    socket: std::path::PathBuf,
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Agent {
    fn start(runtime: &Path) -> Self {
        let (socket, is_over) = (wake::socket(runtime), Arc::new(AtomicBool::new(false)));
        let _ = fs::remove_file(&socket);
        let listener = match UnixListener::bind(&socket) {
            Ok(listener) => listener,
            Err(error) if error.kind() == ErrorKind::NotFound => return Self { socket, is_over, thread: None },
            Err(error) => panic!("{}: {error}", socket.display()),
        };
        let (records, over) = (runtime.join("records"), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let _ = answer(stream, &records);
            }
        });
        Self { socket, is_over, thread: Some(thread) }
    }
}

fn answer(mut stream: UnixStream, records: &Path) -> std::io::Result<()> {
    let texts = fs::read_dir(records)?.filter_map(|job| fs::read(job.ok()?.path().join("record")).ok());
    let ports = texts.filter_map(|text| Some(JobRecord::parse(&text)?.ports().collect::<Vec<_>>()));
    stream.write_all(wake::answer(ports.flatten()).as_bytes())
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = UnixStream::connect(&self.socket);
            let _ = thread.join();
            let _ = fs::remove_file(&self.socket);
        }
    }
}
