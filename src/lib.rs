//! The SPANK plugin. Each hook collects facts, calls the core and passes on the outcome.
//!
//! No hook returns an error, because Slurm would drain the node if the plugin is `required` (spank(8), Errors). No hook
//! lets a panic escape, because that would poison slurm-spank's state and fail all later hooks.

#![allow(missing_docs, reason = "SPANK_PLUGIN! exports statics, and nothing else is public")]

mod host;
mod options;

use std::error::Error;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use once_cell::unsync::OnceCell;
use slurm_spank::{Context, LogLevel, Plugin, SPANK_PLUGIN, SpankHandle, slurm_spank_log, spank_log};

use gcp_wif_core::job::lifecycle;
use gcp_wif_core::job::node::{Job, Node, Outcome};
use gcp_wif_core::job::processes::Proc;
use gcp_wif_core::job::worker::Worker;
use gcp_wif_core::plan::environment::Change;
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::config::{DEFAULT_PATH, DEFAULT_RUNTIME_DIR};
use gcp_wif_core::policy::request::{OptionError, Request};
use gcp_wif_core::words::names::StepId;
use gcp_wif_core::world::clock::SystemClock;
use gcp_wif_core::world::sys;
use host::{SpankHost, own_variable};

#[allow(unreachable_pub)]
mod release {
    include!(concat!(env!("OUT_DIR"), "/slurm_version.rs"));
}

SPANK_PLUGIN!(b"gcp_wif", release::SLURM_VERSION_NUMBER, GcpWif);

const VERSION: &[u8] = concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes();

/// The plugin's version, which `gcp-wif doctor` reads from the file.
#[allow(non_upper_case_globals, unreachable_pub, reason = "an exported symbol, named like Slurm's")]
// SAFETY: no other symbol in the program has this name.
#[unsafe(no_mangle)]
pub static plugin_gcp_wif_version: [u8; VERSION.len()] = match VERSION.first_chunk() {
    Some(version) => *version,
    None => [0; VERSION.len()],
};

#[derive(Default)]
struct GcpWif {
    config_path: OnceCell<PathBuf>,
    outcome: Outcome,
    /// The request of the first component of a heterogeneous job.
    first_request: Option<Request>,
}

type HookResult = Result<(), Box<dyn Error>>;

// SAFETY: the task hooks run in a child that slurmstepd forks. There, they only read memory and call _exit, and the
// plugin has no thread in the parent.
unsafe impl Plugin for GcpWif {
    fn setup(&mut self, _: &mut SpankHandle) -> HookResult {
        // slurm-spank's default would send the debug lines of all crates to slurmd's log.
        Ok(())
    }

    fn report_error(&self, _: &mut SpankHandle, error: &dyn Error) {
        spank_log(LogLevel::Error, &format!("gcp-wif: {error}"));
    }

    fn init(&mut self, spank: &mut SpankHandle) -> HookResult {
        self.guard(|_| match spank.context() {
            Ok(Context::Local | Context::Allocator | Context::Remote) => options::register(spank),
            _ => Ok(()),
        })
    }

    fn init_post_opt(&mut self, spank: &mut SpankHandle) -> HookResult {
        self.guard(|plugin| match spank.context() {
            Ok(context @ (Context::Local | Context::Allocator)) => plugin.submission(spank, context),
            Ok(Context::Remote) => plugin.step(spank),
            _ => Ok(()),
        })
    }

    fn job_prolog(&mut self, spank: &mut SpankHandle) -> HookResult {
        self.guard(|plugin| {
            let (facts, groups) = (|| host::prolog_facts(spank), || Ok(Vec::new()));
            let (id, uid, gid) = (host::job_id(spank)?, spank.job_uid()?, spank.job_gid()?);
            let job = Job { id, uid, gid, groups: &groups, facts: &facts };
            plugin.node(spank)?.serve(|node| node.prolog(&SpankHost(spank), &job));
            Ok(())
        })
    }

    fn user_init(&mut self, _: &mut SpankHandle) -> HookResult {
        self.guard(|plugin| {
            plugin.outcome.lines().iter().for_each(|line| slurm_spank_log(line));
            Ok(())
        })
    }

    fn task_init(&mut self, _: &mut SpankHandle) -> HookResult {
        self.guard(|plugin| if plugin.outcome.ends_tasks() { sys::end_process(1) } else { Ok(()) })
    }

    fn exit(&mut self, spank: &mut SpankHandle) -> HookResult {
        self.guard(|plugin| match (spank.context(), &plugin.outcome) {
            (Ok(Context::Remote), Outcome::Issued { directory, .. }) => {
                plugin.node(spank)?.serve(|node| node.step_exit(&SpankHost(spank), directory));
                Ok(())
            }
            (Ok(Context::Remote), _) if StepId(spank.job_stepid()?) == StepId::EXTERN => {
                let job = host::job_id(spank)?;
                plugin.node(spank)?.serve(|node| node.extern_exit(&SpankHost(spank), job));
                Ok(())
            }
            _ => Ok(()),
        })
    }

    fn job_epilog(&mut self, spank: &mut SpankHandle) -> HookResult {
        self.guard(|plugin| {
            let job = host::job_id(spank)?;
            plugin.node(spank)?.serve(|node| node.epilog(&SpankHost(spank), job));
            Ok(())
        })
    }
}

/// The values that a [`Node`] borrows.
struct NodeParts {
    config_path: PathBuf,
    worker: Worker,
    processes: Proc,
}

impl NodeParts {
    fn serve<T>(&self, work: impl FnOnce(&Node<'_>) -> T) -> T {
        if cfg!(feature = "panics") {
            #[allow(clippy::panic, reason = "compiled only for a test")]
            {
                panic!("as a test wishes")
            }
        }
        let default_dir = Path::new(DEFAULT_RUNTIME_DIR);
        let Self { config_path, worker, processes } = self;
        work(&Node { config_path, default_dir, exchanger: worker, clock: &SystemClock, processes })
    }
}

impl GcpWif {
    /// Runs a hook's work. Logs errors and panics, and always returns success.
    fn guard(&mut self, work: impl FnOnce(&mut Self) -> HookResult) -> HookResult {
        let problem = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a bug in gcp-wif, please report it".to_owned(),
        };
        // The text of a `Failure` already begins with the plugin's name.
        let problem = problem.strip_prefix("gcp-wif: ").unwrap_or(&problem);
        spank_log(LogLevel::Error, &format!("gcp-wif: {problem}"));
        Ok(())
    }

    fn submission(&mut self, spank: &SpankHandle, context: Context) -> HookResult {
        let (all, inherited) = (options::all(spank), options::inherited(&own_variable));
        let (request, changes) = match lifecycle::submission(&all, &inherited, &own_variable) {
            Ok(accepted) => accepted,
            Err(failure) => refuse(&failure),
        };
        for change in changes {
            match change {
                Change::Set(name, value) => sys::set_own_variable(name, value.expose()),
                Change::Unset(name) => sys::remove_own_variable(name),
            }
        }
        if context == Context::Allocator {
            options::forget_overruled(spank, &all, &inherited);
            let explicit = request.is_explicit();
            let first = self.first_request.get_or_insert(request);
            if explicit && !first.is_explicit() {
                refuse(&OptionError::LaterComponent.into());
            }
        }
        Ok(())
    }

    fn step(&mut self, spank: &SpankHandle) -> HookResult {
        // If something fails unexpectedly below, a step with an explicit request must not run without credentials.
        let is_explicit = options::all(spank).request().is_ok_and(|request| request.is_explicit());
        let failed = |failure| if is_explicit { Outcome::Failed { failure, explicit: true } } else { Outcome::None };
        self.outcome = failed(Failure::internal());
        options::forget_given(spank);
        let (facts, groups) = (|| host::step_facts(spank), || host::groups(spank));
        let (id, uid, gid) = (host::job_id(spank)?, spank.job_uid()?, spank.job_gid()?);
        let job = Job { id, uid, gid, groups: &groups, facts: &facts };
        let step = StepId(spank.job_stepid()?);
        let node = self.node(spank).inspect_err(|failure| self.outcome = failed(failure.clone()))?;
        self.outcome = node.serve(|node| node.step(&SpankHost(spank), &job, step));
        Ok(())
    }

    fn node(&self, spank: &SpankHandle) -> Result<NodeParts, Failure> {
        let arguments = || spank.plugin_argv().map_err(|_| Failure::internal());
        let config_path = self.config_path.get_or_try_init(|| config_path(&arguments()?))?.clone();
        let processes = Proc::new(config_path.clone());
        Ok(NodeParts { config_path, worker: Worker, processes })
    }
}

/// Returns the value of `config=`, the plugin's only argument in plugstack.conf, or the default path.
fn config_path(arguments: &[&str]) -> Result<PathBuf, Failure> {
    let mut path = PathBuf::from(DEFAULT_PATH);
    for argument in arguments {
        match argument.strip_prefix("config=") {
            Some(value) if value.starts_with('/') => path = value.into(),
            _ => return Err(Failure::of_argument(argument)),
        }
    }
    Ok(path)
}

/// Exits srun, sbatch or salloc with status 1. Slurm would ignore an error of the hook if the plugin is `optional`.
fn refuse(failure: &Failure) -> ! {
    let _ = writeln!(std::io::stderr(), "{failure}");
    sys::end_process(1)
}
