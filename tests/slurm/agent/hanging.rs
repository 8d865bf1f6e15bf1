//! An exchange that hangs, and what continues meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::json;

use super::processes::{kill_agent, processes};
use super::{LIMIT, site_with};
use crate::cluster::{Settings, command_path, wait_until};
use crate::google::{Endpoint, Fault, SUBJECT, ServiceAccount, Times};

/// Each job has its own identity, and therefore its own token.
const JOBS: usize = 8;
/// An access token's lifetime in seconds.
const LIFE: i64 = 24;
/// How long some refreshes take.
const SLOW: Duration = Duration::from_secs(2);
/// How long one of them hangs: less than the time limit of an exchange, so that it succeeds in the end.
const HANGS: Duration = Duration::from_secs(18);

#[test]
fn an_exchange_that_begins_among_others_and_hangs_delays_none_of_them() {
    // Three are in progress and a fourth one is done when it begins.
    delays_nobody(&[(SLOW, 3), (Duration::ZERO, 1)]);
}

#[test]
fn an_exchange_that_begins_together_with_others_and_hangs_delays_none_of_them() {
    delays_nobody(&[(Duration::ZERO, 2)]);
}

/// Many refreshes are due at once, and one of them hangs after `first`. Returns the delays of the others, and how many
/// are delayed.
fn delays_nobody(first: &[(Duration, usize)]) {
    let emails: Vec<String> = (0..JOBS).map(|n| format!("reader-{n}@demo-project.iam.gserviceaccount.com")).collect();
    let rules = json!({"rules": [{"service_account": emails[0], "allow": emails}]});
    let site = site_with(Settings { cpus: Some(JOBS as u32 + 2), ..Settings::default() }, rules, Some(LIFE));
    site.google.configure(|options| {
        options.service_accounts = emails.iter().map(|email| ServiceAccount::new(email, &[SUBJECT])).collect();
    });
    let node = site.cluster.node(1);
    let option = |email: &str| format!("--gcp-wif-service-account={email}");
    let start = |email: &String| {
        let script = "#!/bin/bash\ntouch ready-$SLURM_JOB_ID\nsleep 300\n";
        (site.cluster.batch("alice", script, &["-w", "n1", &option(email)]), email.clone())
    };
    let jobs: BTreeMap<String, String> = emails.iter().map(start).collect();
    let token = |job: &String| fs::read_to_string(node.job_dir(job).join("access_token")).unwrap();
    wait_until(LIMIT, || jobs.keys().all(|job| site.cluster.home("alice").join(format!("ready-{job}")).exists()));

    // Nothing is refreshed until all are due. Then they are due at once.
    kill_agent(&node);
    let due = site.google.state.now() + LIFE / 2;
    wait_until(LIMIT, || site.google.state.now() > due);
    let before: BTreeMap<&String, String> = jobs.keys().map(|job| (job, token(job))).collect();
    for (delay, times) in first {
        site.google.inject(Endpoint::Impersonation, Fault::Delay(*delay), Times::N(*times));
    }
    site.google.inject(Endpoint::Impersonation, Fault::Delay(HANGS), Times::Once);
    node.command([command_path(), "agent", "--config", "/etc/slurm/gcp-wif.json"]).run().ok();
    let old = || before.iter().filter(|(job, before)| token(job) == **before).map(|(job, _)| *job).collect::<Vec<_>>();
    wait_until(LIMIT, || old().len() <= 1);
    let hanging = *old().first().expect("the others' new tokens come before that of the one that hangs");

    // Steps of the other jobs start while the exchange hangs.
    let step = |(job, email): (&String, &String)| {
        let words = ["srun", "--overlap", &format!("--jobid={job}"), "-n1", &option(email), "true"];
        site.cluster.as_user("alice").command(words).spawn()
    };
    let steps: Vec<_> = jobs.iter().filter(|(job, _)| *job != hanging).map(step).collect();
    for step in steps {
        step.wait(LIMIT).ok();
    }
    assert_eq!(old(), [hanging], "the other jobs' steps have waited for the exchange that hangs");
    wait_until(LIMIT, || old().is_empty());
    let log = fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap();
    assert!(!log.contains("did not finish in time") && !log.contains("outcome=failed"), "{log}");
    assert_eq!(processes(&node).len(), 2);
    site.cluster.as_user("root").command(["scancel", "-u", "alice"]).run().ok();
    site.finish();
}
