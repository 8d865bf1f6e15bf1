//! Slurm and the node's processes, as the hooks see them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gcp_wif_core::job::node::{Host, Log};
use gcp_wif_core::job::processes::{Processes, User};
use gcp_wif_core::job::wake::Asked;
use gcp_wif_core::plan::environment::Change;
use gcp_wif_core::plan::record::{Generation, Port, ProcessId};
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::config::Config;
use gcp_wif_core::policy::request::Options;
use gcp_wif_core::testing::Environment;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::secret::Secret;

/// Slurm's side of a hook.
#[derive(Default)]
pub struct Hook {
    pub options: Options,
    pub environment: Environment,
    pub lines: RefCell<Vec<String>>,
}

impl Log for Hook {
    fn log(&self, line: &str) {
        self.lines.borrow_mut().push(line.to_owned());
    }
}

impl Host for Hook {
    fn options(&self) -> Options {
        self.options.clone()
    }

    fn inherited_options(&self) -> Options {
        self.options.clone()
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

/// The node's processes.
#[derive(Default)]
pub struct Simulated {
    /// The PID of slurmd. It changes with each restart.
    pub slurmd: Cell<u32>,
    /// The jobs that have a slurmstepd.
    pub living: RefCell<BTreeSet<JobId>>,
    /// Whether an agent runs.
    pub has_agent: Cell<bool>,
    /// Whether a hook has woken the agent since the last look.
    pub is_woken: Cell<bool>,
}

impl Simulated {
    fn wake(&self) {
        self.has_agent.set(true);
        self.is_woken.set(true);
    }
}

impl Processes for Simulated {
    fn generation(&self) -> Generation {
        Generation { boot: "boot".to_owned(), slurmd: ProcessId { pid: self.slurmd.get(), start: 1 } }
    }

    fn living(&self) -> BTreeMap<JobId, ProcessId> {
        self.living.borrow().iter().map(|job| (*job, ProcessId { pid: 100_000 + job.0, start: 1 })).collect()
    }

    fn runs(&self, process: ProcessId) -> bool {
        process.pid.checked_sub(100_000).is_some_and(|job| self.living.borrow().contains(&JobId(job)))
    }

    fn this(&self) -> ProcessId {
        ProcessId { pid: 9, start: 9 }
    }

    fn end(&self, _: ProcessId) {}

    fn detach(&self, work: &mut dyn FnMut()) {
        work();
    }

    fn new_port(&self, taken: &BTreeSet<u16>) -> Result<Port, Failure> {
        let number = (20_001..).find(|port| !taken.contains(port)).unwrap();
        Ok(Port { number, handle: Secret::new(format!("handle-{number}")) })
    }

    fn wake_agent(&self, _: &Config, _: &Path, _: Option<Asked>) -> Result<BTreeSet<u16>, Failure> {
        self.wake();
        Ok((20_001..=29_000).collect())
    }

    fn ask_agent(&self, _: &Path) -> Option<Asked> {
        None
    }

    fn tell_agent(&self, _: &Path) {
        // This does not start an agent.
        self.is_woken.set(self.has_agent.get());
    }

    fn as_user(&self, _: &User<'_>, answer: &mut Vec<u8>, work: &mut dyn FnMut() -> Vec<u8>) -> Result<(), Failure> {
        *answer = work();
        Ok(())
    }
}
