//! A runtime directory in a place where users can write: files that exist before root starts, and files that change
//! while root works.

use serde_json::json;

use super::LIMIT;
use crate::cluster::{Node, wait_until};
use crate::site::{OBJECT, Site};

/// A directory of root's that nothing may change, and one where everybody can make files.
#[track_caller]
fn prepare(site: &Site) -> Node {
    let node = site.cluster.node(1);
    let line = "install -d -m 0711 /run/precious && echo precious >/run/precious/file && install -d -m 1777 /run/open";
    node.command(["sh", "-c", line]).run().ok();
    node
}

/// What there is below a directory: kind, mode, owner and path of each.
#[track_caller]
fn listing(node: &Node, directory: &str) -> String {
    let line = format!("find {directory} -printf '%y %m %u %p %l\\n' | sort");
    node.as_user("root").shell(&line).run().ok().stdout
}

#[test]
fn a_tree_that_is_there_before_root_makes_its_own_is_refused() {
    let site = Site::start();
    let node = prepare(&site);
    let precious = listing(&node, "/run/precious");
    site.configure(json!({"runtime_dir": "/run/open/gcp-wif"}));
    let bob = site.cluster.as_user("bob");
    for (case, line) in [
        (
            "a tree",
            "mkdir -p gcp-wif/jobs gcp-wif/records gcp-wif/tokens; for i in $(seq 9); do ln -s /run/precious gcp-wif/jobs/$i; done",
        ),
        ("a tree with open doors", "mkdir -p -m 0777 gcp-wif gcp-wif/jobs gcp-wif/records gcp-wif/tokens"),
        ("a link to a directory of root's", "ln -s /run/precious gcp-wif"),
        ("a link to nowhere", "ln -s /run/precious/none gcp-wif"),
        ("a file", "touch gcp-wif"),
        ("a FIFO", "mkfifo gcp-wif"),
    ] {
        node.as_user("alice").shell(&format!("cd /run/open && {line}")).run().ok();
        let planted = listing(&node, "/run/open");
        let run = bob.command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
        assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{case}: {}", run.stderr);
        assert!(run.stderr.contains("gcp-wif: files: /run/open/gcp-wif: "), "{case}: {}", run.stderr);
        site.cluster.assert_healthy();
        assert_eq!(listing(&node, "/run/open"), planted, "{case}");
        assert_eq!(listing(&node, "/run/precious"), precious, "{case}");
        node.command(["rm", "-rf", "/run/open/gcp-wif"]).run().ok();
    }
    // Root's own, but everybody can rename in it what root will make.
    node.command(["install", "-d", "-m", "1777", "/run/open/gcp-wif"]).run().ok();
    let run = bob.command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
    assert_eq!(listing(&node, "/run/open/gcp-wif").lines().count(), 1);
    node.command(["rm", "-rf", "/run/open/gcp-wif"]).run().ok();
    let run = bob.command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()]).run().ok();
    assert!(run.stdout.contains(OBJECT), "{}", run.stderr);
    site.finish();
}

/// Exchanges two names for as long as there is a file, renameat2(2).
const EXCHANGE: &str = "import ctypes, os\n\
    libc = ctypes.CDLL(None, use_errno=True)\n\
    os.symlink('/run/precious', 'other')\n\
    print('begun', flush=True)\n\
    count = 0\n\
    while not os.path.exists('enough'):\n    \
        if libc.renameat2(-100, b'gcp-wif', -100, b'other', 2) == 0:\n        \
            count += 1\n\
    print(count)\n";

#[test]
fn a_tree_that_changes_while_root_works_leads_it_nowhere() {
    let site = Site::start();
    let node = prepare(&site);
    let precious = listing(&node, "/run/precious");
    // A user's own directory: its owner can rename in it what belongs to root.
    node.command(["install", "-d", "-o", "alice", "/run/alices"]).run().ok();
    site.configure(json!({"runtime_dir": "/run/alices/gcp-wif"}));
    let words = ["srun", "-w", "n1", "--gcp-wif", "true"];
    site.cluster.as_user("alice").command(words).run().ok();
    let exchange = node.as_user("alice").command(["env", "--chdir=/run/alices", "python3", "-c", EXCHANGE]).spawn();
    wait_until(LIMIT, || exchange.stdout().starts_with("begun"));
    for user in ["alice", "bob", "alice", "bob"] {
        // Some find the directory, and some the link.
        let run = site.cluster.as_user(user).command(words).run();
        assert!(run.status == 0 || run.stderr.contains("gcp-wif: files: "), "{}", run.stderr);
    }
    node.as_user("alice").command(["touch", "/run/alices/enough"]).run().ok();
    let run = exchange.wait(LIMIT).ok();
    let count: u64 = run.stdout.lines().last().unwrap().parse().unwrap();
    assert!(count > 100, "{count} exchanges are no race");
    assert_eq!(listing(&node, "/run/precious"), precious);
    site.finish();
}
