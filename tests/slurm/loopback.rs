//! A separate loopback interface for a test, because all clusters of these tests share the machine's.

use std::fs;
use std::process::Command;

use crate::skipped::skip;

/// Set for a test with a separate loopback interface.
const OWN: &str = "GCP_WIF_OWN_LOOPBACK";
/// Everyone can take ports from here on.
const FIRST_FREE: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Whether this process has its own network. If not, this call runs the test of this name again in a new network.
#[track_caller]
pub fn is_own(test: &str) -> bool {
    if std::env::var_os(OWN).is_some() {
        return true;
    }
    if !Command::new("unshare").args(["--net", "true"]).status().is_ok_and(|status| status.success()) {
        skip("no network namespace can be made here");
        return false;
    }
    // libtest's names consist of the module path without the crate.
    let (_, name) = test.split_once("::").unwrap();
    let run = Command::new("unshare")
        .args(["--net", "python3", "-c", include_str!("../clients/loopback.py")])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(OWN, "1")
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && stdout.contains("test result: ok. 1 passed"), "{name}\n{stdout}\n{stderr}");
    eprint!("{stderr}");
    false
}

/// The first port that users can take in this process's network.
pub fn first_free_port() -> u16 {
    fs::read_to_string(FIRST_FREE).unwrap().trim().parse().unwrap()
}
