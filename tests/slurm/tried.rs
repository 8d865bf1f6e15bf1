//! What the tests of clients have seen, for the table in docs/clients.md.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Command;

use crate::skipped::skip;
use crate::table::{Row, absence};

/// Records what became of a client, in the file that `GCP_WIF_CLIENTS` names.
pub fn record(row: &Row) {
    append(&row.to_string());
}

/// A client that is not installed here is skipped, and its row in the table is believed.
pub fn absent(client: &str) {
    skip(&format!("{client} is not installed"));
    append(&absence(client));
}

fn append(line: &str) {
    if let Some(path) = std::env::var_os("GCP_WIF_CLIENTS") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("GCP_WIF_CLIENTS can be opened");
        file.write_all(format!("{line}\n").as_bytes()).expect("GCP_WIF_CLIENTS can be written");
    }
}

/// The first word with a digit in what a program prints of itself; none if it is not installed.
pub fn version(words: &[&str]) -> Option<String> {
    let run = Command::new(words[0]).args(&words[1..]).output().ok().filter(|run| run.status.success())?;
    version_in(&String::from_utf8_lossy(&run.stdout))
}

/// The first word with a digit.
pub fn version_in(printed: &str) -> Option<String> {
    let word = printed.split_whitespace().find(|word| word.contains(|c: char| c.is_ascii_digit()))?;
    Some(word.trim_start_matches('v').to_owned())
}
