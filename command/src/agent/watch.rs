//! One agent for each runtime directory, and the watcher, which starts a new serving process for a dead one.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gcp_wif_core::job::processes::{Proc, Processes};
use gcp_wif_core::job::wake;
use gcp_wif_core::plan::record::{JobRecord, ProcessId};
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::world::fs::RuntimeDirectory;
use gcp_wif_core::world::sys;
use rustix::fs::FlockOperation;
use rustix::process::WaitStatus;
use rustix::thread::set_name;

use super::journal::Journal;
use super::keep::{self, Sockets};
use super::requested::Workplace;
use super::{cgroups, run};

/// How long a new agent waits for the lock of one that does not answer. A watcher replaces a serving process that hangs
/// in less time, so after this the watcher itself hangs, and is ended.
const STUCK: Duration = Duration::from_secs(9);
/// How long it then waits for the lock.
const LOCK: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// After a serving process that lived shorter than this there is a pause, which grows each time.
const SHORT: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Starts the agent of a runtime directory, which stays in the background until no job needs it. Does nothing if one
/// runs already.
///
/// # Errors
/// When it cannot start.
pub(crate) fn start(config_path: &Path, runtime_dir: Option<&Path>) -> Result<(), Failure> {
    sys::guard_secrets();
    sys::allow_descriptors();
    let site = Site::load(config_path);
    let (runtime_dir, level) = match (site, runtime_dir) {
        (Ok(site), runtime_dir) => (runtime_dir.map_or(site.config.runtime_dir, Path::to_owned), site.config.log_level),
        // Jobs are served from their records. Each refresh tells why it fails.
        (Err(_), Some(runtime_dir)) => (runtime_dir.to_owned(), LogLevel::Info),
        (Err(error), None) => return Err(error.into()),
    };
    let journal = Journal::new(&runtime_dir, level);
    let runtime = RuntimeDirectory::open(&runtime_dir)?;
    let Some(mut lock) = only_one(&runtime_dir, &journal)? else { return Ok(()) };
    if let Some(slurmd) = slurmd(&runtime) {
        // cgroups cannot be written everywhere, and the agent can serve from within the job's as well.
        let _ = cgroups::join(slurmd).inspect_err(|why| {
            journal.write(LogLevel::Info, format_args!("gcp-wif: agent: it stays in its cgroup: {why}"));
        });
    }
    drop(runtime);
    let mut sockets = keep::inherited();
    // A process that has just started has most of its program in memory, and a copy of it only what it uses. The copy
    // shares the lock.
    sys::fork_alone(|| {
        sys::leave_session();
        watch(config_path, &runtime_dir, &mut lock, &mut sockets, &journal)
    })?;
    Ok(())
}

/// The slurmd that started one of the jobs, if it still runs.
fn slurmd(runtime: &RuntimeDirectory) -> Option<u32> {
    let records = runtime.jobs().into_iter().filter_map(|job| JobRecord::parse(&runtime.peek_record(job)?));
    let proc = Proc::new(PathBuf::new());
    records.map(|record| record.started_by.slurmd).find(|slurmd| proc.runs(*slurmd)).map(|slurmd| slurmd.pid)
}

/// Takes the lock of the runtime directory's agent. Returns none if another agent has it and answers. Ends one that
/// does not answer for long.
fn only_one(runtime_dir: &Path, journal: &Journal) -> Result<Option<File>, Failure> {
    let path = runtime_dir.join("agent.lock");
    let problem = |error: std::io::Error| Failure::of_agent(&format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(problem)?;
    let mut end = Instant::now() + STUCK;
    let mut is_ended = false;
    loop {
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(Some(file));
        }
        if wake::is_running(runtime_dir) {
            return Ok(None);
        }
        if Instant::now() >= end {
            if is_ended {
                return Ok(None);
            }
            journal
                .write(LogLevel::Warn, "gcp-wif: agent: another agent has the lock and does not answer, it is ended");
            end_processes(&mut file);
            (is_ended, end) = (true, Instant::now() + LOCK);
        }
        std::thread::sleep(LOOK);
    }
}

/// Writes into the lock which processes hold it.
fn sign(lock: &mut File, processes: &[ProcessId]) -> std::io::Result<()> {
    lock.rewind()?;
    lock.set_len(0)?;
    processes.iter().try_for_each(|process| writeln!(lock, "{} {}", process.pid, process.start))
}

/// Ends the processes that a lock names, if they are still the same.
fn end_processes(lock: &mut File) {
    let (mut text, proc) = (String::new(), Proc::new(PathBuf::new()));
    let _ = lock.rewind().and_then(|()| lock.read_to_string(&mut text));
    for line in text.lines() {
        let process = line
            .split_once(' ')
            .and_then(|(pid, start)| Some(ProcessId { pid: pid.parse().ok()?, start: start.parse().ok()? }));
        if let Some(process) = process {
            proc.end(process);
        }
    }
}

/// Starts a new serving process whenever one dies, until one ends by itself or its directory is gone.
fn watch(config_path: &Path, runtime_dir: &Path, lock: &mut File, sockets: &mut Sockets, journal: &Journal) -> i32 {
    // For ps; both have the same arguments.
    let _ = set_name(c"gcp-wif-watch");
    let proc = Proc::new(PathBuf::new());
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        let mut started = |serving: u32| {
            // If this fails, a later agent cannot end these two when they hang.
            let _ = sign(lock, &[proc.this(), proc.process(serving)]);
        };
        let ended = keep::run(sockets, &mut started, |sockets, watcher| {
            let _ = set_name(c"gcp-wif-serve");
            let workplace = Workplace {
                config_path: config_path.to_owned(),
                runtime_dir: runtime_dir.to_owned(),
                journal: journal.clone(),
            };
            match run::serve(workplace, sockets, watcher) {
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
            Err(error) => journal.write(LogLevel::Error, format_args!("gcp-wif: agent: {error}")),
        }
        if lock.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
            // The directory was removed, and the lock with it: another agent may have begun in its place.
            return 0;
        }
        if begun.elapsed() < SHORT {
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        } else {
            pause = FIRST_PAUSE;
        }
    }
}

fn ending(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}
