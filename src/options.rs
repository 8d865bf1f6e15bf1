//! The options, and where Slurm keeps the ones that a job was submitted with.

use std::error::Error;

use slurm_spank::{SpankHandle, SpankOption};

use gcp_wif_core::policy::request::{Options, Request};
use gcp_wif_core::world::sys;

const WANTED: &str = "gcp-wif";
const REFUSED: &str = "no-gcp-wif";
const SERVICE_ACCOUNT: &str = "gcp-wif-service-account";

/// Slurm's variable for an option within the command that was given it, and in the job's control environment
/// (`src/common/spank.c`, `_opt_env_name`).
const GIVEN: &str = "_SLURM_SPANK_OPTION_gcp_wif_";
/// The same as the job's processes inherit it.
const INHERITED: &str = "SLURM_SPANK__SLURM_SPANK_OPTION_gcp_wif_";

/// Registers the options of `--help`.
pub(crate) fn register(spank: &mut SpankHandle) -> Result<(), Box<dyn Error>> {
    let usage = "[gcp-wif] Google Cloud credentials for the job, or it fails.";
    spank.register_option(SpankOption::new(WANTED).usage(usage))?;
    let usage = "[gcp-wif] no Google Cloud credentials, even where the site gives them to every job.";
    spank.register_option(SpankOption::new(REFUSED).usage(usage))?;
    let usage = "[gcp-wif] credentials of this service account, or the job fails; implies --gcp-wif.";
    spank.register_option(SpankOption::new(SERVICE_ACCOUNT).takes_value("EMAIL").usage(usage))?;
    Ok(())
}

/// The options in force, typed or inherited.
pub(crate) fn all(spank: &SpankHandle) -> Options {
    Options {
        wanted: spank.is_option_set(WANTED),
        refused: spank.is_option_set(REFUSED),
        service_account: spank.get_option_value_lossy(SERVICE_ACCOUNT).map(std::borrow::Cow::into_owned),
    }
}

/// The options that the job was submitted with, by its environment. A user can forge them: they are a request.
pub(crate) fn inherited(variable: &dyn Fn(&str) -> Option<String>) -> Options {
    let value = |name: &str| variable(&variable_name(INHERITED, name));
    Options {
        wanted: value(WANTED).is_some(),
        refused: value(REFUSED).is_some(),
        service_account: value(SERVICE_ACCOUNT),
    }
}

/// A job submitted from inside a job inherits the outer job's options; those that its own ones overrule must not
/// reach its prolog and steps beside them.
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
        // It is an error that the variable was not there.
        let _ = spank.job_control_unsetenv(given);
    }
}

/// Slurm means to take these from a step's environment once it has read them, but skips one that follows another
/// (`src/common/spank.c`, `spank_clear_remote_options_env`): what the step submits would inherit it.
pub(crate) fn forget_given(spank: &SpankHandle) {
    for name in [WANTED, REFUSED, SERVICE_ACCOUNT] {
        // It is an error that the variable was not there.
        let _ = spank.unsetenv(variable_name(GIVEN, name));
    }
}

fn variable_name(prefix: &str, option: &str) -> String {
    format!("{prefix}{}", option.replace('-', "_"))
}
