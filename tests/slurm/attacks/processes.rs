//! The processes that work for a job: what users see of them, and which of the users' files they read.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::time::Duration;

use super::LIMIT;
use crate::cluster::{Node, set_mode, wait_until};
use crate::google::{Endpoint, Fault, Times};
use crate::site::Site;

/// Longer than a test looks; whoever waits for it is ended with its job.
const LONG: Duration = Duration::from_secs(15);

/// The processes of root's that work for the jobs of a node, but for slurmd: the step's own, and those that ask Google.
#[track_caller]
fn working(node: &Node) -> Vec<String> {
    node.command(["pgrep", "-f", "[s]lurmstepd"]).run().ok().stdout.lines().map(str::to_owned).collect()
}

#[test]
fn who_asks_google_is_closed_to_users() {
    let site = Site::start();
    let node = site.cluster.node(1);
    // Two users, because a cancelled exchange may still leave a token or a failure for its own user.
    for (endpoint, user) in [(Endpoint::Sts, "alice"), (Endpoint::Impersonation, "carol")] {
        let before = site.google.requests_to(endpoint).len();
        site.google.inject(endpoint, Fault::Delay(LONG), Times::Once);
        let job = site.cluster.as_user(user).command(["srun", "-w", "n1", "--gcp-wif", "true"]).spawn();
        wait_until(LIMIT, || site.google.requests_to(endpoint).len() > before);
        let working = working(&node);
        assert!(working.len() >= 2, "{working:?}");
        for user in ["bob", user] {
            let words = ["python3", "-"].into_iter().chain(working.iter().map(String::as_str));
            let script = format!("import sys\nsys.stdin = open('/dev/null')\n{}", include_str!("../../clients/spy.py"));
            let run = node.as_user(user).command(words).stdin(script).run().ok();
            assert_eq!(run.stdout, "done\n", "{user}");
        }
        site.cluster.as_user("root").command(["scancel", "-u", user]).run().ok();
        drop(job);
        site.cluster.assert_healthy();
    }
    site.finish();
}

#[test]
fn no_process_that_holds_tokens_leaves_a_core() {
    let site = Site::start();
    let node = site.cluster.node(1);
    let line = "for pid in $(pgrep -x slurmd); do prlimit --pid $pid --core=unlimited:unlimited; done";
    node.command(["bash", "-c", line]).run().ok();
    site.google.inject(Endpoint::Impersonation, Fault::Delay(LONG), Times::Once);
    let job = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]).spawn();
    wait_until(LIMIT, || !site.google.requests_to(Endpoint::Impersonation).is_empty());
    // slurmd's own process of the prolog is over; what still has its name asks Google.
    let line = "for pid in $(pgrep -f '[s]pank prolog'); do grep '^Max core file size' /proc/$pid/limits; done";
    let limits = node.command(["bash", "-c", line]).run().ok().stdout;
    assert!(limits.lines().count() >= 2, "{limits}");
    for limit in limits.lines() {
        let fields: Vec<&str> = limit.split_whitespace().collect();
        assert_eq!(fields[4..6], ["0", "0"], "{limit}");
    }
    site.cancel(job);
    site.finish();
}

#[test]
fn a_users_file_is_read_with_the_users_groups_and_with_no_other() {
    let site = Site::start();
    let home = site.cluster.home("alice");
    let own = home.join(".config/enroot");
    fs::create_dir_all(&own).unwrap();
    // Of the group ml, which alice is in, and of root's.
    for (name, group) in [("of-ml", 61100), ("of-root", 0)] {
        let file = site.cluster.dir().join(name);
        fs::write(&file, format!("machine nvcr.io login a password {name}\n")).unwrap();
        chown(&file, Some(0), Some(group)).unwrap();
        set_mode(&file, 0o640);
        let _ = fs::remove_file(own.join(".credentials"));
        symlink(&file, own.join(".credentials")).unwrap();
        let line = "cat $ENROOT_CONFIG_PATH/.credentials";
        let run =
            site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", line]).run().ok();
        assert_eq!(run.stdout.contains(&format!("password {name}\n")), group != 0, "{name}: {}", run.stderr);
    }
    site.finish();
}
