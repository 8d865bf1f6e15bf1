//! The calls that a process made, and the fault that is injected at one of them.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

/// A fault that is injected at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed before the call.
    Kill,
    /// The call does nothing and fails.
    Fail(Errno),
}

/// The fault to inject, and the call.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kind of process.
    pub role: String,
    /// The number of the call in this kind of process, from 1. 0 means all calls of all processes.
    pub number: usize,
    /// The fault.
    pub fault: Fault,
}

/// A call that changes a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The kind of process.
    pub role: String,
    /// The call's name.
    pub name: &'static str,
    /// The path that it changes.
    pub path: PathBuf,
}

/// What is watched for, and what was seen.
#[derive(Debug, Default)]
pub struct Watch {
    /// The fault to inject.
    pub plan: Option<Plan>,
    /// The counted calls.
    pub calls: Vec<Call>,
    /// The call at which the fault was injected.
    pub hit: Option<Call>,
}

impl Watch {
    /// Counts a call that a process has entered. Returns the fault to inject, if any.
    pub fn entered(&mut self, call: Call) -> Option<Fault> {
        self.calls.push(call.clone());
        let plan = self.plan.as_ref()?;
        let count = self.calls.iter().filter(|call| call.role == plan.role).count();
        if plan.number != 0 && (&plan.role, plan.number) != (&call.role, count) {
            return None;
        }
        self.hit = Some(call);
        Some(plan.fault)
    }
}

/// Locks a watch, even if another thread has panicked.
pub fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the process ID of a thread.
pub fn process_of(thread: i32) -> i32 {
    field(thread.unsigned_abs(), "Tgid:").and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// Returns a field of a thread's status in /proc.
pub fn field(thread: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
}
