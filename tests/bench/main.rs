//! What the plugin and its agent cost: `ci/bench`.
//!
//! Everything is measured on this machine, in a real Slurm, with the embedded Google. What is compared takes turns, so
//! that a busy machine makes the figures worse and not wrong; nothing here fails because of a time.
//!
//! ```text
//! idle.rs      srun true: with the plugin, with an empty one, with none
//!   empty.c      the empty one
//! second.rs    the second job of a user on a node
//! samples.rs   medians; measurements that take turns
//! shell.rs     times commands inside of a cluster
//! sites.rs     clusters as sites run them
//! rows.rs      the table, the JSON and the README's table
//! machine.rs   where and when
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

mod idle;
mod machine;
mod rows;
mod samples;
mod second;
mod shell;
mod sites;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use machine::Machine;
use rows::Row;

/// A line of the bench by its name.
type Line = (&'static str, fn() -> Vec<Row>);

const LINES: [Line; 2] = [("idle", idle::run), ("second", second::run)];

const USAGE: &str = "ci/bench [--readme] [LINE...]";

fn main() -> ExitCode {
    let (flags, names): (Vec<String>, Vec<String>) = env::args().skip(1).partition(|word| word.starts_with("--"));
    let known = |name: &String| LINES.iter().any(|(line, _)| line == name);
    let unknown = names.iter().find(|name| !known(name)).or_else(|| {
        // cargo itself appends --bench.
        flags.iter().find(|flag| !["--bench", "--readme"].contains(&flag.as_str()))
    });
    if let Some(word) = unknown {
        let lines = LINES.map(|(line, _)| line).join(" ");
        eprintln!("ci/bench: what is {word}?\n{USAGE}\nLINE: {lines}");
        return ExitCode::from(2);
    }
    let machine = Machine::look();
    println!("{}", machine.text());
    let mut rows = Vec::new();
    for (name, run) in LINES {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            eprintln!("... {name}");
            let measured = run();
            print!("{}", rows::table(&measured));
            rows.extend(measured);
        }
    }
    write(&rows, &machine, flags.iter().any(|flag| flag == "--readme"));
    ExitCode::SUCCESS
}

fn write(rows: &[Row], machine: &Machine, readme: bool) {
    let path = target().join("bench.json");
    let text = serde_json::to_string_pretty(&rows::json(rows, machine)).expect("JSON");
    fs::write(&path, text + "\n").expect("target is writable");
    println!("{}", path.display());
    if readme {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let old = fs::read_to_string(&path).expect("there is a README");
        fs::write(&path, rows::readme(&old, rows, machine)).expect("the README is writable");
    }
}

/// cargo's directory of what it builds.
fn target() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| OsString::from("target"));
    Path::new(env!("CARGO_MANIFEST_DIR")).join(target)
}
