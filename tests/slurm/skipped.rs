//! What cannot be tested on this machine is said, and counted by ci/test.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};

/// Says what was not tested, also to the file that `GCP_WIF_SKIPPED` names.
pub fn skip(reason: &str) {
    let line = format!("skipped: {reason}\n");
    // Where that variable is not set, nothing else tells.
    eprint!("{line}");
    if let Some(path) = std::env::var_os("GCP_WIF_SKIPPED") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("GCP_WIF_SKIPPED can be opened");
        file.write_all(line.as_bytes()).expect("GCP_WIF_SKIPPED can be written");
    }
}

/// Whether there is such a command on the PATH.
pub fn is_installed(command: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {command}")]).stdout(Stdio::null()).status();
    found.is_ok_and(|status| status.success())
}
