//! Follows processes, counts the system calls by which they change a directory, and stops one there or lets it fail.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, wait, waitpid};

use super::calls::Entered;

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before the call.
    Stop,
    /// The call does nothing and fails.
    Fails(Errno),
}

/// At which call something happens.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In which kind of process.
    pub role: String,
    /// Its how many-eth call, from 1; with 0 it is each call of any process.
    pub number: usize,
    /// What happens there.
    pub fault: Fault,
}

/// A call that changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The kind of process.
    pub role: String,
    /// The call's name.
    pub name: &'static str,
    /// What it changes.
    pub path: PathBuf,
}

/// What a tracer is told to do, and what it has seen.
#[derive(Debug, Default)]
pub struct Watch {
    /// What is to happen.
    pub plan: Option<Plan>,
    /// The calls so far.
    pub calls: Vec<Call>,
    /// Where it has happened.
    pub hit: Option<Call>,
}

/// Says of what kind a thread's process is.
pub type Role = fn(u32) -> String;

/// Follows processes and all that they start. It is of use in one thread only: that one traces.
pub struct Tracer {
    directory: PathBuf,
    role: Role,
    watch: Arc<Mutex<Watch>>,
    /// The threads that are within a call, with the error that it has to return.
    within: BTreeMap<i32, Option<Errno>>,
    statuses: BTreeMap<i32, ExitStatus>,
}

impl Tracer {
    /// For changes below a directory.
    pub fn new(directory: &Path, role: Role, watch: Arc<Mutex<Watch>>) -> Self {
        let directory = directory.to_owned();
        Self { directory, role, watch, within: BTreeMap::new(), statuses: BTreeMap::new() }
    }

    /// Runs a command, with one variable, to its end and that of all that it starts. Its output goes to a file.
    #[allow(clippy::zombie_processes, reason = "follow waits for it and for what it starts")]
    pub fn run(mut self, command: &[&OsStr], variable: (&str, &str), output: &File) -> ExitStatus {
        // It stops itself, so that it is followed from its first call on.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).args(command).env_clear().env(variable.0, variable.1);
        let streams = || output.try_clone().expect("a descriptor");
        shell.stdin(Stdio::null()).stdout(streams()).stderr(streams());
        let child = shell.spawn().expect("/bin/sh runs");
        let pid = Pid::from_raw(child.id().cast_signed());
        let stopped = waitpid(rustix::process::Pid::from_raw(pid.as_raw()), WaitOptions::UNTRACED);
        assert!(stopped.expect("it is ours").expect("it waited").1.stopped());
        ptrace::seize(pid, options()).expect("a process of our own can be traced");
        kill(pid, Signal::SIGCONT).expect("it is stopped");
        self.follow();
        self.statuses[&pid.as_raw()]
    }

    fn follow(&mut self) {
        // Of the children and traced processes of this thread alone.
        let options = WaitOptions::from_bits_retain((libc::__WALL | libc::__WNOTHREAD).unsigned_abs());
        while let Ok(Some((process, status))) = rustix::io::retry_on_intr(|| wait(options)) {
            let (process, status) = (process.as_raw_nonzero().get(), status.as_raw());
            if status & 0xff == 0x7f {
                self.stopped(process, (status >> 8) & 0xff, status >> 16);
            } else {
                self.within.remove(&process);
                self.statuses.insert(process, ExitStatus::from_raw(status));
            }
        }
    }

    fn stopped(&mut self, process: i32, signal: i32, event: i32) {
        let pid = Pid::from_raw(process);
        let mut deliver = None;
        if signal == libc::SIGTRAP | 0x80 {
            match self.within.remove(&process) {
                None => {
                    let error = self.entered(process);
                    self.within.insert(process, error);
                }
                Some(Some(error)) => returns(pid, error),
                Some(None) => {}
            }
        } else if event == 0 {
            deliver = Signal::try_from(signal).ok();
        }
        // It may have been killed meanwhile.
        let _ = ptrace::syscall(pid, deliver);
    }

    /// A call begins. Returns the error with which it has to end, if it has to.
    fn entered(&self, process: i32) -> Option<Errno> {
        let pid = Pid::from_raw(process);
        let mut registers = ptrace::getregs(pid).ok()?;
        let (name, path) = Entered { process, registers: &registers }.change(&self.directory)?;
        let role = (self.role)(process.unsigned_abs());
        let mut watch = lock(&self.watch);
        watch.calls.push(Call { role: role.clone(), name, path });
        let plan = watch.plan.clone()?;
        let count = watch.calls.iter().filter(|call| call.role == plan.role).count();
        if plan.number != 0 && (plan.role, plan.number) != (role, count) {
            return None;
        }
        watch.hit = watch.calls.last().cloned();
        // No call has this number.
        registers.orig_rax = u64::MAX;
        let _ = ptrace::setregs(pid, registers);
        match plan.fault {
            Fault::Stop => {
                let _ = kill(Pid::from_raw(group(process)), Signal::SIGKILL);
                None
            }
            Fault::Fails(error) => Some(error),
        }
    }
}

/// What a tracer has seen, also if another thread panicked.
pub fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Follows what is started, and ends with the tracer.
fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL
}

/// Lets the call that is about to end return an error.
fn returns(pid: Pid, error: Errno) {
    if let Ok(mut registers) = ptrace::getregs(pid) {
        registers.rax = i64::from(-(error as i32)).cast_unsigned();
        let _ = ptrace::setregs(pid, registers);
    }
}

/// The process of a thread.
fn group(thread: i32) -> i32 {
    field(thread.unsigned_abs(), "Tgid:").and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// A field of a thread's status.
pub fn field(thread: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}
