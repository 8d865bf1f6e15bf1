use super::*;
use crate::plan::record::ProcessId;
use crate::policy::facts::JobFacts;
use crate::policy::request::Options;
use crate::testing::{self, Directory, FakeProcesses};
use crate::world::fs::{NewFile, Owner, Place};

const NOW: UnixSeconds = 1_000_000;
const OLD: JobId = JobId(1);
const NEW: JobId = JobId(2);
const STEPD: ProcessId = ProcessId { pid: 77, start: 7 };

fn generation(boot: &str, slurmd: u32) -> Generation {
    Generation { boot: boot.to_owned(), slurmd: ProcessId { pid: slurmd, start: 0 } }
}

/// Creates a job that `started_by` started, with a token that expires at `expires_at`.
fn leftover(started_by: Generation, expires_at: UnixSeconds) -> (Directory, RuntimeDirectory) {
    let directory = testing::directory();
    let runtime = RuntimeDirectory::open(&directory.join("run")).unwrap();
    let locked = runtime.lock(OLD, Duration::ZERO).unwrap();
    let facts = JobFacts { job: OLD, ..testing::facts() };
    let mut record = JobRecord::new(facts, Options::default(), started_by);
    record.remember(testing::issued("t", expires_at));
    locked.write_record(record.to_text().expose()).unwrap();
    let file = NewFile { name: "access_token", content: "t", is_users: true };
    locked.publish(&Place { job: OLD, below: None }, Owner { uid: 0, gid: 0 }, &[file]).unwrap();
    drop(locked);
    (directory, runtime)
}

/// Returns whether the old job's files and its record exist after a sweep.
fn swept(started_by: Generation, expires_at: UnixSeconds, living: &[JobId]) -> (bool, bool) {
    let (directory, runtime) = leftover(started_by, expires_at);
    let fake = FakeProcesses {
        generation: generation("this boot", 1),
        living: living.iter().map(|job| (*job, STEPD)).collect(),
        ..FakeProcesses::default()
    };
    sweep(&runtime, NEW, &fake, NOW);
    let run = directory.join("run");
    (run.join("jobs/1/access_token").exists(), run.join("records/1/record").exists())
}

#[test]
fn a_sweep_removes_jobs_that_are_over_and_no_others() {
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
fn a_job_without_a_readable_record_is_removed() {
    let (directory, runtime) = leftover(generation("this boot", 1), NOW + 60);
    std::fs::write(directory.join("run/records/1/record"), "{").unwrap();
    let fake = FakeProcesses { generation: generation("this boot", 1), ..FakeProcesses::default() };
    sweep(&runtime, NEW, &fake, NOW);
    assert_eq!(runtime.jobs(), []);
}

#[test]
fn proc_is_walked_only_for_a_job_that_may_be_over() {
    let (ours, before_restart) = (generation("this boot", 1), generation("this boot", 9));
    for (name, started_by, expires_at, walks) in [
        ("a job in order", ours.clone(), NOW + 60, 0),
        ("one whose token ended", ours.clone(), NOW, 1),
        ("one that another slurmd started", before_restart, NOW + 60, 1),
    ] {
        let (_directory, runtime) = leftover(started_by, expires_at);
        let mut fake =
            FakeProcesses { generation: ours.clone(), living: [(OLD, STEPD)].into(), ..FakeProcesses::default() };
        // The first walk finds the slurmstepd; later sweeps need none.
        for _ in 0..3 {
            sweep(&runtime, NEW, &fake, NOW);
        }
        assert_eq!((fake.walks.get(), runtime.has_record(OLD)), (walks, true), "{name}");
        // When that slurmstepd has ended, the sweep walks again.
        fake.living = [(OLD, ProcessId { pid: 78, ..STEPD })].into();
        sweep(&runtime, NEW, &fake, NOW);
        assert_eq!((fake.walks.get(), runtime.has_record(OLD)), (2 * walks, true), "{name}");
    }
    let (_directory, runtime) = leftover(ours.clone(), NOW + 60);
    runtime.remove_files(OLD).unwrap();
    runtime.remove_record(OLD).unwrap();
    let fake = FakeProcesses { generation: ours, ..FakeProcesses::default() };
    sweep(&runtime, NEW, &fake, NOW);
    assert_eq!(fake.walks.get(), 0, "without any job");
}

#[test]
fn what_cannot_be_read_at_this_moment_is_left_alone() {
    let (directory, runtime) = leftover(generation("older boot", 1), NOW - 60);
    let at = |path: &str| directory.join("run").join(path);
    // As if there were no descriptor left: a directory can be opened, and not be read.
    for path in ["records/1/record", "tokens/0-key/token"] {
        let _ = std::fs::remove_file(at(path));
        std::fs::create_dir_all(at(path)).unwrap();
    }
    let fake = FakeProcesses { generation: generation("this boot", 1), ..FakeProcesses::default() };
    sweep(&runtime, NEW, &fake, NOW);
    crate::job::obtain::sweep(&crate::world::clock::SystemClock, &runtime);
    for path in ["jobs/1/access_token", "records/1/record", "tokens/0-key/token"] {
        assert!(at(path).exists(), "{path}");
    }
    assert_eq!(runtime.look_for_jobs().unwrap(), [OLD]);
    assert!(runtime.look_at_record(OLD).is_err() && runtime.look_at_record(NEW).unwrap().is_none());
}
