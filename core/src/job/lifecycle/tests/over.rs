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
