//! The cost of a job without a request.

use std::collections::BTreeSet;

use super::*;
use crate::job::processes::{Processes, User};
use crate::job::wake::Asked;
use crate::plan::record::{Generation, Port, ProcessId};

/// Processes that the hooks must neither inspect nor start.
struct Untouched;

impl Processes for Untouched {
    fn generation(&self) -> Generation {
        FakeProcesses::default().generation
    }

    fn living(&self) -> BTreeMap<JobId, ProcessId> {
        unreachable!("it walks /proc")
    }

    fn runs(&self, _: ProcessId) -> bool {
        unreachable!("it looks at another process")
    }

    fn this(&self) -> ProcessId {
        unreachable!("it looks at its own process")
    }

    fn end(&self, _: ProcessId) {
        unreachable!("it ends a process")
    }

    fn detach(&self, _: &mut dyn FnMut()) {
        unreachable!("it forks")
    }

    fn new_port(&self, _: &BTreeSet<u16>) -> Result<Port, Failure> {
        unreachable!("it looks for a port")
    }

    fn wake_agent(&self, _: &Config, _: &Path, _: Option<Asked>) -> Result<BTreeSet<u16>, Failure> {
        unreachable!("it wakes the agent")
    }

    fn ask_agent(&self, _: &Path) -> Option<Asked> {
        unreachable!("it wakes the agent")
    }

    fn tell_agent(&self, _: &Path) {
        unreachable!("it wakes the agent")
    }

    fn as_user(&self, _: &User<'_>, _: &mut Vec<u8>, _: &mut dyn FnMut() -> Vec<u8>) -> Result<(), Failure> {
        unreachable!("it forks")
    }
}

/// Runs all hooks of a job with one step. They must not look up the user.
fn run(machine: &Machine, options: &Options) -> Outcome {
    let config_path = &machine.directory.join("site.json");
    let default_dir = &machine.directory.join("default");
    let node =
        Node { config_path, default_dir, exchanger: &machine.google, clock: &machine.google, processes: &Untouched };
    let host = FakeHost { options: options.clone(), ..FakeHost::default() };
    let job = Job {
        id: JOB,
        uid: 61001,
        gid: 61001,
        groups: &|| Ok(Vec::new()),
        facts: &|| unreachable!("it asks the user database"),
    };
    node.prolog(&host, &job);
    let outcome = node.step(&host, &job, STEP);
    assert_eq!(node.step(&host, &job, StepId::EXTERN), Outcome::None);
    node.extern_exit(&host, JOB);
    node.epilog(&host, JOB);
    assert_eq!(*host.log.borrow(), Vec::<String>::new());
    outcome
}

/// Returns the names in the machine's directory.
fn names(machine: &Machine) -> Vec<String> {
    let entries = std::fs::read_dir(&*machine.directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_job_without_a_request_leaves_and_touches_nothing() {
    for settings in ["", r#", "rules": [{"users": ["alice"]}]"#] {
        let machine = Machine::new(settings);
        // Only the site configuration is read.
        std::fs::remove_file(machine.directory.join("credential.json")).unwrap();
        assert_eq!(run(&machine, &nothing()), Outcome::None);
        assert_eq!(names(&machine), ["site.json"], "{settings}");
    }
    // A node that is not set up does nothing either.
    let machine = Machine::new("");
    std::fs::remove_file(machine.directory.join("site.json")).unwrap();
    assert_eq!(run(&machine, &nothing()), Outcome::None);
    assert_eq!(names(&machine), ["credential.json"]);
}

#[test]
fn a_job_without_a_request_does_not_touch_other_jobs() {
    let machine = Machine::new("");
    let host = FakeHost { options: wanted(), ..FakeHost::default() };
    let other = JobFacts { job: JobId(8), ..facts() };
    machine.serve(|node| run_prolog(node, &host, &other));
    assert_eq!(run(&machine, &nothing()), Outcome::None);
    assert_eq!(machine.runtime().jobs(), [JobId(8)]);
}

#[test]
fn leftovers_of_an_earlier_run_are_removed_even_without_a_request() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    machine.prolog(&nothing());
    assert_eq!((machine.file(ACCESS_TOKEN_FILE), machine.record().issued.len()), (None, 0));
    machine.epilog();
    assert_eq!(machine.runtime().jobs(), []);
}

#[test]
fn account_and_partition_are_recorded_if_rules_name_them() {
    for rule in [r#"{"accounts": ["vision"]}"#, r#"{"partitions": ["gpu"]}, {"users": ["alice"]}"#] {
        let machine = Machine::new(&format!(r#", "rules": [{rule}]"#));
        machine.prolog(&nothing());
        assert!(machine.record().facts.placement.is_some(), "{rule}");
        assert!(is_issued(&machine.step(&wanted(), &nothing()).0), "{rule}");
        assert_eq!(machine.step(&nothing(), &nothing()).0, Outcome::None, "{rule}");
    }
}
