//! Child processes with a deadline, and processes that outlive this one.

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

/// The exit status of a child that panicked, the same as Rust's.
const PANIC: i32 = 101;

/// Why a child process gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChildError {
    /// It could not be started.
    Start(Errno),
    /// It was not started, because this process has this number of threads instead of one.
    Threads(usize),
    /// It did not finish in time and was killed.
    Timeout,
    /// It ended without an answer, for example because of a signal.
    Died(String),
}

impl fmt::Display for ChildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(errno) => write!(f, "no process could be started: {}", std::io::Error::from(*errno)),
            Self::Threads(threads) => write!(f, "no process is started from a process with {threads} threads"),
            Self::Timeout => f.write_str("the process that talks to Google did not finish in time"),
            Self::Died(how) => write!(f, "the process that talks to Google ended early: {how}"),
        }
    }
}

impl std::error::Error for ChildError {}

/// Runs `work` in a child process and returns its answer.
///
/// The child isolates Slurm's process from threads that `work` starts, from its crashes and from its memory use. This
/// function returns within `limit`, whatever happens to the child.
///
/// # Errors
/// When the child gives no answer.
pub fn in_child(limit: Duration, work: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>, ChildError> {
    answer_of(limit, |pipe| child(pipe, work))
}

/// Like [`in_child`], but as a user: with the user's groups, without this process's descriptors and with the default
/// OOM score. The child leads a new session; at the deadline, its process group is killed.
///
/// # Errors
/// When the child gives no answer.
pub fn in_child_of_user(
    limit: Duration,
    (uid, gid, groups): (u32, u32, &[u32]),
    work: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, ChildError> {
    answer_of(limit, |pipe| {
        let _ = rustix::process::setsid();
        // slurmstepd has a score that exempts it from the OOM killer.
        let _ = std::fs::write("/proc/self/oom_score_adj", "0");
        let Ok(pipe) = keep_only(pipe) else { return 1 };
        child(pipe, || match become_user(uid, gid, groups) {
            Ok(()) => work(),
            Err(_) => Vec::new(),
        })
    })
}

/// Runs `work` in a detached process that outlives this one, and returns at once.
///
/// slurmd waits for the prolog's process group and for the end of its output. The new process therefore starts a
/// session and closes pipes, sockets and terminals. It keeps open files, such as Slurm's log, and directories, which
/// can be locks.
///
/// # Errors
/// When no process can be started.
pub fn detach(work: impl FnOnce()) -> Result<(), ChildError> {
    let outlives = || {
        // The new session must exist before the parent continues; otherwise slurmd's killpg can reach the process
        // first.
        let _ = rustix::process::setsid();
        let works = || {
            guard_secrets();
            let _ = let_go_of_streams();
            work();
            0
        };
        // SAFETY: a forked process has one thread.
        let _ = unsafe { fork(works) };
        0
    };
    // SAFETY: as for `in_child`.
    let pid = unsafe { fork(outlives) }?;
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    Ok(())
}

/// Starts a program in a detached process that outlives this one, with only `PATH` in its environment and /dev/null as
/// its standard streams.
///
/// # Errors
/// When no process can be started. A failure to execute the program is not reported.
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

/// Runs `work` in a child process, which exits with the status that `work` returns. The caller waits for the child.
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

/// Runs `work` in a child process, which exits with the status that `work` returns. The caller waits for the child.
///
/// # Safety
/// Either this process has one thread, or `work` needs no lock that another thread may hold at this moment, because
/// nothing releases the child's copy of that lock. glibc's allocator makes its own locks usable after fork.
///
/// # Errors
/// When no process can be started.
unsafe fn fork(work: impl FnOnce() -> i32) -> Result<Pid, ChildError> {
    // SAFETY: the caller upholds the conditions above.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        end_process(std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(PANIC));
    }
    Pid::from_raw(pid).filter(|pid| pid.as_raw_pid() > 0).ok_or_else(|| ChildError::Start(last_errno()))
}

/// Forks, and reads the child's output until its end or the deadline.
fn answer_of(limit: Duration, child: impl FnOnce(OwnedFd) -> i32) -> Result<Vec<u8>, ChildError> {
    let (ours, its) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(ChildError::Start)?;
    let parent = rustix::process::getpid();
    let mut ends = Some((ours, its));
    let begun = || {
        let Some((ours, its)) = ends.take() else { return 1 };
        drop(ours);
        // Do not outlive the parent. It can have died between fork and this line, so check it below.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        guard_secrets();
        if rustix::process::getppid() == Some(parent) { child(its) } else { 1 }
    };
    // SAFETY: the child runs only this code and leaves by _exit. Of the locks that other threads of Slurm's process may
    // hold, it needs only those of the allocator, which glibc makes usable after fork.
    let pid = unsafe { fork(begun) }?;
    let Some((ours, its)) = ends.take() else { return Err(ChildError::Start(Errno::BADF)) };
    drop(its);
    let answer = read_until(ours, Instant::now() + limit);
    if answer.is_none() {
        // The child is not yet reaped, so its process ID, and the process group's if it leads one, cannot have been
        // reused.
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

/// Closes all descriptors except this one, and connects the standard streams to /dev/null.
fn keep_only(pipe: OwnedFd) -> rustix::io::Result<OwnedFd> {
    // If slurmstepd has closed its standard streams, the pipe can have one of their numbers.
    let kept = rustix::io::fcntl_dupfd_cloexec(&pipe, 3)?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(|_| Errno::NOENT)?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // The loop below closes both.
    std::mem::forget((null, pipe));
    for descriptor in open_descriptors().into_iter().filter(|number| *number > 2 && *number != kept.as_raw_fd()) {
        // SAFETY: a forked process has one thread, and the values that own these descriptors are neither used nor
        // dropped any more, because the process leaves by _exit.
        unsafe { libc::close(descriptor) };
    }
    Ok(kept)
}

/// Returns the numbers of this process's descriptors, including the one that lists them, which is closed by now.
fn open_descriptors() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Waits up to a second for a child that is about to end. It can hang in the kernel.
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

/// Reads to the end. Returns `None` at the deadline.
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
/// Slurm's prolog process has closed its standard input, so another file can have its number.
fn let_go_of_streams() -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for fd in open_descriptors().into_iter().filter(|fd| *fd != null.as_raw_fd()) {
        // SAFETY: the descriptor was open when it was listed, and no other thread can have closed it.
        let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
        let kind = rustix::fs::fstat(borrowed).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if !matches!(kind, Ok(FileType::Fifo | FileType::Socket | FileType::CharacterDevice)) {
            continue;
        }
        match fd {
            0 => rustix::stdio::dup2_stdin(&null)?,
            1 => rustix::stdio::dup2_stdout(&null)?,
            2 => rustix::stdio::dup2_stderr(&null)?,
            // SAFETY: no value in this process owns one of these streams.
            _ => drop(unsafe { libc::close(fd) }),
        }
    }
    Ok(())
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN)
}
