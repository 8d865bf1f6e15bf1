//! A node without Slurm: a site configuration, a runtime directory on a tmpfs, the embedded Google and a fake agent.
//! The runtime directory can be saved and restored.

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
use crate::trace::Tracer;
use crate::watch::{Call, Plan, Watch, field, lock};

/// Bob's service account. Alice has the one in the credential configuration.
const BOBS_ACCOUNT: &str = "other@demo-project.iam.gserviceaccount.com";

/// A job and its user.
#[derive(Clone, Copy, Debug)]
pub struct UserJob {
    /// The job ID.
    pub id: u32,
    /// The user ID.
    pub uid: u32,
}

// A sweep looks at all processes of the machine, so these job IDs are higher than those of a Slurm that runs meanwhile.

/// The job whose hooks are tested.
pub const ALICES_JOB: UserJob = UserJob { id: 41_000_007, uid: 61001 };
/// A job of another user that runs all the time.
pub const BOBS_JOB: UserJob = UserJob { id: 41_000_008, uid: 61002 };
/// A later job of the other user.
pub const BOBS_NEXT_JOB: UserJob = UserJob { id: 41_000_009, uid: 61002 };

/// The result of a hook.
#[derive(Debug)]
pub struct HookResult {
    pub status: ExitStatus,
    /// The lines of the log.
    pub log: Vec<String>,
    /// The outcome of a step, as JSON.
    pub outcome: Option<Value>,
    /// The calls that changed a file.
    pub calls: Vec<Call>,
    /// The call at which the fault was injected.
    pub hit: Option<Call>,
}

/// The node.
pub struct World {
    pub paths: Paths,
    pub google: Google,
    directory: tempfile::TempDir,
    /// Whether the parent of a hook, which stands for slurmd, is another process than before.
    is_restarted: bool,
    /// Whether no agent runs.
    has_no_agent: bool,
}

impl World {
    /// Creates a node with this delivery.
    pub fn new(delivery: &str) -> Self {
        let account = |email: &&str| ServiceAccount::new(email, &[SUBJECT]);
        let service_accounts = [SERVICE_ACCOUNT, BOBS_ACCOUNT].iter().map(account).collect();
        let google = Google::start(Options { service_accounts, ..Options::default() });
        let directory = tempfile::tempdir_in("/dev/shm").expect("cannot create a directory in /dev/shm");
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
                {"users": [ALICES_JOB.uid], "service_account": SERVICE_ACCOUNT},
                {"users": [BOBS_JOB.uid], "service_account": BOBS_ACCOUNT},
            ],
        });
        fs::write(paths.site(), site.to_string()).unwrap();
        fs::create_dir(paths.node()).unwrap();
        create_enroot_configuration(&paths.home());
        Self { paths, google, directory, is_restarted: false, has_no_agent: false }
    }

    /// Runs a hook, and waits for it and its descendants.
    pub fn run(&self, hook: &str, job: UserJob, plan: Option<Plan>) -> HookResult {
        for path in [self.paths.log(), self.paths.outcome()] {
            let _ = fs::remove_file(path);
        }
        let agent = (!self.has_no_agent).then(|| Agent::start(&self.paths.runtime()));
        let program = std::env::current_exe().unwrap();
        let mut words: Vec<&OsStr> = Vec::new();
        if self.is_restarted {
            words.extend(["/bin/sh", "-c", "\"$@\"; exit $?", "slurmd"].map(OsStr::new));
        }
        words.push(program.as_os_str());
        words.extend(["--exact", "--ignored", "--nocapture", "--test-threads=1", "hook_process"].map(OsStr::new));
        let value = format!("{hook} {} {} {}", self.paths.0.display(), job.id, job.uid);
        let output = File::create(self.directory.path().join("output")).unwrap();
        let watch = Arc::new(Mutex::new(Watch { plan, ..Watch::default() }));
        let status = Tracer::new(&self.paths.node(), role, Arc::clone(&watch)).run(&words, (HOOK, &value), &output);
        drop(agent);
        let Watch { calls, hit, .. } = std::mem::take(&mut *lock(&watch));
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let log = text(self.paths.log()).lines().map(str::to_owned).collect();
        HookResult { status, log, outcome: serde_json::from_str(&text(self.paths.outcome())).ok(), calls, hit }
    }

    /// Runs a hook after a restart of slurmd.
    pub fn run_after_restart(&mut self, hook: &str, job: UserJob) -> HookResult {
        self.is_restarted = true;
        let result = self.run(hook, job, None);
        self.is_restarted = false;
        result
    }

    /// Runs a hook while no agent runs.
    pub fn run_without_agent(&mut self, hook: &str, job: UserJob, plan: Plan) -> HookResult {
        self.has_no_agent = true;
        let result = self.run(hook, job, Some(plan));
        self.has_no_agent = false;
        result
    }

    /// Returns the state of the node.
    pub fn state(&self) -> State {
        state(&self.paths.node(), &self.google)
    }

    /// Saves a snapshot of the node.
    pub fn save(&self, snapshot: &str) {
        copy(&self.paths.node(), &self.paths.0.join(format!("snapshot-{snapshot}")));
    }

    /// Restores a snapshot of the node.
    pub fn restore(&self, snapshot: &str) {
        copy(&self.paths.0.join(format!("snapshot-{snapshot}")), &self.paths.node());
    }

    /// Returns the job's record, if it exists and is valid.
    pub fn record(&self, job: UserJob) -> Option<JobRecord> {
        let path = self.paths.runtime().join(format!("records/{}/record", job.id));
        JobRecord::parse(&fs::read(path).ok()?)
    }
}

/// Returns the kind of a process: the name that the hook has set, or `worker` for a process that outlives its prolog.
fn role(thread: u32) -> String {
    let name = field(thread, "Name:").unwrap_or_default();
    let outlives_parent = field(thread, "PPid:") != Some(std::process::id().to_string());
    if name == "prolog" && outlives_parent { "worker".to_owned() } else { name }
}

/// Replaces a directory by a copy of another one, with owners, modes and attributes.
fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let status = Command::new("cp").args(["--archive", "--no-target-directory"]).args([from, to]).status();
    assert!(status.expect("cannot run cp").success());
}

/// Creates the user's own enroot configuration.
fn create_enroot_configuration(home: &Path) {
    let enroot = home.join("enroot");
    fs::create_dir_all(enroot.join("hooks.d")).unwrap();
    fs::write(enroot.join(".credentials"), "machine example.org login alice password secret\n").unwrap();
    fs::write(enroot.join("hooks.d/10-own.sh"), "#!/bin/sh\n").unwrap();
    for path in [home, &enroot, &enroot.join("hooks.d"), &enroot.join(".credentials")] {
        chown(path, Some(ALICES_JOB.uid), Some(ALICES_JOB.uid)).unwrap();
    }
}

/// A fake agent. It replies that it serves the ports of all records.
struct Agent {
    socket: std::path::PathBuf,
    is_stopped: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Agent {
    fn start(runtime: &Path) -> Self {
        let (socket, is_stopped) = (wake::socket(runtime), Arc::new(AtomicBool::new(false)));
        let _ = fs::remove_file(&socket);
        let listener = match UnixListener::bind(&socket) {
            Ok(listener) => listener,
            Err(error) if error.kind() == ErrorKind::NotFound => return Self { socket, is_stopped, thread: None },
            Err(error) => panic!("{}: {error}", socket.display()),
        };
        let (records, stopped) = (runtime.join("records"), Arc::clone(&is_stopped));
        let thread = thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let _ = answer(stream, &records);
            }
        });
        Self { socket, is_stopped, thread: Some(thread) }
    }
}

fn answer(mut stream: UnixStream, records: &Path) -> std::io::Result<()> {
    let texts = fs::read_dir(records)?.filter_map(|job| fs::read(job.ok()?.path().join("record")).ok());
    let ports = texts.filter_map(|text| Some(JobRecord::parse(&text)?.ports().collect::<Vec<_>>()));
    stream.write_all(wake::answer(ports.flatten()).as_bytes())
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = UnixStream::connect(&self.socket);
            let _ = thread.join();
            let _ = fs::remove_file(&self.socket);
        }
    }
}
