//! Starts one agent for each runtime directory. Its watcher restarts the serving process.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
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

use super::cgroups;
use super::journal::Journal;
use super::keep::{self, Sockets};
use super::program::{self, Known};
use super::requested::Workplace;
use super::run::{self, Beginning, End};
use super::service::{self, Reception, STUCK, Stop};

/// How long a new agent waits for the lock after killing a stuck one.
const LOCK: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);
/// A serving process that ends sooner than this is restarted after a pause, which grows each time.
const SHORT: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The interval at which a service checks an invalid configuration again.
const NO_CONFIGURATION: Duration = Duration::from_secs(5);
/// The exit status of a serving process that ends for an upgrade.
const UPGRADE: i32 = 3;

/// Starts the agent of a runtime directory, which stays in the background until no job needs it. Does nothing if one is
/// already running. The agent also logs to `syslog`, if given.
///
/// # Errors
/// When it cannot start.
pub(crate) fn start(config_path: &Path, runtime_dir: Option<&Path>, syslog: Option<&Path>) -> Result<(), Failure> {
    // slurmstepd or a service may have blocked them.
    sys::release_signals();
    let mut sockets = keep::inherited();
    let (runtime_dir, journal) = place(config_path, runtime_dir, syslog)?;
    let runtime = RuntimeDirectory::open(&runtime_dir)?;
    let lock = match keep::inherited_lock(&mut sockets) {
        Some(lock) => lock.into(),
        None => match only_one(&runtime_dir, &journal)? {
            Some(lock) => lock,
            None => return Ok(()),
        },
    };
    // If a service used to run the agent, it did not return in time.
    service::forget(&runtime_dir);
    if let Some(slurmd) = slurmd(&runtime) {
        // If the cgroups cannot be changed, the agent can still serve from within the job's.
        let _ = cgroups::join(slurmd).inspect_err(|why| {
            journal.write(LogLevel::Info, format_args!("gcp-wif: agent: the agent stays in its cgroup: {why}"));
        });
    }
    drop(runtime);
    let config_path = config_path.to_owned();
    let mut watcher = Watcher { config_path, runtime_dir, journal, lock, sockets, known: Known::new(), stop: None };
    // Fork for the memory: a newly started process has most of its program in memory, and the child only what it uses.
    // The child shares the lock.
    sys::fork_alone(|| {
        sys::leave_session();
        watcher.watch()
    })?;
    Ok(())
}

/// Runs the agent of a runtime directory in the foreground until a service manager ends it. Takes over the ports of an
/// agent that is already running. Reports an invalid configuration and waits until it is valid.
///
/// # Errors
/// When it cannot start.
pub(crate) fn stay(
    config_path: &Path,
    runtime_dir: Option<&Path>,
    syslog: Option<&Path>,
    complain: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let problem = |error: std::io::Error| Failure::of_agent(&error.to_string());
    let stop = Stop::of_service().map_err(problem)?;
    let mut sockets = keep::inherited();
    let mut told = String::new();
    let (runtime_dir, journal) = loop {
        let trouble = match place(config_path, runtime_dir, syslog) {
            Ok(place) => break place,
            Err(trouble) => trouble.to_string(),
        };
        if trouble != told {
            complain(&trouble);
            told = trouble;
        }
        if stop.is_told_within(NO_CONFIGURATION) {
            return Ok(());
        }
    };
    drop(RuntimeDirectory::open(&runtime_dir)?);
    let mut reception = Reception::new(&runtime_dir);
    let lock = match keep::inherited_lock(&mut sockets) {
        Some(lock) => lock.into(),
        None => loop {
            reception.attend(&runtime_dir, &mut sockets).map_err(problem)?;
            let mut lock = open_lock(&runtime_dir)?;
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                reception.receive(&mut sockets);
                break lock;
            }
            if stop.is_told_within(LOOK) {
                service::forget(&runtime_dir);
                return Ok(());
            }
            if reception.is_stuck() {
                end_stuck(&mut lock, &journal);
            }
        },
    };
    drop(reception);
    let config_path = config_path.to_owned();
    let stop = Some(stop);
    let mut watcher = Watcher { config_path, runtime_dir, journal, lock, sockets, known: Known::new(), stop };
    watcher.watch();
    service::forget(&watcher.runtime_dir);
    Ok(())
}

/// Determines the runtime directory and the log, and prepares the process.
fn place(config_path: &Path, runtime_dir: Option<&Path>, syslog: Option<&Path>) -> Result<(PathBuf, Journal), Failure> {
    sys::guard_secrets();
    sys::allow_descriptors();
    let (runtime_dir, level) = match (Site::load(config_path), runtime_dir) {
        (Ok(site), runtime_dir) => (runtime_dir.map_or(site.config.runtime_dir, Path::to_owned), site.config.log_level),
        // Jobs are served from their records even without a configuration. Each refresh reports its failure.
        (Err(_), Some(runtime_dir)) => (runtime_dir.to_owned(), LogLevel::Info),
        (Err(error), None) => return Err(error.into()),
    };
    let journal = Journal::new(&runtime_dir, syslog, level);
    Ok((runtime_dir, journal))
}

/// Returns the slurmd that started one of the jobs, if it still runs.
fn slurmd(runtime: &RuntimeDirectory) -> Option<u32> {
    let records = runtime.jobs().into_iter().filter_map(|job| JobRecord::parse(&runtime.peek_record(job)?));
    let proc = Proc::new(PathBuf::new());
    records.map(|record| record.started_by.slurmd).find(|slurmd| proc.runs(*slurmd)).map(|slurmd| slurmd.pid)
}

/// Opens the agent's lock file without taking the lock.
fn open_lock(runtime_dir: &Path) -> Result<File, Failure> {
    let path = runtime_dir.join("agent.lock");
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true).mode(0o600);
    options.open(&path).map_err(|error| Failure::of_agent(&format!("{}: {error}", path.display())))
}

/// Takes the agent's lock. Returns `None` if another agent has it and responds. Kills an agent that does not respond
/// for too long.
fn only_one(runtime_dir: &Path, journal: &Journal) -> Result<Option<File>, Failure> {
    let mut file = open_lock(runtime_dir)?;
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
            end_stuck(&mut file, journal);
            (is_ended, end) = (true, Instant::now() + LOCK);
        }
        std::thread::sleep(LOOK);
    }
}

/// Writes the processes that hold the lock into its file.
fn sign(lock: &mut File, processes: &[ProcessId]) -> std::io::Result<()> {
    lock.rewind()?;
    lock.set_len(0)?;
    processes.iter().try_for_each(|process| writeln!(lock, "{} {}", process.pid, process.start))
}

/// Kills the processes that a lock file names, if they are still the same.
fn end_stuck(lock: &mut File, journal: &Journal) {
    journal.write(LogLevel::Warn, "gcp-wif: agent: another agent has the lock and does not respond, it is killed");
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

/// Watches the serving process.
struct Watcher {
    config_path: PathBuf,
    runtime_dir: PathBuf,
    journal: Journal,
    lock: File,
    sockets: Sockets,
    known: Known,
    /// The service manager's request to end, if there is a service manager.
    stop: Option<Stop>,
}

impl Watcher {
    /// Restarts the serving process whenever it dies, until it ends by itself or the runtime directory is gone.
    fn watch(&mut self) -> i32 {
        // Distinguishes the two processes in ps, because both have the same arguments.
        let _ = set_name(c"gcp-wif-watch");
        let proc = Proc::new(PathBuf::new());
        let nobody = Stop::default();
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let Self { config_path, runtime_dir, journal, lock, sockets, known, stop } = self;
            let (is_service, stop) = (stop.is_some(), stop.as_ref().unwrap_or(&nobody));
            let mut started = |serving: u32| {
                // If this fails, a later agent cannot kill these processes if they hang.
                let _ = sign(lock, &[proc.this(), proc.process(serving)]);
            };
            let ended = keep::run(sockets, &mut started, stop.descriptor(), |sockets, watcher| {
                let _ = set_name(c"gcp-wif-serve");
                let (config_path, runtime_dir) = (config_path.clone(), runtime_dir.clone());
                let workplace = Workplace { config_path, runtime_dir, journal: journal.clone() };
                match run::serve(Beginning { workplace, sockets, watcher, known: known.clone(), is_service }) {
                    Ok(End::Over) => 0,
                    Ok(End::Upgrade) => UPGRADE,
                    Err(error) => {
                        journal.write(LogLevel::Error, format_args!("gcp-wif: agent: {error}"));
                        1
                    }
                }
            });
            if stop.is_told_within(Duration::ZERO) {
                return 0;
            }
            match ended {
                Ok(status) if status.exit_status() == Some(0) => return 0,
                Ok(status) if status.exit_status() == Some(UPGRADE) => self.upgrade(),
                Ok(status) => {
                    let how = ending(status);
                    self.journal
                        .write(LogLevel::Warn, format_args!("gcp-wif: agent: the serving process ended ({how})"));
                }
                Err(error) => self.journal.write(LogLevel::Error, format_args!("gcp-wif: agent: {error}")),
            }
            if self.lock.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
                // The directory was removed with the lock, and another agent may have started in its place.
                return 0;
            }
            if begun.elapsed() < SHORT {
                if self.stop.as_ref().unwrap_or(&nobody).is_told_within(pause) {
                    return 0;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            } else {
                pause = FIRST_PAUSE;
            }
        }
    }

    /// Replaces this process with the site's command, which inherits lock and sockets. Returns only if that fails.
    fn upgrade(&mut self) {
        let Ok(site) = Site::load(&self.config_path) else { return };
        let command = site.config.command;
        let Some(file) = self.known.other(&command) else { return };
        let mut arguments = keep::arguments(&self.config_path, &self.runtime_dir);
        arguments.extend(self.stop.as_ref().map(|_| "--foreground".into()));
        let (lock, sockets) = (self.lock.as_fd(), &self.sockets);
        let hand_down = |start: &mut Command| keep::hand_down_all(lock, sockets, start);
        let why = program::replace(&mut self.known, file, &command, &arguments, hand_down);
        let text = format_args!("gcp-wif: agent: {} cannot be started, the agent continues: {why}", command.display())
            .to_string();
        self.journal.write(LogLevel::Error, text);
    }
}

fn ending(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}
