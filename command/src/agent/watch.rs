//! One agent for each node, and the process that brings its serving one back.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use rustix::process::WaitStatus;
use rustix::thread::set_name;

use super::journal::Journal;
use super::keep::{self, Sockets};
use super::serve::Endpoints;
use super::{cgroups, run};
use gcp_wif_core::job::lifecycle::Site;
use gcp_wif_core::job::processes::Proc;
use gcp_wif_core::job::wake;
use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::world::fs::RuntimeDirectory;
use gcp_wif_core::world::sys;

/// How long a new agent waits for the lock of one that is about to end.
const LOCK: Duration = Duration::from_secs(5);
/// A serving process that lives shorter is followed by the next one after a pause.
const SHORT: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);

/// Starts the agent, which stays in the background until no job needs it. One that runs already is enough.
///
/// # Errors
/// When it cannot start.
pub(crate) fn start(config_path: &Path) -> Result<(), Failure> {
    sys::guard_secrets();
    sys::allow_descriptors();
    let site = Site::load(config_path)?;
    let journal = Journal::of(&site.config);
    let runtime_dir = site.config.runtime_dir;
    let runtime = RuntimeDirectory::open(&runtime_dir)?;
    let Some(_lock) = only_one(&runtime_dir)? else { return Ok(()) };
    if let Some(slurmd) = slurmd(&runtime) {
        // Not everywhere may cgroups be written, and the agent serves from within one as well.
        let _ = cgroups::join(slurmd).inspect_err(|why| {
            journal.write(LogLevel::Info, format_args!("gcp-wif: agent: it stays in its cgroup: {why}"));
        });
    }
    drop(runtime);
    let mut sockets = keep::inherited();
    // A process that has just started has most of its program in memory, a copy of it what it uses. The lock is the
    // copy's as well.
    sys::fork(|| {
        sys::leave_session();
        watch(config_path, &runtime_dir, &mut sockets, &journal)
    })?;
    Ok(())
}

/// The slurmd that started one of the jobs, if it still runs.
fn slurmd(runtime: &RuntimeDirectory) -> Option<u32> {
    let records = runtime.jobs().into_iter().filter_map(|job| JobRecord::parse(&runtime.peek_record(job)?));
    let proc = Proc::new(PathBuf::new());
    records.map(|record| record.started_by.slurmd).find(|slurmd| proc.runs(*slurmd)).map(|slurmd| slurmd.pid)
}

/// The right to be the node's agent; none if another one has it and answers.
fn only_one(runtime_dir: &Path) -> Result<Option<File>, Failure> {
    let path = runtime_dir.join("agent.lock");
    let problem = |error: std::io::Error| Failure::of_agent(&format!("{}: {error}", path.display()));
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(problem)?;
    let end = Instant::now() + LOCK;
    loop {
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(Some(file));
        }
        if wake::is_running(runtime_dir) || Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Brings the serving process back whenever it dies.
fn watch(config_path: &Path, runtime_dir: &Path, sockets: &mut Sockets, journal: &Journal) -> i32 {
    // For ps; both have the same arguments.
    let _ = set_name(c"gcp-wif-watch");
    loop {
        let begun = Instant::now();
        let ended = keep::run(sockets, |sockets, watcher| {
            let _ = set_name(c"gcp-wif-serve");
            match run::serve(config_path, runtime_dir, Endpoints::new(sockets, watcher), journal.clone()) {
                Ok(()) => 0,
                Err(error) => {
                    journal.write(LogLevel::Error, format_args!("gcp-wif: agent: {error}"));
                    1
                }
            }
        });
        match ended {
            Ok(status) if status.exit_status() == Some(0) => return 0,
            Ok(status) => {
                journal.write(
                    LogLevel::Warn,
                    format_args!("gcp-wif: agent: the serving process ended ({})", ending(status)),
                );
            }
            Err(error) => {
                journal.write(LogLevel::Error, format_args!("gcp-wif: agent: {error}"));
                std::thread::sleep(SHORT);
            }
        }
        if begun.elapsed() < SHORT {
            std::thread::sleep(PAUSE);
        }
    }
}

fn ending(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}
