use super::*;
use crate::world::fs::FileProblem;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

const JOB: JobId = JobId(42);
const ROOT: Owner = Owner { uid: 0, gid: 0 };

fn place() -> Place {
    Place { job: JOB, below: None }
}

fn opened() -> (crate::testing::Directory, RuntimeDirectory) {
    let directory = crate::testing::directory();
    let runtime = RuntimeDirectory::open(&directory.join("run")).unwrap();
    (directory, runtime)
}

#[test]
fn published_files_belong_to_the_user_and_directories_to_root() {
    let (_directory, runtime) = opened();
    let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
    let files = [NewFile { name: "access_token", content: "one", is_users: true }];
    lock.publish(&place(), Owner { uid: 61001, gid: 61002 }, &files).unwrap();
    let path = runtime.path_of(&place());
    let file = std::fs::metadata(path.join("access_token")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (61001, 61002, 0o400));
    let job = std::fs::metadata(&path).unwrap();
    assert_eq!((job.uid(), job.mode() & 0o7007), (0, 0o000), "others can enter");
    assert_eq!(std::fs::metadata(runtime.path.join("records")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "a temporary file was left");
}

#[test]
fn removing_a_job_removes_nothing_else() {
    let (directory, runtime) = opened();
    let outside = directory.join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "").unwrap();
    let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
    let email = ServiceAccountEmail::parse("a@p.iam.gserviceaccount.com").unwrap();
    let files = [NewFile { name: "access_token", content: "one", is_users: true }];
    lock.publish(&place(), ROOT, &files).unwrap();
    lock.publish(&Place { job: JOB, below: Some(email) }, ROOT, &files).unwrap();
    let other = runtime.lock(JobId(43), Duration::ZERO).unwrap();
    other.publish(&Place { job: JobId(43), below: None }, ROOT, &files).unwrap();
    symlink(&outside, runtime.path_of(&place()).join("link")).unwrap();
    lock.write_record("{}").unwrap();
    assert_eq!(runtime.jobs(), [JOB, JobId(43)]);
    runtime.remove_files(JOB).unwrap();
    runtime.remove_record(JOB).unwrap();
    runtime.remove_record(JOB).unwrap();
    assert_eq!(runtime.jobs(), [JobId(43)]);
    assert!(outside.join("file").exists());
}

#[test]
fn one_process_at_a_time_works_on_a_job() {
    let (_directory, runtime) = opened();
    let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
    assert_eq!(runtime.lock(JOB, Duration::from_millis(30)).unwrap_err().problem, FileProblem::Locked);
    drop(lock);
    let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
    runtime.remove_record(JOB).unwrap();
    let after = runtime.lock(JOB, Duration::ZERO).unwrap();
    assert!(after.read_record().unwrap().is_none());
    drop(lock);
}

#[test]
fn a_hostile_directory_is_refused() {
    let directory = crate::testing::directory();
    let path = directory.join("run");
    symlink("/tmp", &path).unwrap();
    assert!(RuntimeDirectory::open(&path).is_err(), "a link was followed");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    std::os::unix::fs::chown(&path, Some(61001), None).unwrap();
    assert_eq!(RuntimeDirectory::open(&path).unwrap_err().problem, FileProblem::OwnedBy(61001));
    std::os::unix::fs::chown(&path, Some(0), None).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(RuntimeDirectory::open(&path).unwrap_err().problem, FileProblem::Writable(0o777));
}

#[test]
fn each_write_checks_that_the_lock_still_holds() {
    let (_directory, runtime) = opened();
    let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
    lock.write_record("{}").unwrap();
    // As an epilog whose wait for the lock timed out.
    runtime.remove_files(JOB).unwrap();
    runtime.remove_record(JOB).unwrap();
    let files = [NewFile { name: "access_token", content: "one", is_users: true }];
    assert_eq!(lock.publish(&place(), ROOT, &files).unwrap_err().problem, FileProblem::Over);
    assert_eq!(lock.write_record("{}").unwrap_err().problem, FileProblem::Over);
    assert_eq!(lock.publish_step("0", ROOT, &NewTree::default(), "{}").unwrap_err().problem, FileProblem::Over);
    assert_eq!(runtime.jobs(), []);
    assert!(runtime.lock_existing(JOB, Duration::ZERO).unwrap().is_none());
}

/// Takes the lock of a kept token.
fn locked<'a>(runtime: &'a RuntimeDirectory, name: &str) -> KeptLock<'a> {
    match runtime.kept_place(name).unwrap().try_lock().unwrap() {
        TryLock::Locked(lock) => lock,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_process_at_a_time_has_the_lock_of_a_kept_token() {
    let (_directory, runtime) = opened();
    let lock = locked(&runtime, "a");
    let place = runtime.kept_place("a").unwrap();
    let TryLock::Busy(place) = place.try_lock().unwrap() else { panic!("it is locked twice") };
    drop(locked(&runtime, "b"));
    assert_eq!(place.read().unwrap(), None);
    lock.write("one").unwrap();
    assert_eq!(place.read().unwrap().as_deref(), Some(&b"one"[..]));
    drop(lock);
    assert!(matches!(place.try_lock().unwrap(), TryLock::Locked(_)));
    assert_eq!(runtime.kept().len(), 2);
}

#[test]
fn a_process_past_its_deadline_loses_the_lock_and_its_writes_fail() {
    let (_directory, runtime) = opened();
    let late = locked(&runtime, "a");
    late.say_until(100).unwrap();
    let place = runtime.kept_place("a").unwrap();
    place.end_late_lock(100).unwrap();
    let TryLock::Busy(place) = place.try_lock().unwrap() else { panic!("it is not late yet") };
    place.end_late_lock(101).unwrap();
    let next = locked(&runtime, "a");
    next.write("next").unwrap();
    assert_eq!(late.write("late").unwrap_err().problem, FileProblem::Over);
    // A waiter for the removed directory must not end the lock of the new one.
    next.say_until(200).unwrap();
    place.end_late_lock(101).unwrap();
    assert!(matches!(place.try_lock().unwrap(), TryLock::Gone));
    assert!(matches!(runtime.kept_place("a").unwrap().try_lock().unwrap(), TryLock::Busy(_)));
    assert_eq!(next.read().unwrap().as_deref(), Some(&b"next"[..]));
    drop((late, next));
    locked(&runtime, "a").remove().unwrap();
    assert!(runtime.kept().is_empty());
}

#[test]
fn the_jobs_user_and_nobody_else_reads_roots_files() {
    let (_directory, runtime) = opened();
    let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
    let owner = Owner { uid: 61001, gid: 61002 };
    lock.publish(&place(), owner, &[NewFile { name: "status", content: "one", is_users: false }]).unwrap();
    let path = runtime.path_of(&place()).join("status");
    assert_eq!(std::fs::metadata(&path).unwrap().uid(), 0);
    for (uid, readable) in [(61001, true), (61003, false)] {
        let path = path.clone();
        let read = std::thread::spawn(move || {
            // These calls affect this thread only.
            rustix::thread::set_thread_groups(&[]).unwrap();
            let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(uid));
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            std::fs::read(path).is_ok()
        });
        assert_eq!(read.join().unwrap(), readable, "{uid}");
    }
}
