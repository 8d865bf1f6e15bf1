//! Processes that die, hang or are cancelled at the wrong moment. No node is drained, and nothing stays behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{Node, Settings, wait_until};
use crate::golden::Golden;
use crate::google::{Endpoint, Fault, Times};
use crate::site::{OBJECT, Site, names};

const LIMIT: Duration = Duration::from_secs(60);
/// Long enough to find the process that waits for it.
const SLOW: Duration = Duration::from_secs(2);

/// The pids of processes whose arguments contain `words`, except those that run a prolog or epilog.
fn processes(node: &Node, words: &str) -> Vec<String> {
    let line = format!("ps -eo pid=,args= | grep -F -- '{words}' | grep -v grep || true");
    let run = node.command(["sh", "-c", &line]).run().ok();
    run.stdout.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn signal(node: &Node, name: &str, processes: &[String]) {
    for process in processes {
        // A process that is gone by now ended together with the previous one.
        node.command(["kill", "-s", name, process]).run();
    }
}

/// A site whose next exchange takes a while.
fn slow_site() -> Site {
    let site = Site::start();
    site.google.inject(Endpoint::Sts, Fault::Delay(SLOW), Times::Once);
    site
}

#[test]
fn slurms_own_prolog_process_does_not_wait_for_google() {
    let site = slow_site();
    let run =
        site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()]).spawn();
    assert!(site.google.wait_for_requests(1, LIMIT));
    // Killing it would drain the node with any plugin, because slurmd treats that as a failed prolog.
    let line = "for pid in $(pgrep -x slurmd); do pgrep -P $pid -f 'spank prolog'; done; true";
    let node = site.cluster.node(1);
    wait_until(LIMIT, || node.command(["sh", "-c", line]).run().ok().stdout.is_empty());
    assert!(!processes(&node, "spank prolog").is_empty(), "nobody waits for Google");
    assert!(run.wait(LIMIT).ok().stdout.contains(OBJECT));
    site.finish();
}

#[test]
fn a_prolog_worker_that_is_killed_is_replaced_by_the_step() {
    let site = slow_site();
    let run =
        site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()]).spawn();
    assert!(site.google.wait_for_requests(1, LIMIT));
    let node = site.cluster.node(1);
    signal(&node, "KILL", &processes(&node, "spank prolog"));
    let run = run.wait(LIMIT).ok();
    assert!(run.stdout.contains(OBJECT), "{}", run.stderr);
    assert_eq!(site.google.requests_to(Endpoint::Sts).len(), 2);
    site.finish();
}

#[test]
fn a_prolog_worker_that_is_stopped_causes_one_line_and_drains_no_node() {
    let site = slow_site();
    site.configure(json!({"timeout_seconds": 3}));
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).spawn();
    assert!(site.google.wait_for_requests(1, LIMIT));
    let node = site.cluster.node(1);
    signal(&node, "STOP", &processes(&node, "spank prolog"));
    let run = run.wait(LIMIT).expect_status(1);
    let mut golden = Golden::new("wait");
    golden.add(
        "a process that is stopped",
        run.stderr.lines().find(|line| line.contains("gcp-wif: ")).unwrap_or_default(),
        &site,
    );
    golden.check();
    wait_until(LIMIT, || processes(&node, "spank prolog").is_empty());
    site.finish();
}

#[test]
fn a_job_cancelled_while_its_step_waits_leaves_nothing() {
    let site = Site::start();
    site.google.inject(Endpoint::Sts, Fault::Delay(SLOW * 3), Times::Once);
    let job = site.cluster.batch("alice", "#!/bin/bash\n#SBATCH --gcp-wif -w n1\necho ran\n", &[]);
    assert!(site.google.wait_for_requests(1, LIMIT));
    site.cluster.as_user("alice").command(["scancel", &job]).run().ok();
    let node = site.cluster.node(1);
    wait_until(LIMIT, || processes(&node, "spank prolog").is_empty());
    site.finish();
}

#[test]
fn a_job_cancelled_before_its_first_step_ends_its_worker() {
    // The prolog runs at the start of the allocation, and the epilog at its end. There is no step between them.
    let site = Site::with(Settings::default().conf("PrologFlags=Alloc"));
    site.google.inject(Endpoint::Sts, Fault::Delay(SLOW * 4), Times::Forever);
    let job = site.cluster.as_user("alice").command(["salloc", "-w", "n1", "--gcp-wif", "sleep", "300"]).spawn();
    assert!(site.google.wait_for_requests(1, LIMIT));
    let node = site.cluster.node(1);
    assert!(!processes(&node, "spank prolog").is_empty());
    site.cancel(job);
    site.cluster.assert_healthy();
    assert!(processes(&node, "spank prolog").is_empty(), "the worker outlives its job");
    site.finish();
}

#[test]
fn a_steps_exchange_that_is_killed_is_reported() {
    let site = Site::start();
    let line = "srun true; touch ready; srun --gcp-wif echo ran; echo status=$?";
    site.google.inject(Endpoint::Sts, Fault::Delay(SLOW), Times::Once);
    let run = site.cluster.as_user("alice").command(["salloc", "-Q", "-w", "n1", "bash", "-c", line]).spawn();
    assert!(site.google.wait_for_requests(1, LIMIT));
    let node = site.cluster.node(1);
    // The younger of this step's two slurmstepd processes talks to Google.
    let youngest = processes(&node, "slurmstepd").into_iter().max_by_key(|pid| pid.parse().unwrap_or(0));
    signal(&node, "KILL", youngest.as_slice());
    let run = run.wait(LIMIT).ok();
    assert!(run.stdout.contains("status=1"), "{}", run.stdout);
    let expected = "gcp-wif: token exchange: the process that talks to Google ended early: signal 9; try again, tell the site's administrators";
    assert!(run.stderr.contains(expected), "{}", run.stderr);
    site.finish();
}

#[test]
fn a_slurmstepd_that_is_killed_at_any_moment_leaves_nothing() {
    let site = Site::start();
    let node = site.cluster.node(1);
    for moment in 0..8 {
        site.google.inject(Endpoint::Sts, Fault::Delay(Duration::from_millis(200)), Times::Once);
        let mut run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "sleep", "300"]).spawn();
        let mut waited = 0;
        // The moment is a number of looks at the processes, so that a slow machine delays it but does not miss it.
        wait_until(LIMIT, || {
            let steps = steps(&node);
            waited += usize::from(!steps.is_empty());
            if waited > moment {
                signal(&node, "KILL", &steps);
            }
            waited > moment || !run.is_running()
        });
        // Slurm 22.05 does not notice by itself that a slurmstepd has ended.
        site.cluster.as_user("root").command(["scancel", "-u", "alice"]).run().ok();
        drop(run);
        site.cluster.assert_healthy();
        site.google.clear_faults();
    }
    site.finish();
}

/// The slurmstepd processes of steps, without those that run a prolog or an epilog.
fn steps(node: &Node) -> Vec<String> {
    let hooks = processes(node, "slurmstepd spank");
    processes(node, "slurmstepd").into_iter().filter(|pid| !hooks.contains(pid)).collect()
}

#[test]
fn a_restart_of_slurmd_disturbs_no_running_job() {
    let site = Site::start();
    let line = format!(
        "touch ready; while ! test -e go; do sleep 0.05; done; test -r $GCP_WIF_ACCESS_TOKEN_FILE && {}",
        site.list()
    );
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).spawn();
    wait_until(LIMIT, || site.cluster.home("alice").join("ready").exists());
    site.cluster.node(1).restart_slurmd();
    // Another job's prolog sweeps now, started by another slurmd.
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    fs::write(site.cluster.home("alice").join("go"), "").unwrap();
    let run = run.wait(LIMIT).ok();
    assert!(run.stdout.contains(OBJECT), "{}", run.stderr);
    site.finish();
}

#[test]
fn what_a_crash_left_is_swept_by_the_next_prolog() {
    let site = Site::start();
    let line = "cp -a /run/gcp-wif/jobs/$1 /run/gcp-wif/jobs/4000000 && cp -a /run/gcp-wif/records/$1 /run/gcp-wif/records/4000000 && \
                sed -i 's/\"boot\":\"[^\"]*\"/\"boot\":\"before\"/' /run/gcp-wif/records/4000000/record";
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    node.command(["bash", "-c", line, "copy", &id]).run().ok();
    assert_eq!(left(&node.run_dir()), 4);
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "true"]).run().ok();
    // Bob's record also exists until his epilog has run.
    wait_until(LIMIT, || left(&node.run_dir()) == 2);
    assert!(node.job_dir(&id).join("access_token").exists(), "a running job's files were swept");
    site.cancel(job);
    site.finish();
}

/// How many jobs have files, and how many have records.
fn left(run: &Path) -> usize {
    names(&run.join("gcp-wif/jobs")).len() + names(&run.join("gcp-wif/records")).len()
}
