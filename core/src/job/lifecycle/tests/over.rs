//! Jobs that are over, or whose epilog did not finish.

use super::*;

/// The names in a directory below the runtime directory.
fn names(machine: &Machine, below: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(machine.directory.join("run").join(below))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_requeued_job_has_nothing_of_a_step_of_its_earlier_run() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    assert!(is_issued(&machine.step(&wanted(), &wanted()).0));
    assert_eq!(names(&machine, "records/7"), ["record", "step-0"]);
    // Its step and its epilog were killed.
    machine.prolog(&wanted());
    assert_eq!(names(&machine, "records/7"), ["record"]);
}

#[test]
fn a_job_whose_epilog_was_killed_goes_when_the_next_one_comes() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    assert!(is_issued(&machine.step(&wanted(), &wanted()).0));
    machine.runtime().forget(JOB).unwrap();
    assert_eq!((names(&machine, "jobs").len(), names(&machine, "records/7").len()), (1, 0));
    let host = FakeHost { options: wanted(), ..FakeHost::default() };
    machine.serve(|node| run_prolog(node, &host, &JobFacts { job: JobId(8), ..facts() }));
    assert_eq!((names(&machine, "jobs"), names(&machine, "records")), (vec!["8".to_owned()], vec!["8".to_owned()]));
}

#[test]
fn an_epilog_that_cannot_remove_a_job_tells_it() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    let tokens = machine.directory.join("run/tokens");
    let epilog = || {
        let host = FakeHost::default();
        machine.serve(|node| node.epilog(&host, JOB));
        host.log.into_inner()
    };
    std::os::unix::fs::chown(&tokens, Some(61001), None).unwrap();
    let [line] = &*epilog() else { panic!("nothing was told") };
    assert!(line.starts_with("gcp-wif: files: ") && line.contains("(job 7, epilog)"), "{line}");
    std::os::unix::fs::chown(&tokens, Some(0), None).unwrap();
    assert!(epilog().is_empty() && names(&machine, "jobs").is_empty());
}
