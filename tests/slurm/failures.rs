//! Each fault with both kinds of request. An explicit request ends the tasks with status 1 and one line. Under `auto`,
//! the job runs with one warning. The node stays idle in both cases, whether Slurm loads the plugin as `optional` or as
//! `required`.

mod google;
mod node;

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use crate::cluster::{JobState, Plugin, Settings};
use crate::golden::Golden;
use crate::google::{Body, Claims, Endpoint, Fault, Times};
use crate::site::{Site, accounts, credential_path};

type Sabotage = Box<dyn Fn(&Site)>;

/// A name for the golden file, and the change of the site.
struct Case(&'static str, Sabotage);

fn case(name: &'static str, sabotage: impl Fn(&Site) + 'static) -> Case {
    Case(name, Box::new(sabotage))
}

/// The time limit of an exchange in seconds, in general and if Google hangs.
const BUDGET: u64 = 30;
const SHORT_BUDGET: u64 = 1;
/// The shortest pause of a throttled client, which therefore does not wait.
const SHORTER_THAN_PAUSES: u64 = 2;

/// Under auto these are not failures: a missing site configuration cannot say auto, and a user whom no rule matches
/// gets no credentials and no message.
const SILENT: [&str; 3] = ["no site configuration", "no rule matches", "no account"];

/// Runs every case with both requirements and both kinds of request.
#[track_caller]
fn check(name: &'static str, cases: &[Case]) {
    for plugin in [Plugin::Optional, Plugin::Required] {
        let mut golden = Golden::new(name);
        let site = Site::with(Settings::with(plugin));
        for Case(case, sabotage) in cases {
            reset(&site, json!({}));
            sabotage(&site);
            let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
            assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{case}: {}", run.stderr);
            let line = only_line(case, &run.stderr);
            golden.add(case, &line, &site);

            reset(&site, json!({"auto": true}));
            sabotage(&site);
            let run = site
                .cluster
                .as_user("alice")
                .command(["srun", "-w", "n1", "bash", "-c", "env | grep -c ^GOOGLE; echo ran"])
                .run();
            assert_eq!((run.status, run.stdout.as_str()), (0, "0\nran\n"), "{case} under auto: {}", run.stderr);
            if SILENT.contains(case) {
                assert!(!run.stderr.contains("gcp-wif"), "{case} under auto: {}", run.stderr);
            } else {
                let warning = only_line(case, &run.stderr);
                assert_eq!(
                    steady(&warning),
                    steady(&format!("{line}; the job runs without credentials")),
                    "{case} under auto"
                );
            }
            site.cluster.assert_healthy();
        }
        golden.check();
        site.google.clear_faults();
        reset(&site, json!({}));
        site.cluster.as_user("alice").command(["srun", "-N2", "--gcp-wif", "true"]).run().ok();
        site.finish();
    }
}

/// Repairs everything.
pub fn reset(site: &Site, keys: Value) {
    site.forget();
    site.google.clear_faults();
    site.google.configure(|options| {
        options.service_accounts = accounts();
        options.attribute_condition = None;
        options.exchanges_left = None;
        (options.issuer_reachable, options.services_reachable, options.iam_credentials_enabled) = (true, true, true);
    });
    for node in site.cluster.nodes() {
        let _ = fs::remove_dir(node.config_path());
        let _ = fs::remove_file(node.config_path());
        let _ = fs::remove_file(node.config_path().with_file_name("ca.pem"));
        let _ = fs::remove_file(credential_path(&node));
        let token = node.tokens_dir().join("token");
        let _ = fs::remove_dir(&token);
        let _ = fs::remove_file(&token);
        symlink("..data/token", &token).unwrap();
    }
    site.trust(&site.source());
    site.rotate(&site.google.subject_token(&Claims::default()));
    let mut config = json!({"timeout_seconds": BUDGET});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    site.configure(config);
}

/// srun's lines about the connection for a step's output, which slurmstepd may have reset at its end: it does not read all
/// of srun's input.
const RESET: [&str; 3] = [
    "srun: error: _server_read: fd ",
    "srun: error: step_launch_notify_io_failure: aborting, io error with slurmstepd on node 0",
    "srun: Job step aborted",
];

/// The plugin's only line. Otherwise srun says only that the task ended, or that a connection was reset.
#[track_caller]
pub fn only_line(case: &str, stderr: &str) -> String {
    let (ours, others): (Vec<&str>, Vec<&str>) = stderr.lines().partition(|line| line.starts_with("gcp-wif: "));
    assert_eq!(ours.len(), 1, "{case}: {stderr}");
    assert!(
        others.iter().all(|line| {
            line.starts_with("srun: error: n1: task 0: Exited with exit code 1")
                || RESET.iter().any(|begin| line.starts_with(begin)) && stderr.contains("Connection reset by peer")
        }),
        "{case}: {stderr}"
    );
    ours[0].to_owned()
}

/// A line without its numbers, which count time.
fn steady(line: &str) -> String {
    line.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// The current site configuration, changed as text.
pub fn edit_config(site: &Site, edit: impl Fn(String) -> String) {
    for node in site.cluster.nodes() {
        let text = fs::read_to_string(node.config_path()).unwrap();
        node.write_config(&edit(text));
    }
}

pub fn with_key(site: &Site, key: &str) {
    edit_config(site, |text| text.replacen('{', &format!("{{{key}, "), 1));
}

/// Changes a key of the credential configuration; null removes it.
pub fn edit_credential(site: &Site, key: &str, value: Value) {
    let mut configuration = site.google.credential_configuration(&site.source());
    configuration[key] = value;
    if configuration[key].is_null() {
        configuration.as_object_mut().unwrap().remove(key);
    }
    site.write_credential_configuration(&configuration.to_string());
}

#[test]
fn a_batch_job_that_fails_says_so_in_its_output_and_ends_with_status_1() {
    for plugin in [Plugin::Optional, Plugin::Required] {
        let site = Site::with(Settings::with(plugin));
        site.google.inject(Endpoint::Sts, Fault::status_with(403, Body::OAuth), Times::Forever);
        let job = site.cluster.batch("alice", "#!/bin/bash\n#SBATCH --gcp-wif --requeue\necho ran\n", &[]);
        assert_eq!(site.cluster.wait_job(&job), JobState::Failed);
        let output = site.cluster.job_output(&job);
        assert!(output.starts_with("gcp-wif: token exchange: ") && output.lines().count() == 1, "{output}");
        assert_eq!(site.cluster.job_field(&job, "ExitCode").as_deref(), Some("1:0"));
        assert_eq!(site.cluster.job_field(&job, "Restarts").as_deref(), Some("0"));
        site.configure(json!({"auto": true}));
        let (state, output) = site.cluster.run_batch("alice", "#!/bin/bash\necho ran\n", &[]);
        assert_eq!(state, JobState::Completed);
        assert!(output.ends_with("the job runs without credentials\nran\n"), "{output}");
        site.finish();
    }
}

#[test]
fn a_line_appears_once_for_each_node_however_many_tasks() {
    let site = Site::start();
    site.rotate("");
    let run = site.cluster.as_user("alice").command(["srun", "-N2", "-n8", "--gcp-wif", "echo", "ran"]).run();
    assert_eq!(
        (run.status, run.stdout.as_str(), run.stderr.matches("gcp-wif: ").count()),
        (1, "", 2),
        "{}",
        run.stderr
    );
    site.finish();
}
