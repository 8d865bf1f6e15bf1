//! Which loopback ports jobs get if users also take ports.

use serde_json::json;

use super::callers::{Door, NOBODY, assert_answered};
use super::{LIMIT, site};
use crate::cluster::wait_until;
use crate::loopback;

use crate::site::OBJECT;
use crate::skipped::skip;

/// Those of the agent's ports that users can take.
const USERS: [&str; 2] = ["20000", "31999"];

#[test]
fn a_user_who_takes_all_ports_keeps_nobody_from_credentials() {
    // Other tests would not find a port either, so this test has its own network.
    if !loopback::is_own(concat!(module_path!(), "::a_user_who_takes_all_ports_keeps_nobody_from_credentials")) {
        return;
    }
    if loopback::first_free_port() == 0 {
        skip("users may take every port here: a user who takes all of them");
        return;
    }
    let site = site(json!({}), None);
    let node = site.cluster.node(1);
    let words = ["prlimit", "--nofile=16384:16384"].into_iter().chain(NOBODY).chain(["python3", "-"]).chain(USERS);
    let hoarder = node.command(words).stdin(include_str!("../../clients/hoarder.py")).spawn();
    wait_until(LIMIT, || hoarder.stdout().ends_with('\n'));
    // Slurm's own daemons use a few.
    let held = hoarder.stdout().trim().parse::<u32>().unwrap();
    assert!(held > 11_900, "{held}");

    let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()];
    let run = site.cluster.as_user("alice").command(words).run().ok();
    assert!(run.stdout.contains(OBJECT), "{}", run.stdout);
    let (job, id) = site.running_job();
    let door = Door::of(&node, &id);
    assert!(door.port < u64::from(loopback::first_free_port()), "{}", door.port);
    assert_answered(&door.token(&node, "alice", ""));
    assert_answered(&door.exchange(&node, "alice"));
    drop(hoarder);
    site.cancel(job);
    site.finish();
}
