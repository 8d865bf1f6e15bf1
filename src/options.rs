//! The plugin's options, and the variables in which Slurm passes them on.

use std::error::Error;

use slurm_spank::{SpankHandle, SpankOption};

use gcp_wif_core::policy::request::{Options, Request};
use gcp_wif_core::world::sys;

const WANTED: &str = "gcp-wif";
const REFUSED: &str = "no-gcp-wif";
const SERVICE_ACCOUNT: &str = "gcp-wif-service-account";

/// The prefix of Slurm's variable for an option, in the command that has the option and in the job's control
/// environment (`src/common/spank.c`, `_opt_env_name`).
const GIVEN: &str = "_SLURM_SPANK_OPTION_gcp_wif_";
/// The prefix of the same variable in the environment of the job's processes.
const INHERITED: &str = "SLURM_SPANK__SLURM_SPANK_OPTION_gcp_wif_";

/// Registers the options.
pub(crate) fn register(spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
    let usage = "[gcp-wif] Google Cloud credentials for the job, or it fails.";
    spank.register_option(SpankOption::new(WANTED).usage(usage))?;
    let usage = "[gcp-wif] no Google Cloud credentials, even if the site gives them to all jobs.";
    spank.register_option(SpankOption::new(REFUSED).usage(usage))?;
    let usage = "[gcp-wif] credentials of this service account, or the job fails; implies --gcp-wif.";
    spank.register_option(SpankOption::new(SERVICE_ACCOUNT).takes_value("EMAIL").usage(usage))?;
    Ok(())
}

/// Returns the effective options, including inherited ones.
pub(crate) fn all(spank: &SpankHandle) -> Options {
    Options {
        wanted: spank.is_option_set(WANTED),
        refused: spank.is_option_set(REFUSED),
        service_account: spank.get_option_value_lossy(SERVICE_ACCOUNT).map(std::borrow::Cow::into_owned),
    }
}

/// Returns the options of the job's submission, from the environment. A user can forge them, so they are only a
/// request.
pub(crate) fn inherited(variable: &dyn Fn(&str) -> Option<String>) -> Options {
    let value = |name: &str| variable(&variable_name(INHERITED, name));
    Options {
        wanted: value(WANTED).is_some(),
        refused: value(REFUSED).is_some(),
        service_account: value(SERVICE_ACCOUNT),
    }
}

/// Removes inherited options that the job's own options override. A job that is submitted from inside another job
/// inherits the outer job's options, which must not reach its prolog and steps.
pub(crate) fn forget_overruled(spank: &SpankHandle, all: &Options, inherited: &Options) {
    let overruled: &[&str] = match Request::of_step(all, inherited, None) {
        Ok(Request::Wanted { .. }) => &[REFUSED],
        Ok(Request::Refused) => &[WANTED, SERVICE_ACCOUNT],
        Ok(Request::Unstated) | Err(_) => &[],
    };
    for name in overruled {
        let given = variable_name(GIVEN, name);
        sys::remove_own_variable(&given);
        sys::remove_own_variable(&variable_name(INHERITED, name));
        // This returns an error if the variable was not set.
        let _ = spank.job_control_unsetenv(given);
    }
}

/// Removes the step's options from its environment, so that jobs submitted by the step do not inherit them. Slurm
/// intends to do this itself, but skips a variable that directly follows another (`src/common/spank.c`,
/// `spank_clear_remote_options_env`).
pub(crate) fn forget_given(spank: &SpankHandle) {
    for name in [WANTED, REFUSED, SERVICE_ACCOUNT] {
        // This returns an error if the variable was not set.
        let _ = spank.unsetenv(variable_name(GIVEN, name));
    }
}

fn variable_name(prefix: &str, option: &str) -> String {
    format!("{prefix}{}", option.replace('-', "_"))
}
