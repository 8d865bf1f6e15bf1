//! Implements the core's interface to Slurm with SPANK.

use std::env;
use std::ffi::OsStr;

use slurm_spank::{LogLevel, SpankError, SpankHandle, spank_log};

use crate::options;
use gcp_wif_core::job::node::{Host, Log};
use gcp_wif_core::plan::environment::Change;
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::facts::{JobFacts, Placement};
use gcp_wif_core::policy::request::Options;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::world::sys;

/// The SPANK handle of a hook.
pub(crate) struct SpankHost<'a, 'b>(pub(crate) &'a SpankHandle<'b>);

impl Log for SpankHost<'_, '_> {
    fn log(&self, line: &str) {
        spank_log(LogLevel::Info, line);
    }
}

impl Host for SpankHost<'_, '_> {
    fn options(&self) -> Options {
        options::all(self.0)
    }

    fn inherited_options(&self) -> Options {
        options::inherited(&|name| self.variable(name))
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.0.getenv_lossy(name).ok().flatten()
    }

    fn change(&self, change: &Change) {
        let result = match change {
            Change::Set(name, value) => self.0.setenv(name, value.expose(), true).map_err(|_| *name),
            Change::Unset(name) => self.0.unsetenv(name).map_err(|_| *name),
        };
        if let Err(name) = result {
            self.log(&format!("gcp-wif: Slurm refuses to change {name} in the job's environment"));
        }
    }

    fn environment(&self) -> Vec<(String, String)> {
        let pair =
            |entry: &OsStr| entry.to_str()?.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.0.job_env_os().unwrap_or_default().into_iter().filter_map(pair).collect()
    }

    fn pyxis_is_earlier(&self) -> bool {
        sys::is_loaded_earlier("/spank_pyxis.so")
    }
}

/// Returns a variable of the process itself: srun, sbatch or salloc.
pub(crate) fn own_variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Returns the job of a hook.
pub(crate) fn job_id(spank: &SpankHandle) -> Result<JobId, SpankError> {
    spank.job_id().map(JobId)
}

/// Returns the job's facts in the prolog. slurmd builds the prolog's environment from the signed job credential
/// (`prep_script_slurmd.c`, `_build_env`), so its variables can be trusted.
pub(crate) fn prolog_facts(spank: &SpankHandle) -> Result<JobFacts, Failure> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    let placement = Placement { account: variable("SLURM_JOB_ACCOUNT"), partition: variable("SLURM_JOB_PARTITION") };
    let (uid, gid) = (spank.job_uid().map_err(unknown)?, spank.job_gid().map_err(unknown)?);
    let user = variable("SLURM_JOB_USER").or_else(|| sys::user_name(uid));
    Ok(JobFacts {
        job: job_id(spank).map_err(unknown)?,
        uid,
        gid,
        groups: sys::groups(user.as_deref(), gid),
        user,
        placement: Some(placement),
    })
}

/// Returns the job's facts at a step's start. They lack account and partition, because the user controls the step's
/// environment.
pub(crate) fn step_facts(spank: &SpankHandle) -> Result<JobFacts, Failure> {
    let (uid, gid) = (spank.job_uid().map_err(unknown)?, spank.job_gid().map_err(unknown)?);
    let groups = sys::named_groups(groups(spank)?);
    Ok(JobFacts { job: job_id(spank).map_err(unknown)?, uid, gid, user: sys::user_name(uid), groups, placement: None })
}

/// Returns the groups of a step's processes.
pub(crate) fn groups(spank: &SpankHandle) -> Result<Vec<u32>, Failure> {
    let mut groups = spank.job_supplementary_gids().map_err(unknown)?;
    groups.push(spank.job_gid().map_err(unknown)?);
    Ok(groups)
}

/// Converts the error for an item that Slurm always provides.
fn unknown(_: SpankError) -> Failure {
    Failure::internal()
}
