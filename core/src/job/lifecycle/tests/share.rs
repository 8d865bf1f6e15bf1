//! Limits of the space that a user's steps share in the runtime directory.

use super::*;
use crate::policy::facts::JobFacts;

/// A node, and the number of its next step.
struct Case {
    machine: Machine,
    next: std::cell::Cell<u32>,
}

impl Case {
    fn new() -> Self {
        Self { machine: Machine::new(""), next: std::cell::Cell::new(0) }
    }

    /// Creates a configuration with a `.credentials` of `bytes` and with `names` entries in each directory.
    fn configuration(&self, name: &str, bytes: usize, names: usize) -> String {
        let directory = self.machine.directory.join(name);
        for below in ["hooks.d", "mounts.d", "environ.d"] {
            std::fs::create_dir_all(directory.join(below)).unwrap();
            for number in 0..names {
                std::fs::write(directory.join(below).join(number.to_string()), "").unwrap();
            }
        }
        std::fs::write(directory.join(".credentials"), vec![b'#'; bytes]).unwrap();
        directory.display().to_string()
    }

    /// Starts a step of a user's job, and returns whether it has a copy of the user's configuration.
    fn has_copy(&self, uid: u32, job: u32, path: &str) -> bool {
        let facts = JobFacts { job: JobId(job), uid, ..facts() };
        let host = FakeHost { options: wanted(), inherited: wanted(), ..FakeHost::default() };
        host.environment.borrow_mut().insert("ENROOT_CONFIG_PATH".to_owned(), path.to_owned());
        let step = StepId(self.next.replace(self.next.get() + 1));
        let outcome = self.machine.serve(|node| start_step(node, &host, &facts, step));
        assert!(matches!(outcome, Outcome::Issued { .. }), "{outcome:?}");
        assert!(token(&host.environment.borrow()).is_some());
        let has_copy = host.environment.borrow()["ENROOT_CONFIG_PATH"] != path;
        match line(&outcome) {
            None => assert!(has_copy),
            Some(line) => {
                let start =
                    format!("gcp-wif: files: {path}: together with the copies of your other steps on this node, ");
                assert!(!has_copy && line.starts_with(&start), "{line}");
                assert!(
                    line.contains("exceed 16777216 bytes or 4096 names; this step's containers get no credentials"),
                    "{line}"
                );
            }
        }
        has_copy
    }

    fn copies(&self, uid: u32, steps: u32, path: &str) -> usize {
        (0..steps).filter(|step| self.has_copy(uid, uid + step % 3, path)).count()
    }
}

#[test]
fn large_copies_are_limited_for_each_user_and_small_ones_are_not() {
    let case = Case::new();
    let (alice, bob) = (61001, 62001);
    let names = case.configuration("names", 0, 100);
    assert_eq!(case.copies(alice, 20, &names), 4096 / 300);
    // Small copies and other users are not affected by the limit.
    let small = case.configuration("small", 8 << 10, 1);
    assert_eq!(case.copies(alice, 500, &small), 500);
    assert!(!case.has_copy(alice, alice, &names));
    assert!(case.has_copy(bob, bob, &names));
    // The end of a job frees its share.
    for job in 0..3 {
        case.machine.serve(|node| node.epilog(&FakeHost::default(), JobId(alice + job)));
    }
    assert_eq!(case.copies(alice, 1, &names), 1);
}

#[test]
fn a_steps_earlier_copy_does_not_count() {
    let case = Case::new();
    let names = case.configuration("names", 0, 100);
    assert_eq!(case.copies(61001, 13, &names), 13);
    case.next.set(0);
    assert!(case.has_copy(61001, 61001, &names));
    assert!(!case.has_copy(61001, 61003, &names));
}
