//! Faults that the tests plant on a node. The doctor names each with its stage and a fix, also offline if that needs no
//! network, and reports no fault after the fix. The tests run a command in the line exactly as it is.

mod google;
mod later;
mod node;
mod slurm;

use serde_json::json;

use super::{complaints, good};
use crate::cluster::{Run, command_path};
use crate::golden::Golden;
use crate::site::Site;

/// A fault.
struct Fault {
    name: &'static str,
    /// The stage and the check that name it.
    told_by: (&'static str, &'static str),
    /// Plants the fault.
    plant: fn(&Site),
    /// Follows the fix in the line.
    follow: fn(&Site, &str),
    /// The exit status of `--offline`, if that can see the fault.
    offline: Option<i32>,
    /// The exit status: 0 if jobs still get their credentials.
    status: i32,
}

impl Fault {
    const fn new(name: &'static str, told_by: (&'static str, &'static str), plant: fn(&Site)) -> Self {
        Self { name, told_by, plant, follow: run_command, offline: Some(1), status: 1 }
    }

    /// Uses this function to follow the fix, instead of a command in the line.
    const fn by(self, follow: fn(&Site, &str)) -> Self {
        Self { follow, ..self }
    }

    const fn warns(self) -> Self {
        Self { status: 0, offline: Some(0), ..self }
    }

    const fn offline(self, offline: Option<i32>) -> Self {
        Self { offline, ..self }
    }
}

/// Plants each fault, one after the other, on the same node.
#[track_caller]
fn heal(golden: &'static str, site: &Site, faults: &[Fault]) {
    let mut lines = Golden::new(golden);
    for fault in faults {
        good(site);
        (fault.plant)(site);
        let line = told(&run(site, &[]), fault);
        lines.add(fault.name, &line, site);
        let quiet = run(site, &["--offline"]);
        assert_eq!(quiet.status, fault.offline.unwrap_or(0), "{}: {}", fault.name, quiet.stdout);
        // Ages increase between two runs.
        let ageless = |line: &str| line.replace(|c: char| c.is_ascii_digit(), "");
        let is_told = quiet.stdout.lines().any(|told| ageless(told) == ageless(&line));
        assert_eq!(is_told, fault.offline.is_some(), "{} offline: {}", fault.name, quiet.stdout);
        assert_eq!(quiet.stdout.lines().count(), complaints(&quiet).len(), "{}: {}", fault.name, quiet.stdout);
        (fault.follow)(site, &line);
        for options in [&[][..], &["--offline"]] {
            let run = run(site, options);
            let left = complaints(&run);
            assert!(run.status == 0 && left.is_empty(), "{}: the fix does not help: {left:?}", fault.name);
        }
    }
    lines.check();
}

/// The doctor on node 1, with the test's own slurm.conf if there is one.
fn run(site: &Site, options: &[&str]) -> Run {
    let conf = site.cluster.dir().join("planted/slurm.conf");
    let words = [command_path(), "doctor"].into_iter().chain(options.iter().copied());
    let command = site.cluster.node(1).command(words);
    if conf.exists() { command.env("SLURM_CONF", &conf.display().to_string()).run() } else { command.run() }
}

/// The line of the check that names a fault.
#[track_caller]
fn told(run: &Run, fault: &Fault) -> String {
    assert_eq!(run.status, fault.status, "{}: {}{}", fault.name, run.stdout, run.stderr);
    let (stage, check) = fault.told_by;
    let columns = format!("{stage:<16}{check:<26}");
    let line = complaints(run).into_iter().find(|line| line.get(9..).is_some_and(|rest| rest.starts_with(&columns)));
    line.unwrap_or_else(|| panic!("{}: not told by {check}: {}", fault.name, run.stdout)).to_owned()
}

/// Runs the command after `run `, up to the next semicolon, on the node.
#[track_caller]
fn run_command(site: &Site, line: &str) {
    let command = line.split("run ").last().filter(|rest| rest.len() < line.len()).expect("a command");
    let command = command.split(';').next().unwrap_or_default();
    site.cluster.node(1).command(["bash", "-c", command]).run().ok();
}

/// The number after these words.
fn number(line: &str, words: &str) -> u64 {
    let rest = line.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {line}")).1;
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse().unwrap()
}

#[test]
fn on_the_node() {
    let site = Site::start();
    heal("doctor_node", &site, &node::FAULTS);
    good(&site);
    site.finish();
}

#[test]
fn in_slurm() {
    let site = Site::start();
    slurm::prepare(&site);
    heal("doctor_slurm", &site, &slurm::FAULTS);
    good(&site);
    site.finish();
}

#[test]
fn at_google() {
    let site = Site::start();
    heal("doctor_google", &site, &google::FAULTS);
    site.configure(json!({"delivery": "direct"}));
    site.finish();
}
