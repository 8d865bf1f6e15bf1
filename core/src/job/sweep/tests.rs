use super::*;
use crate::exchange::AccessToken;
use crate::plan::record::{Issued, ProcessId};
use crate::policy::facts::JobFacts;
use crate::testing::{self, Directory, FakeProcesses};
use crate::words::names::Identity;
use crate::words::secret::Secret;
use crate::world::fs::{NewFile, Place};

const NOW: UnixSeconds = 1_000_000;
const OLD: JobId = JobId(1);
const NEW: JobId = JobId(2);

fn generation(boot: &str, slurmd: u32) -> Generation {
    Generation { boot: boot.to_owned(), slurmd: ProcessId { pid: slurmd, start: 0 } }
}

/// A job that `started_by` began, with a token that lives until `expires_at`.
fn leftover(started_by: Generation, expires_at: UnixSeconds) -> (Directory, RuntimeDirectory) {
    let directory = testing::directory();
    let runtime = RuntimeDirectory::open(&directory.join("run")).unwrap();
    let lock = runtime.lock(OLD, Duration::ZERO).unwrap();
    let facts = JobFacts { job: OLD, uid: 0, gid: 0, user: None, groups: Vec::new(), placement: None };
    let mut record = JobRecord::new(facts, started_by);
    let token = AccessToken { token: Secret::new("t".to_owned()), expires_at };
    record.remember(Issued::new(Identity::Federated, String::new(), token, NOW - 10));
    runtime.write_record(OLD, &lock, record.to_text().expose()).unwrap();
    runtime
        .publish(&Place { job: OLD, below: None }, 0, 0, &[NewFile { name: "access_token", content: "t" }], &lock)
        .unwrap();
    (directory, runtime)
}

/// Whether the old job's files, and whether its record, are there after a sweep.
fn swept(started_by: Generation, expires_at: UnixSeconds, living: &[JobId]) -> (bool, bool) {
    let (directory, runtime) = leftover(started_by, expires_at);
    let fake = FakeProcesses {
        generation: generation("this boot", 1),
        living: living.iter().copied().collect(),
        ..FakeProcesses::default()
    };
    sweep(&runtime, NEW, &fake.generation, &fake, NOW);
    let run = directory.join("run");
    (run.join("jobs/1/access_token").exists(), run.join("records/1/record").exists())
}

#[test]
fn what_is_over_goes_and_what_lives_stays() {
    let (ours, before_restart, before_boot) =
        (generation("this boot", 1), generation("this boot", 9), generation("older boot", 1));
    for (name, started_by, expires_at, living, expected) in [
        ("a waiting allocation", ours.clone(), NOW + 60, &[][..], (true, true)),
        ("one whose token ended", ours, NOW, &[], (false, true)),
        ("a running job over slurmd's restart", before_restart.clone(), NOW, &[OLD], (true, true)),
        ("an idle job over slurmd's restart", before_restart, NOW + 60, &[], (false, true)),
        ("a job of an older boot", before_boot, NOW + 60, &[], (false, false)),
    ] {
        assert_eq!(swept(started_by, expires_at, living), expected, "{name}");
    }
}

#[test]
fn a_job_without_a_readable_record_goes() {
    let (directory, runtime) = leftover(generation("this boot", 1), NOW + 60);
    std::fs::write(directory.join("run/records/1/record"), "{").unwrap();
    let fake = FakeProcesses { generation: generation("this boot", 1), ..FakeProcesses::default() };
    sweep(&runtime, NEW, &fake.generation, &fake, NOW);
    assert_eq!(runtime.jobs(), []);
}
