use std::cell::RefCell;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::*;
use crate::testing::Directory;
use crate::words::google::ServiceAccountEmail;
use crate::words::names::JobId;
use crate::world::fs::{FileError, NewFile, Owner, Place};

const ALICE: u32 = 61001;
const BOB: u32 = 61002;
const JOB: JobId = JobId(42);

/// Creates a runtime directory with a job of alice's. Returns it with the path of her access token, and with a guard
/// that keeps other tests from starting processes meanwhile.
fn opened() -> ((MutexGuard<'static, ()>, Directory), RuntimeDirectory, PathBuf) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let directory = crate::testing::directory();
    let runtime = RuntimeDirectory::open(&directory.join("run")).unwrap();
    publish(&runtime);
    let path = runtime.path_of_job(JOB).join("access_token");
    ((turn, directory), runtime, path)
}

fn publish(runtime: &RuntimeDirectory) {
    let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
    let place = Place { job: JOB, below: None };
    let files = [NewFile { name: "access_token", content: "one", is_users: true }];
    lock.publish(&place, Owner { uid: ALICE, gid: ALICE }, &files).unwrap();
}

/// Performs a write that first fails for lack of space.
fn write(runtime: &RuntimeDirectory) -> Result<()> {
    let outcomes = RefCell::new(vec![Ok(()), Err(FileError::system(&runtime.path, "write it", Errno::NOSPC))]);
    runtime.with_room(|| outcomes.borrow_mut().pop().unwrap())
}

/// A program that has a file open, killed at the end of the test.
struct Holder(Child);

impl Holder {
    /// Runs a line of bash as a user with the file as descriptor 3, and waits until it writes a byte.
    fn start(uid: u32, path: &Path, line: &str) -> Self {
        let file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        let child = Command::new("/bin/bash")
            .args(["-c", &format!("exec 3>&0 </dev/null; {line}")])
            .uid(uid)
            .process_group(0)
            .stdin(file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self::ready(child)
    }

    /// Runs a Python program as alice, with the file as its standard input.
    fn start_python(file: std::fs::File, program: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-c", program]).uid(ALICE).process_group(0).stdin(file).stdout(Stdio::piped());
        let child = command.spawn().unwrap();
        // The command has the file open too.
        drop(command);
        Self::ready(child)
    }

    fn ready(mut child: Child) -> Self {
        let mut ready = [0; 1];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Self(child)
    }

    fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let group = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).unwrap();
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
        let _ = self.0.wait();
    }
}

fn size(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().len()
}

#[test]
fn a_replaced_file_that_a_process_has_open_is_emptied_and_the_process_goes_on() {
    let (_alone, runtime, path) = opened();
    let mut holder = Holder::start(ALICE, &path, "head -c 200000 /dev/zero >&3; echo; sleep 300");
    let replaced = std::fs::File::open(&path).unwrap();
    publish(&runtime);
    assert_eq!(replaced.metadata().unwrap().len(), 200_003);
    write(&runtime).unwrap();
    assert_eq!((replaced.metadata().unwrap().len(), size(&path)), (0, 3));
    assert!(holder.is_running());
    assert_eq!(runtime.ended(), Vec::<String>::new());
}

const FILL: &str = "(while :; do head -c 200000 /dev/zero >&3; sleep 0.01; done)";

#[test]
fn a_process_that_keeps_filling_is_killed_and_one_that_only_has_the_file_open_is_not() {
    let (_alone, runtime, path) = opened();
    let line = format!("head -c 200000 /dev/zero >&3; {FILL} & echo; sleep 300");
    let mut holder = Holder::start(ALICE, &path, &line);
    write(&runtime).unwrap();
    let ended = runtime.ended();
    let expected =
        format!(" (bash) of uid {ALICE} was killed: it fills the runtime directory with {}, or", path.display());
    assert!(ended.iter().any(|line| line.contains(&expected)), "{ended:?}");
    assert!(holder.is_running(), "{ended:?}");
    std::thread::sleep(PAUSE);
    assert_eq!(size(&path), 0);
    assert_eq!(runtime.ended(), Vec::<String>::new(), "told twice");
}

#[test]
fn a_file_that_another_user_has_open_is_emptied_and_that_process_is_not_killed() {
    let (_alone, runtime, path) = opened();
    let mut holder = Holder::start(BOB, &path, &format!("{FILL} & echo; sleep 300"));
    let filler = || {
        Command::new("pgrep")
            .args(["-P", &holder.0.id().to_string(), "bash"])
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    };
    assert!(filler());
    std::thread::sleep(PAUSE);
    write(&runtime).unwrap();
    assert!(filler());
    assert!(holder.is_running());
    assert_eq!(runtime.ended(), Vec::<String>::new());
}

#[test]
fn a_file_that_root_did_not_publish_is_not_touched() {
    let (alone, runtime, _) = opened();
    let path = alone.1.join("access_token");
    std::fs::write(&path, vec![b'x'; 200_000]).unwrap();
    std::os::unix::fs::chown(&path, Some(ALICE), Some(ALICE)).unwrap();
    let mut holder = Holder::start(ALICE, &path, &format!("{FILL} & echo; sleep 300"));
    assert!(write(&runtime).is_err());
    assert!(size(&path) >= 200_000 && holder.is_running());
    assert_eq!(runtime.ended(), Vec::<String>::new());
}

#[test]
fn a_process_that_prevents_truncation_is_killed() {
    let (_alone, runtime, path) = opened();
    std::fs::write(&path, vec![b'x'; 200_000]).unwrap();
    // F_SETLEASE of fcntl(2): only the file's owner can set a lease, and only while nobody has the file open for
    // writing.
    let lease = "import fcntl, signal, sys, time; signal.signal(signal.SIGIO, signal.SIG_IGN); \
                 fcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_RDLCK); print(flush=True); time.sleep(300)";
    let mut holder = Holder::start_python(std::fs::File::open(&path).unwrap(), lease);
    write(&runtime).unwrap();
    let ended = runtime.ended();
    assert!(ended.len() == 1 && ended[0].contains(" (python3) of uid 61001 was killed"), "{ended:?}");
    assert!(!holder.is_running());
    assert_eq!(size(&path), 0);
}

#[test]
fn a_process_that_fills_without_counting_as_written_is_killed() {
    let (_alone, runtime, path) = opened();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let program = "import os, time; os.dup(0); os.posix_fallocate(0, 0, 200000); print(flush=True)\n\
                   while True: os.posix_fallocate(0, 0, 200000); time.sleep(0.01)";
    let mut holder = Holder::start_python(file, program);
    write(&runtime).unwrap();
    let ended = runtime.ended();
    assert!(ended.len() == 1 && ended[0].contains(" (python3) of uid 61001 was killed"), "{ended:?}");
    assert!(!holder.is_running());
    assert_eq!(size(&path), 0);
}

#[test]
fn a_replaced_file_that_is_only_mapped_is_emptied() {
    let (_alone, runtime, path) = opened();
    let file = || std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let replaced = file();
    let program = "import mmap, os, time; os.ftruncate(0, 200000); m = mmap.mmap(0, 200000); os.close(0); os.closerange(3, 100)\n\
                   print(flush=True); time.sleep(300)";
    let mut holder = Holder::start_python(file(), program);
    publish(&runtime);
    assert_eq!(replaced.metadata().unwrap().len(), 200_000);
    write(&runtime).unwrap();
    assert_eq!(replaced.metadata().unwrap().len(), 0);
    assert!(holder.is_running());
}

#[test]
fn truncating_grown_files_makes_room() {
    let (_alone, runtime, _) = opened();
    let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
    let files = [NewFile { name: "access_token", content: "one", is_users: true }];
    let email = ServiceAccountEmail::parse("a@p.iam.gserviceaccount.com").unwrap();
    let places = [Place { job: JOB, below: None }, Place { job: JOB, below: Some(email) }];
    for place in &places {
        lock.publish(place, Owner { uid: 61001, gid: 61001 }, &files).unwrap();
        assert!(runtime.have_sizes(place, &[("access_token", 3)]));
        std::fs::write(runtime.path_of(place).join("access_token"), vec![b'x'; 1 << 20]).unwrap();
        assert!(!runtime.have_sizes(place, &[("access_token", 3)]));
    }
    write(&runtime).unwrap();
    for place in &places {
        assert_eq!(std::fs::metadata(runtime.path_of(place).join("access_token")).unwrap().len(), 0);
    }
}
