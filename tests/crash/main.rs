//! A crash at any system call leaves nothing wrong.
//!
//! Each hook of a job's life runs in a process of its own, on a real runtime directory and against the embedded Google. A
//! tracer counts the system calls by which it changes something below the runtime directory. At each of them in turn
//! the process is killed, or the call fails with ENOSPC or with EIO. Then the hooks run again as Slurm would run them.
//!
//! ```text
//! calls.rs    which calls change something, and what
//! trace.rs    counts them, and lets something happen there
//! hook.rs     a hook, in a process of its own: this program again
//! world.rs    a node without Slurm, set back to a picture after each crash
//! state.rs    what is on the node, and how two states differ
//! sweep.rs    what happens where, and what has to hold afterwards
//! ```
//!
//! `cargo test` tries a part of the calls, another one for each fault. `ci/crash` tries all of them and prints how many
//! there were.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, reason = "the table")]

mod calls;
#[path = "../google/mod.rs"]
mod google;
mod hook;
mod state;
mod sweep;
mod trace;
mod world;

use sweep::{FAULTS, sweep};

/// Of how many calls one is tried, unless all are.
const EVERY: usize = 6;

/// Lets something happen in a kind of process, by its place in [`FAULTS`]. Prints a row of the table in docs/proof.md.
fn try_all(role: &str, place: usize) {
    let all = std::env::var_os("GCP_WIF_CRASHES").is_some_and(|wanted| wanted == "all");
    let (deliveries, first, every) =
        if all { (&["agent", "direct"][..], 1, 1) } else { (&["agent"][..], 1 + place * EVERY / FAULTS.len(), EVERY) };
    let (name, fault) = FAULTS[place];
    for delivery in deliveries {
        match sweep(delivery, role, fault, first, every) {
            Ok((calls, tried)) => println!("| {delivery} | {role} | {name} | {tried} of {calls} |"),
            Err(wrong) => panic!("{delivery}: {name}\n{wrong}"),
        }
    }
}

macro_rules! each {
    ($($role:ident),*) => {
        /// Each kind of process is killed.
        mod killed {
            $(#[test] fn $role() { super::try_all(stringify!($role), 0); })*
        }
        /// There is no space left.
        mod no_space {
            $(#[test] fn $role() { super::try_all(stringify!($role), 1); })*
        }
        /// The disk is bad.
        mod bad_disk {
            $(#[test] fn $role() { super::try_all(stringify!($role), 2); })*
        }
    };
}
each!(prolog, worker, step, agent, exit, epilog);

#[test]
fn no_call_that_changes_something_is_missed() {
    for hook in ["prolog", "step", "agent", "exit", "epilog"] {
        sweep::count("agent", hook);
    }
}

#[test]
#[ignore = "the other tests start it, as the process that is stopped"]
fn a_hook() {
    hook::be();
}
