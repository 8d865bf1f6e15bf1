//! Simulates a week of a node in seconds: runs the code of the hooks and the agent on a simulated clock and injects
//! random faults from a seed.
//!
//! ```text
//! main.rs        the tests; each simulation runs in its own process, on a small file system
//! simulation.rs  the events of a week, and their times
//! faults.rs      the faults, and the users who cannot get a new token during each
//! invariants.rs  checks after each event
//! node.rs        the node: its clocks, its files, its agent
//! slurm.rs       Slurm and the node's processes, as the hooks see them
//! google.rs      Google, whose clock is always right
//! ```
//!
//! The simulation uses the real code for prolog, step, step end and epilog, the exchange with its retries, the kept
//! tokens, the record and all files of a job, and the agent's schedule and refreshes. HTTP and the agent's server are
//! simulated. Events happen one at a time. Processes are killed only during a request to Google.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]
#![allow(clippy::print_stdout, reason = "the process of a simulation prints its result")]
#![allow(unreachable_pub, reason = "a test crate is its own root")]

mod faults;
mod google;
mod invariants;
mod node;
mod simulation;
mod slurm;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// The environment variable with the hours and the seed of this process's simulation.
const ROLE: &str = "GCP_WIF_WEEK";
/// The seeds of the simulations in `cargo test`. Each simulates half a day and takes seconds.
const SEEDS: [u64; 3] = [1, 2, 3];
const HALF_A_DAY: u32 = 12;
/// The hours that `ci/soak` simulates.
const WEEK: u32 = 7 * 24;
/// The environment variables of `ci/soak`: the first seed, the number of weeks, and the file for the table.
const FIRST: &str = "GCP_WIF_SEED";
const WEEKS: &str = "GCP_WIF_WEEKS";
const ROWS: &str = "GCP_WIF_SOAK";

/// Not a test: the process of a simulation.
#[test]
fn simulation_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (hours, seed) = role.split_once(' ').unwrap();
    println!("counts: {}", simulation::run(hours.parse().unwrap(), seed.parse().unwrap()));
}

/// Runs a simulation in a new process, whose runtime directory is a small tmpfs in its own mount namespace. Returns the
/// counts.
#[track_caller]
fn simulate(hours: u32, seed: u64) -> String {
    let directory = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let mount = "mount -t tmpfs -o size=4m gcp-wif-week \"$0\" && exec \"$@\"";
    let output = Command::new("unshare")
        // In a PID namespace, because root searches all processes for open files when the disk is full.
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", mount])
        .arg(directory.path())
        .arg(exe)
        .args(["--exact", "simulation_process", "--nocapture"])
        .env(ROLE, format!("{hours} {seed}"))
        .env(node::DIRECTORY, directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let counts = stdout.lines().find_map(|line| line.split_once("counts: ").map(|(_, counts)| counts));
    assert!(output.status.success() && counts.is_some(), "seed {seed}: {}\n{stdout}{stderr}", output.status);
    counts.unwrap().to_owned()
}

#[test]
fn every_invariant_holds_under_random_faults() {
    for seed in SEEDS {
        eprintln!("seed {seed}: {}", simulate(HALF_A_DAY, seed));
    }
}

#[test]
fn the_same_seed_repeats_a_simulation() {
    let hours = HALF_A_DAY / 4;
    let first = simulate(hours, 5);
    assert_eq!(first, simulate(hours, 5));
    assert_ne!(first, simulate(hours, 6));
}

#[test]
#[ignore = "takes minutes; ci/soak runs it"]
fn every_invariant_holds_for_weeks_of_many_seeds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number(FIRST).unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    let weeks = number(WEEKS).unwrap_or(20);
    println!("seeds {first} to {}", first + weeks - 1);
    let mut sums = BTreeMap::<String, u64>::new();
    for seed in first..first + weeks {
        let result = simulate(WEEK, seed);
        println!("seed {seed}: {result}");
        for (name, count) in result.split(' ').filter_map(|pair| pair.split_once('=')) {
            if let Ok(count) = count.parse::<u64>() {
                let sum = sums.entry(name.to_owned()).or_default();
                *sum = if name.starts_with("longest") { (*sum).max(count) } else { *sum + count };
            }
        }
    }
    let sum = |name: &str| sums.get(name).copied().unwrap_or_default();
    let row = format!(
        "| {weeks} simulated weeks, seeds {first} to {} | {} jobs, {} steps, {} requeues; {} faults at Google, {} of the subject \
         token, {} full disks, {} agents killed, {} clock steps, {} edits of the configuration, {} slurmd restarted | \
         every invariant held; {} tokens, {} failed exchanges, {} requests to Google; a job had no valid token for at most \
         {} s after the end of a fault |",
        first + weeks - 1,
        sum("jobs"),
        sum("steps"),
        sum("requeues"),
        sum("google"),
        sum("subject"),
        sum("disk"),
        sum("kills"),
        sum("clock"),
        sum("configuration"),
        sum("slurmd"),
        sum("tokens"),
        sum("failed"),
        sum("calls"),
        sum("longest_without"),
    );
    println!("{row}");
    if let Ok(path) = std::env::var(ROWS) {
        writeln!(OpenOptions::new().create(true).append(true).open(path).unwrap(), "{row}").unwrap();
    }
}
