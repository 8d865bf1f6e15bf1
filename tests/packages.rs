//! Files in the packages other than the programs: manual pages, and files for the shell, logrotate and systemd. Also the
//! SBOMs beside the packages.
//!
//! `ci/package-test` installs the packages themselves.

#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]
#![allow(dead_code, unreachable_pub, reason = "what is not tested is said as in tests/slurm")]

#[path = "packages/rust_version.rs"]
mod rust_version;
#[path = "packages/sbom.rs"]
mod sbom;
#[path = "shell.rs"]
mod shell;
#[path = "slurm/skipped.rs"]
mod skipped;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use skipped::skip;

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Runs a program; none, with a note, if it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let output = Command::new(program).args(arguments).output();
    if output.is_err() {
        skip(&format!("no {program}"));
    }
    output.ok()
}

#[track_caller]
fn assert_silent(output: &Output) {
    let told = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat();
    assert!(output.status.success() && told.is_empty(), "{}: {told}", output.status);
}

/// The fields of a struct of the configuration.
fn fields<'a>(source: &'a str, name: &str) -> BTreeSet<&'a str> {
    let (_, rest) = source.split_once(&format!("pub struct {name} {{")).unwrap();
    let (body, _) = rest.split_once("\n}").unwrap();
    body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':')).map(|(name, _)| name).collect()
}

/// The keys that a section of the page describes.
fn described<'a>(page: &'a str, section: &str) -> BTreeSet<&'a str> {
    let (_, rest) = page.split_once(&format!(".Sh {section}\n")).unwrap();
    let (body, _) = rest.split_once("\n.Sh ").unwrap();
    body.lines().filter_map(|line| line.strip_prefix(".It Cm ")).flat_map(|keys| keys.split(" , ")).collect()
}

#[test]
fn the_page_of_the_configuration_has_each_key() {
    let (source, page) = (text("core/src/policy/config.rs"), text("deploy/packages/man/gcp-wif.json.5"));
    assert_eq!(described(&page, "DESCRIPTION"), fields(&source, "Config"));
    assert_eq!(described(&page, "RULES"), fields(&source, "Rule"));
    // The README's table has the same keys.
    let readme = text("README.md");
    for key in described(&page, "DESCRIPTION") {
        assert!(readme.contains(&format!("\n| `{key}` |")), "the README has no row for {key}");
    }
}

#[test]
fn the_page_of_the_plugin_has_each_option() {
    let page = text("deploy/packages/man/spank-gcp-wif.8");
    for option in ["gcp-wif", "no-gcp-wif", "gcp-wif-service-account Ns = Ns Ar EMAIL"] {
        assert!(page.contains(&format!("\n.It Fl Fl {option}\n")), "{option}");
    }
}

#[test]
fn the_pages_are_well_formed() {
    for page in ["gcp-wif.json.5", "spank-gcp-wif.8"] {
        let path = file("deploy/packages/man").join(page);
        if let Some(output) = run("mandoc", &["-T", "lint", "-W", "warning", path.to_str().unwrap()]) {
            assert_silent(&output);
        }
    }
}

#[test]
fn a_shell_outside_of_a_job_is_not_disturbed() {
    let snippet = file("deploy/packages/gcp-wif.sh");
    let line = format!("set -eu; . {}; [ -z \"${{GOOGLE_APPLICATION_CREDENTIALS-}}\" ]", snippet.display());
    for shell in ["dash", "bash", "ksh", "zsh"] {
        let output = Command::new(shell).args(["-c", &line]).env_clear().env("PATH", "/usr/bin:/bin").output();
        if let Ok(output) = output {
            assert_silent(&output);
        }
        // In a job without credentials, whatever its number is.
        let mut command = Command::new(shell);
        command.args(["-c", &line]).env_clear().env("PATH", "/usr/bin:/bin").env("SLURM_JOB_ID", "$(echo no) 4000000");
        if let Ok(output) = command.output() {
            assert_silent(&output);
        }
    }
}

#[test]
fn the_logs_are_rotated() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let configuration = directory.path().join("configuration");
    let rules = text("deploy/packages/gcp-wif.logrotate").replace("/run/gcp-wif", place);
    fs::write(&configuration, rules).unwrap();
    let log = directory.path().join("agent.log");
    fs::write(&log, "a line\n").unwrap();
    let state = format!("{place}/state");
    let Some(output) = run("logrotate", &["--force", "--state", &state, configuration.to_str().unwrap()]) else {
        return;
    };
    assert_silent(&output);
    assert!(!log.exists() && log.with_extension("log.1").exists());
}

#[test]
fn systemd_understands_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("gcp-wif-agent.service");
    fs::write(&unit, text("deploy/packages/gcp-wif-agent.service").replace("/usr/bin/gcp-wif", "/bin/true")).unwrap();
    let Some(output) = run("systemd-analyze", &["verify", "--man=no", unit.to_str().unwrap()]) else { return };
    assert_silent(&output);
}
