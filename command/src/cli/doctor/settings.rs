//! Checks the settings in slurm.conf that affect jobs' credentials.
#![forbid(unsafe_code)]

use super::report::Report;
use crate::cli::slurmconf::SlurmConf;
use gcp_wif_core::plan::report::Stage;
use gcp_wif_core::policy::config::Config;

const STAGE: Stage = Stage::Configuration;
const PROLOG: &str = "PrologFlags";
const LIMITS: &str = "time limits";
const STORED: &str = "stored environments";
const HEALTH: &str = "HealthCheckProgram";

/// The time that a step's start takes besides the exchange, in seconds.
const MARGIN: u64 = 10;

pub(super) fn check(report: &mut Report<'_, '_>, conf: &SlurmConf, config: Option<&Config>) {
    if !conf.is_there() {
        for name in [PROLOG, LIMITS, STORED, HEALTH] {
            report.skip(STAGE, name, format_args!("{} cannot be read", conf.path().display()));
        }
        return;
    }
    prolog(report, conf, config);
    limits(report, conf, config);
    if conf.has("AccountingStoreFlags", &["job_env"]) {
        report.hint(
            STAGE,
            STORED,
            "AccountingStoreFlags has job_env, so slurmdbd stores the environment of each job at its submission. With \
             the plugin, sbatch and salloc remove an outer job's tokens from it; install the plugin wherever they run",
        );
    } else {
        report.ok(STAGE, STORED, "slurmdbd stores none");
    }
    match conf.value(HEALTH) {
        Some(program) if program.contains("gcp-wif") => report.ok(STAGE, HEALTH, program),
        Some(program) => {
            report.hint(
                STAGE,
                HEALTH,
                format_args!("{program}; it can run gcp-wif doctor --offline, which prints only problems"),
            );
        }
        None => report.hint(STAGE, HEALTH, "none; gcp-wif doctor --offline is meant for it"),
    }
}

fn prolog(report: &mut Report<'_, '_>, conf: &SlurmConf, config: Option<&Config>) {
    if conf.has(PROLOG, &["RunInJob"]) {
        // With RunInJob, Slurm does not run the prolog of SPANK plugins.
        if config.is_some_and(Config::names_placements) {
            report.fail(
                Stage::Rules,
                PROLOG,
                "RunInJob hides account and partition from the plugin, so rules that name them deny all jobs; \
                 remove RunInJob, or name users and groups in the rules",
            );
        } else {
            report.hint(STAGE, PROLOG, "RunInJob: credentials are issued only when a step starts");
        }
    } else if conf.has(PROLOG, &["Alloc", "Contain", "X11"]) {
        report.ok(STAGE, PROLOG, conf.value(PROLOG).unwrap_or_default());
    } else {
        report.hint(
            STAGE,
            PROLOG,
            "without Alloc, a node learns a job's options only with its first step, and not at all if that step was \
             started outside the job; set PrologFlags=Alloc",
        );
    }
}

/// Checks Slurm's time limits, with the defaults of slurm.conf(5). srun waits for the start of a step for the sum of
/// MessageTimeout and BatchStartTimeout.
fn limits(report: &mut Report<'_, '_>, conf: &SlurmConf, config: Option<&Config>) {
    let Some(config) = config else {
        return report.skip(STAGE, LIMITS, "needs the site configuration");
    };
    let budget = config.timeout_seconds;
    let patience = conf.seconds("MessageTimeout", 10).saturating_add(conf.seconds("BatchStartTimeout", 10));
    let unkillable = conf.seconds("UnkillableStepTimeout", 60);
    if patience < budget {
        report.warn(
            STAGE,
            LIMITS,
            format_args!(
                "srun gives up on a step after {patience} seconds, and an exchange may take timeout_seconds, {budget}; \
                 raise MessageTimeout, or lower timeout_seconds to {patience}"
            ),
        );
    } else if unkillable < budget.saturating_add(MARGIN) {
        report.warn(
            STAGE,
            LIMITS,
            format_args!(
                "slurmd drains the node if a step cannot be killed for UnkillableStepTimeout, {unkillable} seconds, and \
                 an exchange may take timeout_seconds, {budget}; set UnkillableStepTimeout to {} at least",
                budget.saturating_add(MARGIN)
            ),
        );
    } else {
        report.ok(STAGE, LIMITS, format_args!("timeout_seconds {budget}, srun waits for {patience}"));
    }
}
