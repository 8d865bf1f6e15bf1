//! Injects faults at the system calls with which hooks and agent change the runtime directory.
//!
//! Each hook of a job runs in its own process, on a real runtime directory and against the embedded Google. A tracer
//! counts the system calls with which the process changes something below the runtime directory. At each of these calls
//! in turn, the process is killed, or the call fails with ENOSPC or EIO. Then the hooks run again as Slurm would run
//! them, and the result is compared with a run without a fault.
//!
//! ```text
//! calls.rs    the system calls that can change files, and the paths that they change
//! trace.rs    counts these calls and injects faults
//! watch.rs    the counted calls, and the fault to inject
//! hook.rs     runs a hook; each hook is a process of this test program
//! world.rs    a node without Slurm, restored from a snapshot after each fault
//! state.rs    the state of a node, and the difference between two states
//! sweep.rs    injects a fault at each call and checks the node afterwards
//! ```
//!
//! `cargo test` injects each kind of fault at a different subset of the calls. `ci/crash` injects faults at all calls
//! and prints their number.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, reason = "prints the rows of a table")]

mod calls;
#[path = "../google/mod.rs"]
mod google;
mod hook;
mod state;
mod sweep;
mod trace;
mod watch;
mod world;

use sweep::{FAULTS, sweep};

/// `cargo test` injects faults at one in this number of calls.
const EVERY: usize = 6;

/// Injects the fault with this index in [`FAULTS`] into a kind of process. Prints a row of the table in docs/proof.md.
fn inject(role: &str, index: usize) {
    let all = std::env::var_os("GCP_WIF_CRASHES").is_some_and(|wanted| wanted == "all");
    let (deliveries, first, every) =
        if all { (&["agent", "direct"][..], 1, 1) } else { (&["agent"][..], 1 + index * EVERY / FAULTS.len(), EVERY) };
    let (name, fault) = FAULTS[index];
    for delivery in deliveries {
        match sweep(delivery, role, fault, first, every) {
            Ok((calls, tried)) => println!("| {delivery} | {role} | {name} | {tried} of {calls} |"),
            Err(problems) => panic!("{delivery}: {name}\n{problems}"),
        }
    }
}

macro_rules! each {
    ($($role:ident),*) => {
        /// Kills the process.
        mod kill {
            $(#[test] fn $role() { super::inject(stringify!($role), 0); })*
        }
        /// Makes a call fail with ENOSPC.
        mod enospc {
            $(#[test] fn $role() { super::inject(stringify!($role), 1); })*
        }
        /// Makes a call fail with EIO.
        mod eio {
            $(#[test] fn $role() { super::inject(stringify!($role), 2); })*
        }
    };
}
each!(prolog, worker, step, agent, exit, epilog);

#[test]
fn every_call_that_changes_a_file_is_counted() {
    for hook in ["prolog", "step", "agent", "exit", "epilog"] {
        sweep::check_count("agent", hook);
    }
}

#[test]
#[ignore = "not a test: the process that the other tests start and trace"]
fn hook_process() {
    hook::run();
}
