//! A slow Google during a refresh, and what happens to the job meanwhile.

use std::time::Duration;

use serde_json::json;

use super::job::{Job, is_ok};
use super::{LIMIT, configure, impersonated, site};
use crate::cluster::{JobState, wait_until};
use crate::google::{Body, Endpoint, Fault, Recorded, SERVICE_ACCOUNT, Times};
use crate::site::{OBJECT, OTHER_ACCOUNT, Site, names};

/// What an exchange may take. A try may take half of it.
const BUDGET: u64 = 45;
const READ_ONLY: &str = "https://www.googleapis.com/auth/devstorage.read_only";
/// Longer than a hook waits for a process that works on the same job.
const SLOW: Duration = Duration::from_secs(21);
/// Longer than it takes until a requeued job starts again (`cred_expire`), besides.
const SLOWER: Duration = Duration::from_secs(35);

/// Has the next refresh go wrong in this way, and waits for that to begin.
#[track_caller]
fn refresh_with(site: &Site, fault: Fault, times: Times) -> Recorded {
    let before = impersonated(site).len();
    site.google.inject(Endpoint::Impersonation, fault, times);
    wait_until(LIMIT, || impersonated(site).len() > before);
    site.google.requests_to(Endpoint::Impersonation).swap_remove(before)
}

/// Whether so much time has passed since a request.
fn is_over(request: &Recorded, time: Duration) -> bool {
    request.time.elapsed().is_ok_and(|elapsed| elapsed > time)
}

#[test]
fn a_refresh_of_a_jobs_earlier_run_changes_nothing_of_the_later_one() {
    let site = site(json!({"timeout_seconds": BUDGET}), Some(20));
    let script = "#!/bin/bash\n#SBATCH --gcp-wif -w n1 --requeue\ntouch run-${SLURM_RESTART_COUNT:-0}\nsleep 300\n";
    let job = Job::of(&site, &site.cluster.batch("alice", script, &[]));
    let ran = |run: &str| site.cluster.home("alice").join(run).exists();
    wait_until(LIMIT, || ran("run-0"));
    let scopes = || site.google.state.token(&job.token()).map(|token| token.scopes);
    let has = || (job.file("handle"), job.file("credentials.json"), scopes());
    let first = has();

    // It asks again after 32 seconds, and is answered.
    let busy = Fault::Status { code: 503, body: Body::Status, retry_after: Some("32".to_owned()) };
    let slow = refresh_with(&site, busy, Times::Once);
    // A token of the first run would give the second one more than the site does now.
    configure(&site, json!({"timeout_seconds": BUDGET, "scopes": [READ_ONLY]}));
    site.cluster.as_user("root").command(["scontrol", "requeue", &job.id]).run().ok();
    wait_until(LIMIT, || ran("run-1"));
    // On a machine so slow that it is over by now nothing is tried here.
    eprintln!("the slow refresh is over before the second run begins: {}", is_over(&slow, SLOWER));
    let second = has();
    assert!(!second.0.is_empty() && second.0 != first.0 && second.2 == Some(vec![READ_ONLY.to_owned()]), "{second:?}");
    // Two refreshes after the slow one.
    let is_the_second = || assert!(has() == second, "the later run has {:?} instead of {second:?}", has());
    wait_until(LIMIT, || {
        is_the_second();
        is_over(&slow, SLOWER)
    });
    job.outlive(2, is_the_second);
    let answer = job.exchange();
    assert!(is_ok(&answer) && answer.contains(&job.token()), "{answer}");
    let token = site.google.state.token(&job.token()).unwrap();
    assert!(token.expires > site.google.state.now());
    site.cluster.as_user("root").command(["scancel", &job.id]).run().ok();
    assert_eq!(site.cluster.wait_job(&job.id), JobState::Cancelled);
    site.finish();
}

#[test]
fn a_refresh_that_ends_after_its_job_leaves_nothing() {
    let site = site(json!({"timeout_seconds": BUDGET}), Some(10));
    let job = Job::start(&site);
    let node = job.node.clone();
    let slow = refresh_with(&site, Fault::Delay(SLOW), Times::Once);
    // Another user's job, by whose refreshes the agent is seen to go on.
    let line = "#!/bin/bash\n#SBATCH --gcp-wif -w n1\ntouch ready\nsleep 300\n";
    let bobs = site.cluster.batch("bob", line, &[]);
    wait_until(LIMIT, || site.cluster.home("bob").join("ready").exists());
    job.end(&site);
    let left = || ["jobs", "records"].map(|directory| names(&node.run_dir().join("gcp-wif").join(directory)));
    let only_bobs = || left() == [[bobs.clone()], [bobs.clone()]];
    wait_until(LIMIT, only_bobs);
    assert!(!is_over(&slow, SLOW), "the epilog came too late to see what is tried here");
    let other = Job::of(&site, &bobs);
    wait_until(LIMIT, || is_over(&slow, SLOW));
    other.outlive(2, || assert!(only_bobs(), "{:?}", left()));
    site.cluster.as_user("root").command(["scancel", &bobs]).run().ok();
    assert_eq!(site.cluster.wait_job(&bobs), JobState::Cancelled);
    site.finish();
}

#[test]
fn a_step_begins_while_google_hangs_for_a_refresh() {
    // The refresh takes longer than a step waits for another process, and less than what is left of the token.
    let rules = json!([{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]);
    let site = site(json!({"timeout_seconds": BUDGET, "rules": rules}), Some(80));
    let job = Job::start(&site);
    let slow = refresh_with(&site, Fault::Delay(SLOW), Times::Once);
    // One step uses the job's token. The other one's identity is new, so that it changes the job's record.
    let (list, option) = (site.list(), format!("--gcp-wif-service-account={OTHER_ACCOUNT}"));
    let show = "echo $GCP_WIF_SERVICE_ACCOUNT";
    for (option, line, told) in [("--gcp-wif", &*list, OBJECT), (&*option, show, OTHER_ACCOUNT)] {
        let run = job.step(&site, &[option, "bash", "-c", line]).run();
        assert!(run.status == 0 && run.stdout.contains(told), "{}{}", run.stdout, run.stderr);
    }
    assert!(!is_over(&slow, SLOW), "the steps waited for as long as Google hung");
    job.end(&site);
    site.finish();
}
