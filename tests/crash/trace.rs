//! Traces processes, counts the system calls with which they change files below a directory, and injects a fault at one
//! of them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::libc::{self, user_regs_struct};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{WaitOptions, wait, waitpid};

use super::calls::Entered;
use super::watch::{Call, Fault, Watch, lock, process_of};

/// Returns the kind of a thread's process.
pub type Role = fn(u32) -> String;

/// Traces a process and its descendants. Use it on one thread only: the kernel binds a tracee to the tracing thread.
pub struct Tracer {
    directory: PathBuf,
    role: Role,
    watch: Arc<Mutex<Watch>>,
    /// The threads that are in a call, with the error that the call must return.
    within: BTreeMap<i32, Option<Errno>>,
    statuses: BTreeMap<i32, ExitStatus>,
}

impl Tracer {
    /// Creates a tracer that counts changes below a directory.
    pub fn new(directory: &Path, role: Role, watch: Arc<Mutex<Watch>>) -> Self {
        let directory = directory.to_owned();
        Self { directory, role, watch, within: BTreeMap::new(), statuses: BTreeMap::new() }
    }

    /// Runs a command with one environment variable. Returns when the command and its descendants have exited. Writes
    /// the output to a file.
    #[allow(clippy::zombie_processes, reason = "`follow` waits for it and its descendants")]
    pub fn run(mut self, command: &[&OsStr], variable: (&str, &str), output: &File) -> ExitStatus {
        // The shell stops itself, so that the command is traced from its first call on.
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).args(command).env_clear().env(variable.0, variable.1);
        let streams = || output.try_clone().expect("cannot clone the descriptor");
        shell.stdin(Stdio::null()).stdout(streams()).stderr(streams());
        let child = shell.spawn().expect("cannot start /bin/sh");
        let pid = Pid::from_raw(child.id().cast_signed());
        let stopped = waitpid(rustix::process::Pid::from_raw(pid.as_raw()), WaitOptions::UNTRACED);
        assert!(stopped.expect("cannot wait for the shell").expect("no status of the shell").1.stopped());
        ptrace::seize(pid, options()).expect("cannot trace the shell");
        kill(pid, Signal::SIGCONT).expect("cannot continue the shell");
        self.follow();
        self.statuses[&pid.as_raw()]
    }

    fn follow(&mut self) {
        // Wait only for the children and tracees of this thread.
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
                Some(Some(error)) => set_error(pid, error),
                Some(None) => {}
            }
        } else if event == 0 {
            deliver = Signal::try_from(signal).ok();
        }
        // This fails if the process has been killed meanwhile.
        let _ = ptrace::syscall(pid, deliver);
    }

    /// Handles the entry of a call. Returns the error that the call must return, if any.
    fn entered(&self, process: i32) -> Option<Errno> {
        let pid = Pid::from_raw(process);
        let mut registers = ptrace::getregs(pid).ok()?;
        let user_regs_struct { rdi, rsi, rdx, r10, r8, r9, orig_rax, .. } = registers;
        let (number, arguments) = (orig_rax.cast_signed(), [rdi, rsi, rdx, r10, r8, r9]);
        let (name, path) = Entered { process, number, arguments }.change(&self.directory)?;
        let role = (self.role)(process.unsigned_abs());
        let fault = lock(&self.watch).entered(Call { role, name, path })?;
        // An invalid number, so that the kernel does not run the call.
        registers.orig_rax = u64::MAX;
        let _ = ptrace::setregs(pid, registers);
        match fault {
            Fault::Kill => {
                let _ = kill(Pid::from_raw(process_of(process)), Signal::SIGKILL);
                None
            }
            Fault::Fail(error) => Some(error),
        }
    }
}

/// Returns the options that trace descendants and kill them if the tracer exits.
fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL
}

/// Replaces the result of a call at its exit by an error.
fn set_error(pid: Pid, error: Errno) {
    if let Ok(mut registers) = ptrace::getregs(pid) {
        registers.rax = i64::from(-(error as i32)).cast_unsigned();
        let _ = ptrace::setregs(pid, registers);
    }
}
