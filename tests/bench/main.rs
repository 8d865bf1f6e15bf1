//! The cost of the plugin and its agent: `ci/bench`.
//!
//! The bench measures everything on this machine, in a real Slurm, with the embedded Google. Measurements that are
//! compared take turns, so that a busy machine makes the figures worse but not wrong. No time makes the bench fail.
//!
//! ```text
//! idle.rs      srun true: with the plugin, with an empty one, with none
//!   empty.c      the empty one
//! first.rs     the first exchange, against the script that operators run today
//!   seed.sh      that script
//! second.rs    the second job of a user on a node
//! crowd.rs     many jobs of one user at once
//! simulation.rs thousands of nodes against Google's quota
//!   time.rs      simulated time
//!   google.rs    the quotas
//!   job.rs       jobs that exchange by the plugin's own code
//! agent.rs     the agent under load, and its memory
//!   load.rs      requests from one thread
//! instructions.rs instructions of the hooks, which are repeatable
//!   host.c       a Slurm for them
//! compiled.rs  programs in C
//! samples.rs   medians; measurements that take turns
//! shell.rs     times commands inside a cluster
//! sites.rs     clusters as sites run them
//! distant.rs   Google as a node sees it, some milliseconds away
//!   relay.rs     the relay that adds the distance
//! rows.rs      the table, the JSON and the table of docs/speed.md
//! machine.rs   the machine and the time
//! ```

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]
#![allow(clippy::print_stdout, reason = "the table")]
#![allow(missing_docs, unreachable_pub, reason = "a bench is its own root")]

#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../google/mod.rs"]
mod google;
#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../slurm/site.rs"]
mod site;

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../slurm/agent/processes.rs"]
mod processes;

mod agent;
mod compiled;
mod crowd;
mod distant;
mod first;
mod idle;
mod instructions;
mod load;
mod machine;
mod relay;
mod rows;
mod samples;
mod second;
mod shell;
mod simulation;
mod sites;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use machine::Machine;
use rows::Row;

/// The time limit of everything except measurements.
const LIMIT: Duration = Duration::from_secs(100);

/// A line of the bench by its name.
type Line = (&'static str, fn() -> Vec<Row>);

const LINES: [Line; 9] = [
    ("first", first::run),
    ("second", second::run),
    ("crowd", crowd::run),
    ("idle", idle::run),
    ("shared", simulation::shared),
    ("wide", simulation::wide),
    ("agent", agent::speed),
    ("size", agent::size),
    ("instructions", instructions::run),
];

const FLAGS: [&str; 3] = ["--bench", "--keep", "--page"];
const USAGE: &str = "ci/bench [--page] [--keep] [LINE...]";

fn main() -> ExitCode {
    let (flags, names): (Vec<String>, Vec<String>) = env::args().skip(1).partition(|word| word.starts_with("--"));
    if let Some(config) = flags.iter().find_map(|flag| flag.strip_prefix(first::EXCHANGES)) {
        first::exchanges(Path::new(config));
        return ExitCode::SUCCESS;
    }
    let known = |name: &String| LINES.iter().any(|(line, _)| line == name);
    let unknown = names.iter().find(|name| !known(name)).or_else(|| {
        // cargo itself appends --bench.
        flags.iter().find(|flag| !FLAGS.contains(&flag.as_str()))
    });
    if let Some(word) = unknown {
        let lines = LINES.map(|(line, _)| line).join(" ");
        eprintln!("ci/bench: what is {word}?\n{USAGE}\nLINE: {lines}");
        return ExitCode::from(2);
    }
    if !names.is_empty() && flags.iter().any(|flag| flag == "--page") {
        eprintln!("ci/bench: the table of docs/speed.md has all lines\n{USAGE}");
        return ExitCode::from(2);
    }
    let machine = Machine::look();
    println!("{}", machine.text());
    machine.warning().inspect(|warning| eprintln!("{warning}"));
    let (mut rows, mut broken) = (Vec::new(), Vec::new());
    for (name, run) in LINES {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            eprintln!("... {name}");
            // A failure of one line says nothing about the others.
            match panic::catch_unwind(run) {
                Ok(measured) => {
                    print!("{}", rows::table(&measured));
                    rows.extend(measured);
                }
                Err(_) => broken.push(name),
            }
        }
    }
    write(&rows, &machine);
    let has = |name: &str| flags.iter().any(|flag| flag == name);
    if has("--keep") {
        instructions::keep(&rows);
    }
    if has("--page") {
        write_page(&rows, &machine);
    }
    if broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("ci/bench: not measured: {}", broken.join(" "));
    ExitCode::FAILURE
}

fn write(rows: &[Row], machine: &Machine) {
    let path = target().join("bench.json");
    let text = serde_json::to_string_pretty(&rows::json(rows, machine)).expect("JSON");
    fs::write(&path, text + "\n").expect("target is writable");
    println!("{}", path.display());
}

fn write_page(rows: &[Row], machine: &Machine) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/speed.md");
    let old = fs::read_to_string(&path).expect("there is such a page");
    fs::write(&path, rows::page(&old, rows, machine)).expect("the page is writable");
}

/// cargo's target directory.
fn target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| OsString::from("target"));
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target)
}
