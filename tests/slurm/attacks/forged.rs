//! An srun that a user has patched. It can send any environment for a step, and none of it counts.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::LIMIT;
use crate::cluster::{CommandLine, wait_until};
use crate::google::SERVICE_ACCOUNT;
use crate::site::{OBJECT, OTHER_ACCOUNT, Site};
use crate::skipped::skip;

/// What patches srun. None where this machine cannot build it.
fn forger(site: &Site) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = site.cluster.dir().join("forger.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(root.join("tests/clients/forger.c"));
    if let Some(headers) = std::env::var_os("SLURM_INCLUDE_DIR") {
        compiler.arg("-I").arg(headers);
    }
    let is_built = compiler.status().is_ok_and(|status| status.success());
    if !is_built {
        skip("no compiler, or no headers of Slurm: a patched srun");
    }
    is_built.then_some(library)
}

/// A command of a user's whose srun sends these variables.
fn forged(command: CommandLine, forger: &Path, variables: &[(&str, &str)]) -> CommandLine {
    let command = command.env("LD_PRELOAD", &forger.display().to_string());
    variables.iter().fold(command, |command, (name, value)| command.env(&format!("FORGE_{name}"), value))
}

#[test]
fn a_patched_srun_is_who_slurmd_says_it_is() {
    let site = Site::start();
    let Some(forger) = forger(&site) else { return };
    site.configure(json!({"rules": [
        {"users": ["bob"]}, {"accounts": ["admin"]}, {"partitions": ["gpu"], "service_account": OTHER_ACCOUNT},
    ]}));
    let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", "echo $SLURM_JOB_ID; sleep 300"];
    let bobs = site.cluster.as_user("bob").command(words).spawn();
    wait_until(LIMIT, || bobs.stdout().ends_with('\n'));
    let id = bobs.stdout().trim().to_owned();
    let forge = |option: &str, line: &str| {
        let command = site.cluster.as_user("alice").command(["srun", "-w", "n1", option, "bash", "-c", line]);
        let variables = [
            ("SLURM_JOB_ACCOUNT", "admin"),
            ("SLURM_JOB_PARTITION", "gpu"),
            ("SLURM_JOB_USER", "bob"),
            ("SLURM_JOB_UID", "61002"),
            ("SLURM_JOB_ID", id.as_str()),
            ("SLURM_JOBID", id.as_str()),
            ("GCP_WIF_SERVICE_ACCOUNT", SERVICE_ACCOUNT),
        ];
        forged(command, &forger, &variables).run()
    };
    let sent = forge("--no-gcp-wif", "echo $SLURM_JOB_ACCOUNT $SLURM_JOB_PARTITION").ok();
    assert_eq!(sent.stdout, "admin gpu\n", "the forger does not work: {}", sent.stderr);
    let run = forge("--gcp-wif", "echo ran");
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
    assert!(run.stderr.contains("gcp-wif: rules: no rule gives user alice"), "{}", run.stderr);
    site.cluster.as_user("root").command(["scancel", "-u", "bob"]).run().ok();
    drop(bobs);
    site.finish();
}

#[test]
fn a_value_of_a_mebibyte_costs_its_own_step_at_most() {
    let site = Site::start();
    let Some(forger) = forger(&site) else { return };
    let inherited = "SLURM_SPANK__SLURM_SPANK_OPTION_gcp_wif_gcp_wif_service_account";
    for (name, is_replaced) in [
        ("GCP_WIF_VARIABLES", true),
        ("GOOGLE_OAUTH_ACCESS_TOKEN", true),
        ("GOOGLE_APPLICATION_CREDENTIALS", true),
        ("ENROOT_CONFIG_PATH", false),
        ("GOOGLE_CLOUD_PROJECT", false),
        ("XDG_CONFIG_HOME", false),
        (inherited, false),
    ] {
        let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()];
        let command = site.cluster.as_user("alice").command(words).env("FORGED_LONG", name);
        let run = forged(command, &forger, &[]).run();
        // The kernel takes no such value, and releases of Slurm differ in whether they leave it out.
        assert!(!is_replaced || (run.status == 0 && run.stdout.contains(OBJECT)), "{name}: {}", run.stderr);
        assert!(run.stderr.len() < 4000, "{name}: {} bytes", run.stderr.len());
        site.cluster.assert_healthy();
    }
    assert!(!site.cluster.logs().contains("a bug in gcp-wif"));
    let run =
        site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()]).run();
    assert!(run.ok().stdout.contains(OBJECT));
    site.finish();
}
