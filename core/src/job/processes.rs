//! The node's processes: which jobs live, and the worker that a prolog leaves behind.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::job::{ports, wake};
use crate::plan::record::{Generation, Port, ProcessId};
use crate::plan::report::Failure;
use crate::policy::config::Config;
use crate::policy::facts::JobFacts;
use crate::words::names::JobId;
use crate::world::sys::{self, ChildError};

/// How long a user's home may take to answer.
const USERS_TIME: Duration = Duration::from_secs(5);

/// What the node's processes tell, and what is done with them.
pub trait Processes {
    /// The slurmd that runs this prolog.
    fn generation(&self) -> Generation;
    /// Jobs with a living slurmstepd.
    fn living(&self) -> BTreeSet<JobId>;
    /// This process.
    fn this(&self) -> ProcessId;
    /// Ends a process, if it is still the same one.
    fn end(&self, process: ProcessId);
    /// Runs work in a process that outlives the hook.
    fn detach(&self, work: &mut dyn FnMut());
    /// A new port for the agent to serve, none of those that are taken.
    ///
    /// # Errors
    /// When there is no free port or no randomness.
    fn new_port(&self, taken: &BTreeSet<u16>) -> Result<Port, Failure>;
    /// Tells the agent of a runtime directory to look at the records again; starts it where it does not run. Returns the
    /// ports that it serves.
    ///
    /// # Errors
    /// When it does not answer.
    fn wake_agent(&self, config: &Config, runtime_dir: &Path) -> Result<BTreeSet<u16>, Failure>;
    /// Tells the agent, if it runs, to look at the records again.
    fn tell_agent(&self, runtime_dir: &Path);
    /// Runs work in a process that has become the job's user, and brings what it returns.
    ///
    /// # Errors
    /// When it does not answer, for example because the user's home hangs.
    fn as_user(&self, facts: &JobFacts, answer: &mut Vec<u8>, work: &mut dyn FnMut() -> Vec<u8>)
    -> Result<(), Failure>;
}

/// The real processes, below `/proc`.
#[derive(Debug)]
pub struct Proc {
    /// `/proc`, or a test's.
    pub root: PathBuf,
    /// The process that started this one.
    pub parent: u32,
    /// The site configuration's path, which a new agent is told.
    pub config_path: PathBuf,
}

impl Proc {
    /// The node's own.
    #[must_use]
    pub fn new(config_path: PathBuf) -> Self {
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs());
        Self { root: "/proc".into(), parent, config_path }
    }

    /// When a process started, in clock ticks after the boot.
    fn start(&self, pid: u32) -> Option<u64> {
        let stat = std::fs::read_to_string(self.root.join(format!("{pid}/stat"))).ok()?;
        // The name, in brackets, may hold blanks; the start is field 22 of proc(5), the 20th after the name.
        stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
    }

    /// Whether a process runs, and is not a later one of its number.
    pub fn runs(&self, process: ProcessId) -> bool {
        self.start(process.pid) == Some(process.start)
    }

    /// A process as it is now.
    pub fn process(&self, pid: u32) -> ProcessId {
        ProcessId { pid, start: self.start(pid).unwrap_or(0) }
    }
}

impl Processes for Proc {
    fn generation(&self) -> Generation {
        let boot = std::fs::read_to_string(self.root.join("sys/kernel/random/boot_id")).unwrap_or_default();
        Generation { boot: boot.trim().to_owned(), slurmd: self.process(self.parent) }
    }

    fn living(&self) -> BTreeSet<JobId> {
        let Ok(entries) = std::fs::read_dir(&self.root) else { return BTreeSet::new() };
        entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit))
            // A user can give a process any name, and by a program that is setuid also root's ownership.
            .filter(|entry| real_uid(&entry.path()) == Some(0))
            .filter_map(|entry| stepd_job(&std::fs::read(entry.path().join("cmdline")).ok()?))
            .collect()
    }

    fn this(&self) -> ProcessId {
        self.process(rustix::process::getpid().as_raw_pid().unsigned_abs())
    }

    fn end(&self, process: ProcessId) {
        let pid = i32::try_from(process.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|_| self.runs(process)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    fn detach(&self, work: &mut dyn FnMut()) {
        // Where no process can be started the step does the work.
        let _ = sys::detach(work);
    }

    fn new_port(&self, taken: &BTreeSet<u16>) -> Result<Port, Failure> {
        ports::new_port(taken)
    }

    fn wake_agent(&self, config: &Config, runtime_dir: &Path) -> Result<BTreeSet<u16>, Failure> {
        wake::wake(&config.command, &self.config_path, runtime_dir)
    }

    fn tell_agent(&self, runtime_dir: &Path) {
        wake::is_running(runtime_dir);
    }

    fn as_user(
        &self,
        facts: &JobFacts,
        answer: &mut Vec<u8>,
        work: &mut dyn FnMut() -> Vec<u8>,
    ) -> Result<(), Failure> {
        let groups: Vec<u32> = facts.groups.iter().map(|group| group.id).collect();
        let result = sys::in_child_of_user(USERS_TIME, (facts.uid, facts.gid, &groups), work);
        *answer = result.map_err(|error| match error {
            ChildError::Timeout => Failure::of_enroot(
                "the user's enroot configuration cannot be read in time; is the home file system responding?",
            ),
            _ => Failure::of_enroot("the user's enroot configuration cannot be read"),
        })?;
        Ok(())
    }
}

/// The real user of a process, proc_pid_status(5).
fn real_uid(process: &Path) -> Option<u32> {
    let status = std::fs::read_to_string(process.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
}

/// The job of a slurmstepd, which calls itself `slurmstepd: [JOB.STEP]` (`slurmstepd.c`, setproctitle).
fn stepd_job(cmdline: &[u8]) -> Option<JobId> {
    let text = std::str::from_utf8(cmdline).ok()?;
    let job = text.strip_prefix("slurmstepd: [")?.split(['.', ']', '_']).next()?;
    job.parse().ok().map(JobId)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_slurmstepd_is_known_by_its_title() {
        for (title, job) in [
            ("slurmstepd: [17.batch]\0", Some(17)),
            ("slurmstepd: [17.4294967291]", Some(17)),
            ("slurmstepd: [17.0]", Some(17)),
            ("slurmstepd: [17]", Some(17)),
            ("slurmstepd spank prolog", None),
            ("sleep 17", None),
            ("slurmstepd: [x.0]", None),
        ] {
            assert_eq!(stepd_job(title.as_bytes()), job.map(JobId), "{title:?}");
        }
    }

    #[test]
    fn a_process_start_is_read_after_its_name() {
        let directory = testing::directory();
        std::fs::create_dir_all(directory.join("7")).unwrap();
        std::fs::create_dir_all(directory.join("sys/kernel/random")).unwrap();
        std::fs::write(directory.join("sys/kernel/random/boot_id"), "a-b-c\n").unwrap();
        let fields: Vec<String> = (4..=30).map(|n| n.to_string()).collect();
        std::fs::write(directory.join("7/stat"), format!("7 (sl) urmd) S {}", fields.join(" "))).unwrap();
        let proc = Proc { root: directory.to_path_buf(), parent: 7, config_path: PathBuf::new() };
        let slurmd = ProcessId { pid: 7, start: 22 };
        assert_eq!(proc.generation(), Generation { boot: "a-b-c".to_owned(), slurmd });
    }

    #[test]
    fn only_the_same_process_is_ended() {
        let proc = Proc { root: "/proc".into(), parent: 1, config_path: PathBuf::new() };
        let mut child = std::process::Command::new("sleep").arg("300").spawn().unwrap();
        let process = proc.process(child.id());
        proc.end(ProcessId { start: process.start + 1, ..process });
        assert!(child.try_wait().unwrap().is_none(), "another process of the same number was ended");
        proc.end(process);
        assert!(!child.wait().unwrap().success());
    }
}
