//! A week of a node in seconds: the hooks' and the agent's own code on a simulated clock, with a Google and a Slurm that
//! misbehave at random, from a seed.
//!
//! ```text
//! main.rs      the tests; each week is a process of its own, with a small file system of its own
//! play.rs      what happens in a week, and when
//! trouble.rs   what goes wrong, and whom it keeps from a token
//! promises.rs  what holds after each event, whatever went wrong
//! node.rs      the node: its clocks, its files, its agent
//! slurm.rs     Slurm and the node's processes, as the hooks see them
//! google.rs    Google, whose clock is true
//! ```
//!
//! What is real: prolog, step, step end and epilog, the exchange with its retries, what is kept for all jobs of a user,
//! the record and all files of a job, the schedule and the refreshes of the agent. What is not: HTTP, and the agent's
//! server. One thing happens at a time; who is killed, is killed while it asks Google.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]
#![allow(clippy::print_stdout, reason = "a week tells its parent what it was")]
#![allow(unreachable_pub, reason = "a test crate is its own root")]

mod google;
mod node;
mod play;
mod promises;
mod slurm;
mod trouble;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

/// The variable with the hours and the seed that this process is to play.
const ROLE: &str = "GCP_WIF_WEEK";
/// What is played in each run of the tests, each for half a day: seconds.
const SEEDS: [u64; 3] = [1, 2, 3];
const HALF_A_DAY: u32 = 12;
/// What `ci/soak` plays.
const WEEK: u32 = 7 * 24;
/// The variables of `ci/soak`: the first seed, how many weeks, and the file for the table.
const FIRST: &str = "GCP_WIF_SEED";
const WEEKS: &str = "GCP_WIF_WEEKS";
const ROWS: &str = "GCP_WIF_SOAK";

/// Not a test: the process that plays.
#[test]
fn the_week_of_a_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (hours, seed) = role.split_once(' ').unwrap();
    println!("played {}", play::hours(hours.parse().unwrap(), seed.parse().unwrap()));
}

/// Plays in a process of its own, whose runtime directory is a small tmpfs that nobody else sees. Brings what was counted.
#[track_caller]
fn play(hours: u32, seed: u64) -> String {
    let directory = tempfile::tempdir().unwrap();
    let exe = std::env::current_exe().unwrap();
    let mount = "mount -t tmpfs -o size=4m gcp-wif-week \"$0\" && exec \"$@\"";
    let output = Command::new("unshare")
        // Few processes: when the disk is full, root looks through all of them for whoever fills it.
        .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", mount])
        .arg(directory.path())
        .arg(exe)
        .args(["--exact", "the_week_of_a_process", "--nocapture"])
        .env(ROLE, format!("{hours} {seed}"))
        .env(node::DIRECTORY, directory.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let told = stdout.lines().find_map(|line| line.split_once("played ").map(|(_, told)| told));
    assert!(output.status.success() && told.is_some(), "seed {seed}: {}\n{stdout}{stderr}", output.status);
    told.unwrap().to_owned()
}

#[test]
fn weeks_of_faults_keep_every_promise() {
    for seed in SEEDS {
        eprintln!("seed {seed}: {}", play(HALF_A_DAY, seed));
    }
}

#[test]
fn the_same_seed_is_the_same_week() {
    let hours = HALF_A_DAY / 4;
    let first = play(hours, 5);
    assert_eq!(first, play(hours, 5));
    assert_ne!(first, play(hours, 6));
}

#[test]
#[ignore = "minutes: ci/soak"]
fn weeks_of_many_seeds_keep_every_promise() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number(FIRST).unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs());
    let weeks = number(WEEKS).unwrap_or(20);
    println!("seeds {first} to {}", first + weeks - 1);
    let mut sums = BTreeMap::<String, u64>::new();
    for seed in first..first + weeks {
        let told = play(WEEK, seed);
        println!("seed {seed}: {told}");
        for (name, count) in told.split(' ').filter_map(|pair| pair.split_once('=')) {
            if let Ok(count) = count.parse::<u64>() {
                let sum = sums.entry(name.to_owned()).or_default();
                *sum = if name.starts_with("longest") { (*sum).max(count) } else { *sum + count };
            }
        }
    }
    let sum = |name: &str| sums.get(name).copied().unwrap_or_default();
    let row = format!(
        "| {weeks} simulated weeks, seeds {first} to {} | {} jobs, {} steps, {} requeues; {} faults of Google, {} of the subject \
         token, {} full disks, {} agents killed, {} clock steps, {} edits of the configuration, {} slurmd restarted | \
         every promise held; {} tokens, {} failed exchanges, {} calls at Google; a job was without a valid token for at most \
         {} s after what kept it from one was over |",
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
