//! The node's processes: slurmstepds, workers and the agent.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::job::wake::Asked;
use crate::job::{ports, wake};
use crate::plan::record::{Generation, Port, ProcessId};
use crate::plan::report::Failure;
use crate::policy::config::Config;
use crate::words::names::JobId;
use crate::world::proc::ProcFs;
use crate::world::sys::{self, ChildError};

/// How long reading the user's files may take.
const USERS_TIME: Duration = Duration::from_secs(5);

/// The user that a process becomes.
#[derive(Debug, Clone, Copy)]
pub struct User<'a> {
    /// The user ID.
    pub uid: u32,
    /// The ID of the primary group.
    pub gid: u32,
    /// The IDs of all groups.
    pub groups: &'a [u32],
}

/// Information about the node's processes, and operations on them.
pub trait Processes {
    /// Returns the slurmd that runs this prolog, and its boot.
    fn generation(&self) -> Generation;
    /// Returns the jobs with a running slurmstepd, and one slurmstepd of each. Walks all processes of the node.
    fn living(&self) -> BTreeMap<JobId, ProcessId>;
    /// Returns whether this very process still runs.
    fn runs(&self, process: ProcessId) -> bool;
    /// Returns this process.
    fn this(&self) -> ProcessId;
    /// Kills a process, if it is still the same one.
    fn end(&self, process: ProcessId);
    /// Runs `work` in a process that outlives the hook.
    fn detach(&self, work: &mut dyn FnMut());
    /// Returns a new port for the agent that is not in `taken`.
    ///
    /// # Errors
    /// When no port is free, or no random bytes are available.
    fn new_port(&self, taken: &BTreeSet<u16>) -> Result<Port, Failure>;
    /// Makes the agent of a runtime directory read the records, and starts an agent if none runs. Waits for `asked`
    /// instead if the agent was already asked. Returns the ports that the agent serves.
    ///
    /// # Errors
    /// When the agent does not respond.
    fn wake_agent(&self, config: &Config, runtime_dir: &Path, asked: Option<Asked>) -> Result<BTreeSet<u16>, Failure>;
    /// Asks the agent to read the records and does not wait for its response. Returns `None` if it does not run.
    fn ask_agent(&self, runtime_dir: &Path) -> Option<Asked>;
    /// If the agent runs, makes it read the records and waits for that.
    fn tell_agent(&self, runtime_dir: &Path);
    /// Runs `work` in a process that has become the job's user, and stores its result in `answer`.
    ///
    /// # Errors
    /// When the process gives no answer, for example because the user's home file system does not respond.
    fn as_user(&self, user: &User<'_>, answer: &mut Vec<u8>, work: &mut dyn FnMut() -> Vec<u8>) -> Result<(), Failure>;
}

/// The node's real processes.
#[derive(Debug)]
pub struct Proc {
    proc: ProcFs,
    /// The process that started this one.
    parent: u32,
    config_path: PathBuf,
}

impl Proc {
    /// Creates the interface. A new agent is started with `config_path`.
    #[must_use]
    pub fn new(config_path: PathBuf) -> Self {
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs());
        Self { proc: ProcFs::default(), parent, config_path }
    }

    /// Returns the process with this ID and its start time.
    pub fn process(&self, pid: u32) -> ProcessId {
        ProcessId { pid, start: self.proc.start(pid).unwrap_or(0) }
    }
}

impl Processes for Proc {
    fn generation(&self) -> Generation {
        Generation { boot: self.proc.boot_id(), slurmd: self.process(self.parent) }
    }

    fn living(&self) -> BTreeMap<JobId, ProcessId> {
        let pids = self.proc.pids().into_iter();
        // A user can give a process any title, and change its effective user to root with a setuid program, but cannot
        // make root its real user.
        let of_root = pids.filter(|pid| self.proc.real_uid(*pid) == Some(0));
        of_root.filter_map(|pid| Some((stepd_job(&self.proc.command_line(pid)?)?, self.process(pid)))).collect()
    }

    fn runs(&self, process: ProcessId) -> bool {
        self.proc.start(process.pid) == Some(process.start)
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
        // If no process can be started, the step does the work itself.
        let _ = sys::detach(work);
    }

    fn new_port(&self, taken: &BTreeSet<u16>) -> Result<Port, Failure> {
        ports::new_port(taken)
    }

    fn wake_agent(&self, config: &Config, runtime_dir: &Path, asked: Option<Asked>) -> Result<BTreeSet<u16>, Failure> {
        wake::wake(&config.command, &self.config_path, runtime_dir, asked)
    }

    fn ask_agent(&self, runtime_dir: &Path) -> Option<Asked> {
        wake::begin(runtime_dir)
    }

    fn tell_agent(&self, runtime_dir: &Path) {
        wake::is_running(runtime_dir);
    }

    fn as_user(&self, user: &User<'_>, answer: &mut Vec<u8>, work: &mut dyn FnMut() -> Vec<u8>) -> Result<(), Failure> {
        let result = sys::in_child_of_user(USERS_TIME, (user.uid, user.gid, user.groups), work);
        *answer = result.map_err(|error| match error {
            ChildError::Timeout => Failure::of_enroot(
                "the user's enroot configuration cannot be read in time; is the home file system responding?",
            ),
            _ => Failure::of_enroot("the user's enroot configuration cannot be read"),
        })?;
        Ok(())
    }
}

/// Returns the job of a slurmstepd, whose title is `slurmstepd: [JOB.STEP]` (`slurmstepd.c`, setproctitle).
fn stepd_job(cmdline: &[u8]) -> Option<JobId> {
    let text = std::str::from_utf8(cmdline).ok()?;
    let job = text.strip_prefix("slurmstepd: [")?.split(['.', ']', '_']).next()?;
    job.parse().ok().map(JobId)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn only_the_same_process_is_killed() {
        let proc = Proc::new(PathBuf::new());
        let mut child = std::process::Command::new("sleep").arg("300").spawn().unwrap();
        let process = proc.process(child.id());
        proc.end(ProcessId { start: process.start + 1, ..process });
        assert!(child.try_wait().unwrap().is_none(), "another process of the same number was ended");
        proc.end(process);
        assert!(!child.wait().unwrap().success());
    }
}
