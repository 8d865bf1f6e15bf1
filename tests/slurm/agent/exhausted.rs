//! An agent without free descriptors, or without memory.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use super::callers::{Door, assert_answered};
use super::processes::{Process, processes, serving};
use super::{LIMIT, site};
use crate::cluster::{Node, wait_until};
use crate::skipped::skip;

/// Seconds that an access token lives.
const LIFE: i64 = 12;
/// More connections than fit into [`MEMORY`].
const CROWD: &str = "500";
/// What the serving process may take besides what it has, in bytes.
const MEMORY: u64 = 1 << 20;

/// Lets a process have no descriptor besides those that it has but for some. Brings what it was allowed before.
fn limit_descriptors(node: &Node, process: &Process, further: usize) -> String {
    let line = format!(
        "taken=$(ls /proc/{0}/fd) number=0 further={further}; \
         while grep -qx $number <<<\"$taken\" || ((further-- > 0)); do ((++number)); done; \
         prlimit --pid {0} --nofile --noheadings --output SOFT && prlimit --pid {0} --nofile=$number:",
        process.id
    );
    node.as_user("root").shell(&line).run().ok().stdout.trim().to_owned()
}

/// What a process has had of the processors.
fn processor_time(node: &Node, process: &Process) -> Duration {
    let told = node.command(["cat", &format!("/proc/{}/schedstat", process.id)]).run().ok().stdout;
    Duration::from_nanos(told.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn an_agent_without_descriptors_keeps_its_jobs_and_their_clients_wait() {
    let site = site(json!({}), Some(LIFE));
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let door = Door::of(&node, &id);
    let agent = serving(&node);
    // With one of them it accepts a connection, and cannot find out whose it is.
    for further in [0, 1] {
        let before = limit_descriptors(&node, &agent, further);
        let (begun, used) = (Instant::now(), processor_time(&node, &agent));
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let path = "computeMetadata/v1/instance/service-accounts/default/token";
                let line =
                    format!("curl -sS -i -m 100 -H 'Metadata-Flavor: Google' http://127.0.0.1:{}/{path}", door.port);
                node.as_user("alice").shell(&line).spawn()
            })
            .collect();
        // By then it has tried to refresh, and to look at the records.
        let end = site.google.state.now() + LIFE;
        wait_until(LIMIT, || site.google.state.now() > end);
        let used = processor_time(&node, &agent) - used;
        assert!(used < begun.elapsed() / 4, "{used:?} of a processor in {:?}", begun.elapsed());
        node.command(["prlimit", "--pid", &agent.id, &format!("--nofile={before}:")]).run().ok();
        for client in clients {
            let run = client.wait(LIMIT);
            // Its token may have ended meanwhile. Nobody is refused, and nobody taken for another user.
            let is_answered = ["HTTP/1.1 200 ", "HTTP/1.1 503 "].iter().any(|status| run.stdout.starts_with(status));
            assert!(is_answered, "{further}: {}{}", run.stdout, run.stderr);
        }
        wait_until(LIMIT, || door.token(&node, "alice", "").starts_with("HTTP/1.1 200 "));
        assert_answered(&door.token(&node, "alice", ""));
    }
    let log = fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap();
    assert!(log.contains(" info gcp-wif: agent: the records can be read again"), "{log}");
    assert_eq!(serving(&node).id, agent.id);
    site.cancel(job);
    site.finish();
}

#[test]
fn a_serving_process_that_the_kernel_ends_for_its_memory_is_replaced() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let (door, agent) = (Door::of(&node, &id), serving(&node));
    let name = site.cluster.dir().file_name().unwrap().to_str().unwrap().to_owned();
    // What a process has already is counted elsewhere.
    let line = format!(
        "group=/sys/fs/cgroup/memory/{name}; limit=memory.limit_in_bytes; \
         [ -e /sys/fs/cgroup/cgroup.controllers ] && group=/sys/fs/cgroup/{name} limit=memory.max && \
           echo +memory >/sys/fs/cgroup/cgroup.subtree_control; \
         mkdir $group && echo {MEMORY} >$group/$limit && echo {} >$group/cgroup.procs && echo $group",
        agent.id
    );
    let run = node.as_user("root").shell(&line).run();
    let group = run.stdout.trim().to_owned();
    if group.is_empty() {
        skip(&format!("no cgroup with a limit of memory can be made here: {}", run.stderr));
    } else {
        let words = ["python3", "-", &door.port.to_string(), CROWD];
        let crowd = node.as_user("alice").command(words).stdin(include_str!("../../clients/crowd.py")).spawn();
        wait_until(LIMIT, || processes(&node).iter().any(|process| process.serves && process.id != agent.id));
        drop(crowd);
        assert_answered(&door.token(&node, "alice", ""));
        let log = fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap();
        assert!(log.contains("the serving process ended (signal 9)"), "{log}");
        wait_until(LIMIT, || node.command(["rmdir", &group]).run().status == 0);
    }
    wait_until(LIMIT, || processes(&node).len() == 2);
    site.cancel(job);
    site.finish();
}
