//! What becomes of a test, read from what the harness prints.

use std::fmt;

/// What became of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Green,
    /// An assertion of its own failed: where, and what it says.
    Red(String),
    /// It did not come to its assertions.
    Error(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Green => "GREEN",
            Self::Red(_) => "red",
            Self::Error(_) => "error",
        })
    }
}

/// The most of an assertion's words.
const LONGEST: usize = 160;

/// What became of a test, by the output of `cargo test`'s harness.
pub fn of(test: &str, output: &str) -> Outcome {
    // What a test prints may be between its name and the result, and names follow each other without it.
    if output.lines().any(|line| line == format!("test {test} ... ok")) {
        return Outcome::Green;
    }
    let Some((_, told)) = output.split_once(&format!("---- {test} stdout ----\n")) else {
        return Outcome::Error("it has not run to its end".to_owned());
    };
    let told = told.split("\n---- ").next().unwrap_or_default();
    let Some((_, panic)) = told.split_once(" panicked at ") else {
        return Outcome::Error("it failed without an assertion".to_owned());
    };
    let (place, words) = panic.split_once('\n').unwrap_or((panic, ""));
    let words: String = words.lines().next().unwrap_or_default().chars().take(LONGEST).collect();
    let why = format!("{} {words}", place.trim_end_matches(':'));
    // The cluster itself did not come up.
    if words.starts_with("no cluster:") { Outcome::Error(why) } else { Outcome::Red(why) }
}
