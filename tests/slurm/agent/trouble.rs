//! Trouble for the agent: it is stopped, gets no threads, or loses its directory.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use super::callers::{Door, assert_answered};
use super::processes::{processes, serving};
use super::{LIMIT, site};
use crate::cluster::{Node, wait_until};
use crate::site::Site;

/// The watcher must replace a stopped serving process within 10 seconds. Twice that, for a busy machine.
const REPLACED: Duration = Duration::from_secs(20);
/// More processes than an idle cluster starts in 5 seconds. A watcher without a pause would start 50 serving processes.
const FEW: u64 = 25;

fn access_token(node: &Node, job: &str) -> String {
    fs::read_to_string(node.job_dir(job).join("access_token")).unwrap()
}

/// A job of bob's with credentials.
fn bobs_job_works(site: &Site) {
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
}

#[test]
fn a_refresh_that_gets_no_thread_is_reported_and_retried() {
    const LIFE: i64 = 24;
    let site = site(json!({}), Some(LIFE));
    let (job, id) = site.running_job();
    let begun = Instant::now();
    let node = site.cluster.node(1);
    let before = access_token(&node, &id);
    let agent = serving(&node).id;
    // Memory for small things, but not for the stack of a thread. The first refresh is due later, and no ended thread
    // has left a stack that another one could reuse.
    let line = format!(
        "size=$(sed -n 's/^VmSize:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/{agent}/status); \
         prlimit --pid {agent} --as=$(((size + 256) * 1024)):unlimited"
    );
    node.command(["bash", "-c", &line]).run().ok();
    let log = || fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap_or_default();
    let told = || {
        log().lines().any(|line| {
            (line.contains(" error ") || line.contains(" warn "))
                && (line.contains(&format!("job {id}")) || line.contains(&format!("job={id} ")))
        })
    };
    // The refresh is due at half of the token's lifetime. After its expiry, nothing more happens.
    let end = begun + Duration::from_secs(LIFE.unsigned_abs());
    wait_until(LIMIT, || told() || Instant::now() > end);
    assert_eq!(access_token(&node, &id), before, "a thread was found");
    let was_told = told();
    node.command(["prlimit", "--pid", &agent, "--as=unlimited:unlimited"]).run().ok();
    let end = Instant::now() + LIMIT;
    while access_token(&node, &id) == before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let renewed = access_token(&node, &id) != before;
    let status = fs::read_to_string(node.job_dir(&id).join("status")).unwrap();
    assert!(renewed && was_told, "renewed: {renewed}, told: {was_told}\n{status}\n{}", log());
    assert_eq!(serving(&node).id, agent);
    site.cancel(job);
    site.finish();
}

#[test]
fn a_serving_process_that_is_stopped_is_replaced() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let door = Door::of(&node, &id);
    let stopped = serving(&node).id;
    node.command(["kill", "-STOP", &stopped]).run().ok();
    // No hook may help: a step would replace the agent too.
    wait_until(REPLACED, || processes(&node).iter().any(|process| process.serves && process.id != stopped));
    assert_answered(&door.token(&node, "alice", ""));
    bobs_job_works(&site);
    wait_until(LIMIT, || processes(&node).iter().all(|process| process.id != stopped));
    wait_until(LIMIT, || processes(&node).len() == 2);
    site.cancel(job);
    site.finish();
}

#[test]
fn a_step_replaces_an_agent_whose_processes_are_all_stopped() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let door = Door::of(&node, &id);
    serving(&node);
    let stopped: Vec<String> = processes(&node).into_iter().map(|process| process.id).collect();
    let words = ["kill", "-STOP"].into_iter().chain(stopped.iter().map(String::as_str));
    node.command(words).run().ok();
    bobs_job_works(&site);
    assert_answered(&door.token(&node, "alice", ""));
    wait_until(LIMIT, || processes(&node).iter().all(|process| !stopped.contains(&process.id)));
    wait_until(LIMIT, || processes(&node).len() == 2);
    site.cancel(job);
    site.finish();
}

#[test]
fn an_agent_whose_directory_is_removed_makes_way_for_the_next_one() {
    let site = site(json!({}), Some(10));
    bobs_job_works(&site);
    let node = site.cluster.node(1);
    let first = serving(&node).id;
    node.command(["rm", "-rf", "/run/gcp-wif"]).run().ok();
    let (job, id) = site.running_job();
    assert_answered(&Door::of(&node, &id).token(&node, "alice", ""));
    let before = access_token(&node, &id);
    wait_until(LIMIT, || access_token(&node, &id) != before);
    // Two agents would serve, log and refresh side by side.
    wait_until(LIMIT, || processes(&node).iter().all(|process| process.id != first));
    wait_until(LIMIT, || processes(&node).len() == 2);
    assert_answered(&Door::of(&node, &id).token(&node, "alice", ""));
    site.cancel(job);
    site.finish();
}

/// Checks that a watcher does not start the serving process again and again.
#[track_caller]
fn assert_few_start(node: &Node) {
    // The cluster numbers its processes and threads in order, so this is how many started meanwhile.
    let line = "sh -c 'echo $$'; sleep 5; sh -c 'echo $$'";
    let run = node.command(["sh", "-c", line]).run().ok();
    let numbers: Vec<u64> = run.stdout.lines().map(|line| line.parse().unwrap()).collect();
    let started = numbers[1] - numbers[0];
    assert!(started < FEW, "{started} processes: the serving one is started again and again");
}

#[test]
fn a_serving_process_that_cannot_start_is_started_again_after_growing_pauses() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let first = serving(&node).id;
    // Nobody can listen there.
    let socket = node.run_dir().join("gcp-wif/agent.sock");
    fs::remove_file(&socket).unwrap();
    fs::create_dir_all(socket.join("full")).unwrap();
    node.command(["kill", "-KILL", &first]).run().ok();
    assert_few_start(&node);
    let log = fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap();
    assert!(log.lines().any(|line| line.contains(" error ") && line.contains("agent: ")), "{log}");
    fs::remove_dir_all(&socket).unwrap();
    bobs_job_works(&site);
    assert_answered(&Door::of(&node, &id).token(&node, "alice", ""));
    site.cancel(job);
    site.finish();
}

#[test]
fn an_agent_without_a_directory_does_not_restart_endlessly() {
    let site = site(json!({"runtime_dir": "/run/site/gcp-wif"}), None);
    let node = site.cluster.node(1);
    let make = || drop(node.command(["mkdir", "-m", "755", "/run/site"]).run().ok());
    make();
    bobs_job_works(&site);
    let first = serving(&node).id;
    node.command(["rm", "-rf", "/run/site"]).run().ok();
    // It may have ended by itself.
    node.command(["kill", "-KILL", &first]).run();
    assert_few_start(&node);
    make();
    bobs_job_works(&site);
    wait_until(LIMIT, || processes(&node).len() == 2);
    site.finish();
}
