//! Counts the system calls with which a node's processes change files below a directory, and injects a fault at one of
//! them. It uses seccomp's user notifications (seccomp_unotify(2)), because a tracer would delay the signals with which
//! glibc changes the user of all threads of slurmd.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpFd, ScmpFilterContext, ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags, ScmpSyscall};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::calls::{Entered, numbers};
use super::watch::{Call, Fault, Plan, Watch, field, lock, process_of};
use crate::cluster::Node;

/// The watch over the processes of a node.
pub struct Trap(Arc<Mutex<Watch>>);

impl Trap {
    /// Restarts the node's slurmd, and from then on watches it and each process that it starts for changes below
    /// `directory`, a path on the node. Does not count changes for another job.
    ///
    /// # Errors
    /// Why this kernel or libseccomp cannot do so.
    pub fn of(node: &Node, directory: &Path, other_job: &str) -> Result<Self, SeccompError> {
        let watch = Arc::new(Mutex::new(Watch::default()));
        let (send, receive) = channel();
        let directory = directory.to_owned();
        let others = ["jobs", "records"].map(|name| directory.join(name).join(other_job));
        let guard = Guard { directory, others, watch: Arc::clone(&watch) };
        thread::spawn(move || guard.serve(&receive));
        // The filter holds for the thread that loads it, and for what it starts.
        let restart = || {
            send.send(load()?).expect("the guard runs");
            node.restart_slurmd();
            Ok(Self(watch))
        };
        thread::scope(|scope| scope.spawn(restart).join().expect("slurmd starts again"))
    }

    /// The watch.
    pub fn watch(&self) -> MutexGuard<'_, Watch> {
        lock(&self.0)
    }

    /// Forgets all calls, and injects a fault from now on.
    pub fn arm(&self, plan: Option<Plan>) {
        *self.watch() = Watch { plan, ..Watch::default() };
    }
}

/// Loads a filter that asks about each call that can change a file. Returns the descriptor that is asked. libseccomp can
/// do so once in a process.
fn load() -> Result<ScmpFd, SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Allow)?;
    // Programs with the setuid bit keep it.
    filter.set_ctl_nnp(false)?;
    for number in numbers() {
        filter.add_rule(ScmpAction::Notify, ScmpSyscall::from(i32::try_from(number).expect("a call's number")))?;
    }
    filter.load()?;
    let descriptor = filter.get_notify_fd()?;
    // Releasing it would close the descriptor.
    std::mem::forget(filter);
    Ok(descriptor)
}

/// Answers the kernel for the processes that wait in a call.
struct Guard {
    directory: PathBuf,
    others: [PathBuf; 2],
    watch: Arc<Mutex<Watch>>,
}

impl Guard {
    fn serve(&self, descriptors: &Receiver<ScmpFd>) {
        let Ok(descriptor) = descriptors.recv() else { return };
        let mut failures = 0;
        // The trap has the other reference.
        while Arc::strong_count(&self.watch) > 1 && failures < 1000 {
            let Ok(request) = ScmpNotifReq::receive(descriptor) else {
                // A signal has interrupted the call meanwhile.
                failures += 1;
                continue;
            };
            failures = 0;
            let response = match self.error_of(&request) {
                None => ScmpNotifResp::new_continue(request.id, ScmpNotifRespFlags::empty()),
                Some(error) => ScmpNotifResp::new_error(request.id, -(error as i32), ScmpNotifRespFlags::empty()),
            };
            let _ = response.respond(descriptor);
        }
    }

    /// Returns the error with which a call must end, if any.
    fn error_of(&self, request: &ScmpNotifReq) -> Option<Errno> {
        let process = i32::try_from(request.pid).ok()?;
        let (number, arguments) = (i32::from(request.data.syscall).into(), request.data.args);
        let (name, path) = Entered { process, number, arguments }.change(&self.directory)?;
        if self.others.iter().any(|other| path.starts_with(other)) {
            return None;
        }
        let process = process_of(process);
        let role = role(process)?.to_owned();
        let fault = lock(&self.watch).entered(Call { role, name, path })?;
        match fault {
            Fault::Kill => {
                let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
                Some(Errno::EIO)
            }
            Fault::Fail(error) => Some(error),
        }
    }
}

/// Returns what a process is.
fn role(process: i32) -> Option<&'static str> {
    let parent = field(process.unsigned_abs(), "PPid:")?.parse().ok()?;
    let words = arguments(process);
    let is_worker = || arguments(parent).contains("spank prolog") || is_init(parent);
    Some(match words.as_str() {
        _ if words.contains("gcp-wif agent ") => "agent",
        _ if words.contains("spank epilog") => "epilog",
        _ if words.contains("spank prolog") && is_worker() => "worker",
        _ if words.contains("spank prolog") => "prolog",
        _ if words.starts_with("slurmstepd: ") => "step",
        _ => "other",
    })
}

/// Returns whether a process is the first one of its cluster, which adopts those that outlive their parents.
fn is_init(process: i32) -> bool {
    field(process.unsigned_abs(), "NSpid:").is_some_and(|ids| ids.ends_with("\t1"))
}

fn arguments(process: i32) -> String {
    let bytes = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}
