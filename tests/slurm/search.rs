//! The search for secrets that every test ends with finds them.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{command_path, wait_until};
use crate::site::Site;

const LIMIT: Duration = Duration::from_secs(60);
/// A handle's form.
const HANDLE: &str = "gcpwif_abcdefghijklmnopqrstuvwxyz-ABCDEFGHIJ_0123456";

/// What the search says.
fn found(site: &Site) -> Option<String> {
    let search = || site.cluster.assert_nowhere(&site.google.tokens());
    let said = catch_unwind(AssertUnwindSafe(search)).err()?;
    Some(said.downcast_ref::<String>().unwrap().clone())
}

/// What the search says of a log with this line, which is taken out again.
fn found_in(site: &Site, log: &Path, line: &str) -> Option<String> {
    let mut file = OpenOptions::new().create(true).append(true).open(log).unwrap();
    let length = file.metadata().unwrap().len();
    writeln!(file, "2026-01-01T00:00:00Z info {line}").unwrap();
    let found = found(site);
    file.set_len(length).unwrap();
    found
}

#[test]
fn a_token_or_a_handle_in_a_log_is_found() {
    let site = Site::start();
    let command = command_path();
    site.configure(json!({"delivery": "agent", "command": command, "log_level": "debug"}));
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let logs = [site.cluster.dir().join("log/planted.log"), node.run_dir().join("gcp-wif/agent.log")];
    let token = fs::read_to_string(node.job_dir(&id).join("access_token")).unwrap();
    let handle = fs::read_to_string(node.job_dir(&id).join("handle")).unwrap();
    assert_eq!(found(&site), None);
    for log in &logs {
        for secret in [&*token, &*handle, HANDLE] {
            let told = found_in(&site, log, secret).unwrap_or_else(|| panic!("{secret} is in {}", log.display()));
            // It does not put the secret into another log.
            assert!(told.starts_with(&log.display().to_string()) && !told.contains(secret), "{told}");
        }
        for harmless in ["gcpwif_", "gcpwif_too-short", &HANDLE[7..]] {
            assert_eq!(found_in(&site, log, harmless), None);
        }
    }
    // A log in another directory, as of an agent of before.
    let earlier = node.run_dir().join("other/agent.log");
    fs::create_dir(earlier.parent().unwrap()).unwrap();
    assert!(found_in(&site, &earlier, &token).is_some());

    // An argument of a process.
    let words = ["bash", "-c", "echo started; sleep 300; true", HANDLE];
    let process = node.as_user("bob").command(words).spawn();
    wait_until(LIMIT, || process.stdout() == "started\n");
    assert!(found(&site).is_some_and(|told| told.ends_with("/cmdline holds a handle")));
    drop(process);
    site.cancel(job);
    site.finish();
}
