//! Child processes for risky work, and processes that outlive this one.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::{become_user, end_process, guard_secrets};

/// The exit status of a child that panicked, as Rust's own.
const PANIC: i32 = 101;

/// How a child process failed its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildError {
    /// It could not be started.
    Start(Errno),
    /// It was not started, because this process has so many threads.
    Threads(usize),
    /// It did not finish in time and was killed.
    Timeout,
    /// It ended without an answer, for example by a signal.
    Died(String),
}

impl fmt::Display for ChildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(errno) => write!(f, "no process could be started: {}", std::io::Error::from(*errno)),
            Self::Threads(threads) => write!(f, "no process is started from one of {threads} threads"),
            Self::Timeout => f.write_str("the process that talks to Google did not finish in time"),
            Self::Died(how) => write!(f, "the process that talks to Google ended early: {how}"),
        }
    }
}

impl std::error::Error for ChildError {}

/// Runs `work` in a child process and returns its answer.
///
/// Slurm's process gets none of the work's threads, does not crash with it and is not killed for it. Whatever happens
/// to the child, the parent gets an answer within `limit`.
///
/// # Errors
/// When the child does not answer.
pub fn in_child(limit: Duration, work: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, ChildError> {
    answer_of(limit, |pipe| child(pipe, work))
}

/// Like [`in_child`], but as a user: with the user's groups, without this process's descriptors, in a session of its
/// own that is killed as a whole at the deadline, and with the usual score for the kernel's out-of-memory killer.
///
/// # Errors
/// When the child does not answer.
pub fn in_child_of_user(
    limit: Duration,
    (uid, gid, groups): (u32, u32, &[u32]),
    work: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, ChildError> {
    answer_of(limit, |pipe| {
        let _ = rustix::process::setsid();
        // slurmstepd has a score by which it is never killed.
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
        let Ok(pipe) = keep_only(pipe) else { return 1 };
        child(pipe, || match become_user(uid, gid, groups) {
            Ok(()) => work(),
            Err(_) => Vec::new(),
        })
    })
}

/// Runs `work` in a process of its own that outlives this one, and returns at once.
///
/// slurmd waits for the prolog's process group and for the end of its output, so the new process leaves the group and
/// keeps nothing of the output. It keeps files, which may be Slurm's log, and directories, which may be locks.
///
/// # Errors
/// When no process can be started.
pub fn detach(work: impl FnOnce()) -> Result<(), ChildError> {
    let outlives = || {
        // The new session must exist before the parent goes on, or slurmd's killpg comes first.
        let _ = rustix::process::setsid();
        let works = || {
            guard_secrets();
            let _ = let_go_of_streams();
            work();
            0
        };
        // SAFETY: a process that was forked has one thread.
        let _ = unsafe { fork(works) };
        0
    };
    // SAFETY: as for `in_child`.
    let pid = unsafe { fork(outlives) }?;
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    Ok(())
}

/// Starts a program in a process of its own that outlives this one, with an empty environment and no descriptors.
///
/// # Errors
/// When no process can be started. It does not tell when the program itself cannot be started.
pub fn spawn_detached(program: &Path, arguments: &[String]) -> Result<(), ChildError> {
    detach(|| {
        let _ = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .exec();
    })
}

/// Runs `work` in a child process, whose exit status it returns. The caller waits for the child.
///
/// # Errors
/// When this process has more than one thread, or no process can be started.
pub fn fork_alone(work: impl FnOnce() -> i32) -> Result<Pid, ChildError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(ChildError::Threads(threads));
    }
    // SAFETY: this is the only thread.
    unsafe { fork(work) }
}

/// Runs `work` in a child process, whose exit status it returns. The caller waits for the child.
///
/// # Safety
/// Either this process has one thread, or `work` needs no lock that another thread may hold at this moment: the child
/// has a copy of the lock and nobody to release it. glibc's allocator takes care of its own locks.
///
/// # Errors
/// When no process can be started.
unsafe fn fork(work: impl FnOnce() -> i32) -> Result<Pid, ChildError> {
    // SAFETY: the caller keeps to the conditions above.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        end_process(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(PANIC));
    }
    Pid::from_raw(pid).filter(|pid| pid.as_raw_pid() > 0).ok_or_else(|| ChildError::Start(last_errno()))
}

/// Forks, and reads what the child writes until it ends or the time is over.
fn answer_of(limit: Duration, child: impl FnOnce(OwnedFd) -> i32) -> Result<Vec<u8>, ChildError> {
    let (ours, its) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(ChildError::Start)?;
    let parent = rustix::process::getpid();
    let mut ends = Some((ours, its));
    let begun = || {
        let Some((ours, its)) = ends.take() else { return 1 };
        drop(ours);
        // Do not outlive the parent; it may have died between fork and this line.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        guard_secrets();
        if rustix::process::getppid() == Some(parent) { child(its) } else { 1 }
    };
    // SAFETY: the child runs our code only, and leaves by _exit. Of the threads that Slurm's process may have, none can
    // hold a lock that we need for good: glibc makes its allocator's locks safe across fork.
    let pid = unsafe { fork(begun) }?;
    let Some((ours, its)) = ends.take() else { return Err(ChildError::Start(Errno::BADF)) };
    drop(its);
    let answer = read_until(ours, Instant::now() + limit);
    if answer.is_none() {
        // The child is ours and not yet reaped, so that the number is its own, and its session's if it has one.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
    let status = reap(pid);
    match answer {
        None => Err(ChildError::Timeout),
        Some(answer) if answer.is_empty() => Err(ChildError::Died(ending(status))),
        Some(answer) => Ok(answer),
    }
}

/// Closes every descriptor but this one, and connects the standard streams to /dev/null.
fn keep_only(pipe: OwnedFd) -> rustix::io::Result<OwnedFd> {
    // If slurmstepd has closed its standard streams, this one may have the number of one of them.
    let kept = rustix::io::fcntl_dupfd_cloexec(&pipe, 3)?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(|_| Errno::NOENT)?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // Both are closed with the others.
    std::mem::forget((null, pipe));
    for descriptor in open_descriptors().into_iter().filter(|number| *number > 2 && *number != kept.as_raw_fd()) {
        // SAFETY: a process that was forked has one thread, and none of the values that own these descriptors is used
        // or dropped any more: it leaves by _exit.
        unsafe { libc::close(descriptor) };
    }
    Ok(kept)
}

/// The numbers of this process's descriptors. The one that lists them is closed when this returns.
fn open_descriptors() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Waits for a child that is about to end, but not for long: it may hang in the kernel.
fn reap(pid: Pid) -> Option<WaitStatus> {
    for _ in 0..100 {
        match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => return Some(status),
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    None
}

fn child(pipe: OwnedFd, work: impl FnOnce() -> Vec<u8>) -> i32 {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let answer = zeroize::Zeroizing::new(work());
        File::from(pipe).write_all(&answer).is_ok()
    }));
    i32::from(!matches!(done, Ok(true)))
}

/// Reads to the end, or `None` when the time is over.
fn read_until(pipe: OwnedFd, end: Instant) -> Option<Vec<u8>> {
    let mut file = File::from(pipe);
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok()?;
        let fd = file.as_fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return None,
            Err(Errno::INTR) => continue,
            Err(_) => return Some(answer),
            Ok(_) => match file.read(&mut chunk) {
                Ok(0) => return Some(answer),
                Ok(count) => answer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Some(answer),
            },
        }
    }
}

fn ending(status: Option<WaitStatus>) -> String {
    match status {
        Some(status) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => "no status".to_owned(),
        },
        None => "no status".to_owned(),
    }
}

/// Closes every pipe, socket and terminal of this process.
///
/// Slurm's prolog process has closed its standard input, so a file of ours may have that number by now.
fn let_go_of_streams() -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for fd in open_descriptors().into_iter().filter(|fd| *fd != null.as_raw_fd()) {
        // SAFETY: the number is of a descriptor that was open just now, in a process with one thread.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let kind = rustix::fs::fstat(borrowed).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if !matches!(kind, Ok(FileType::Fifo | FileType::Socket | FileType::CharacterDevice)) {
            continue;
        }
        match fd {
            0 => rustix::stdio::dup2_stdin(&null)?,
            1 => rustix::stdio::dup2_stdout(&null)?,
            2 => rustix::stdio::dup2_stderr(&null)?,
            // SAFETY: none of our own values owns a stream in this process.
            _ => drop(unsafe { libc::close(fd) }),
        }
    }
    Ok(())
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)
}
