//! Checks the agent's program and the running agent.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::report::Report;
use crate::cli::running::{self, Running};
use gcp_wif_core::plan::report::Stage;
use gcp_wif_core::policy::config::{Config, Delivery};
use gcp_wif_core::world::fs::check_trusted;
use gcp_wif_core::world::proc::ProcFs;

const STAGE: Stage = Stage::Agent;
const NEEDS_CONFIG: &str = "needs the site configuration";
const NOT_NEEDED: &str = "not needed for \"direct\" delivery";
const OWN: &str = env!("CARGO_PKG_VERSION");

pub(super) fn command(report: &mut Report<'_, '_>, config: Option<&Config>) {
    const NAME: &str = "command";
    let Some(config) = config else {
        return report.skip(STAGE, NAME, NEEDS_CONFIG);
    };
    let path = &config.command;
    let is_executable = || fs::metadata(path).is_ok_and(|file| file.is_file() && file.mode() & 0o100 != 0);
    match (config.delivery, check_trusted(path)) {
        (Delivery::Direct, _) => report.ok(STAGE, NAME, NOT_NEEDED),
        (Delivery::Agent, Ok(())) if is_executable() => match running::version(path) {
            Some(version) if version == OWN => report.ok(STAGE, NAME, format_args!("{}, {OWN}", path.display())),
            Some(version) => report.warn(
                STAGE,
                NAME,
                format_args!(
                    "command: {} is gcp-wif {version}, this one is {OWN}; install one of them",
                    path.display()
                ),
            ),
            None => report.fail(
                STAGE,
                NAME,
                format_args!("command: {} does not print its version; install gcp-wif there", path.display()),
            ),
        },
        (Delivery::Agent, Ok(())) => {
            report.fail(STAGE, NAME, format_args!("command: {} cannot be run; install it", path.display()));
        }
        (Delivery::Agent, Err(error)) => {
            let fix = error.fix().unwrap_or_else(|| "install it, or set command".to_owned());
            report.fail(STAGE, NAME, format_args!("command: {error}; {fix}"));
        }
    }
}

/// Checks the version of the running agent, which can be older than the installed program.
pub(super) fn running(report: &mut Report<'_, '_>, config: Option<&Config>, path: &Path, proc: &ProcFs) {
    const NAME: &str = "running agent";
    let Some(config) = config else {
        return report.skip(STAGE, NAME, NEEDS_CONFIG);
    };
    let Some(agent) = Running::of(&config.runtime_dir, proc) else {
        return match config.delivery {
            Delivery::Direct => report.ok(STAGE, NAME, NOT_NEEDED),
            Delivery::Agent => report.ok(STAGE, NAME, "none; the first job starts it"),
        };
    };
    let version = agent.version().unwrap_or_else(|| "of an unknown version".to_owned());
    if version == OWN && !agent.was_replaced() {
        return report.ok(STAGE, NAME, format_args!("process {}, {version}", agent.pids()));
    }
    // Stop both processes before killing them, because each restarts the other with the old program.
    let command = config.command.display();
    let (path, runtime_dir) = (path.display(), config.runtime_dir.display());
    report.warn(
        STAGE,
        NAME,
        format_args!(
            "it runs gcp-wif {version} from before {command} was replaced; restart its service, or without a service run \
             kill -STOP {0} && kill -KILL {0} && {command} agent --config {path} --runtime-dir {runtime_dir}",
            agent.pids()
        ),
    );
}
