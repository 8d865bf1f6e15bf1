//! The outcome of a test, read from the output of the test harness.

use std::fmt;

/// The outcome of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The test passed.
    Passed,
    /// An assertion of the test failed. Has its place and its message.
    Failed(String),
    /// The test did not reach its assertions.
    Error(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Passed => "PASSED",
            Self::Failed(_) => "failed",
            Self::Error(_) => "error",
        })
    }
}

/// The length limit of an assertion's message.
const LONGEST: usize = 160;

/// Returns the outcome of a test from the output of the harness.
pub fn of(test: &str, output: &str) -> Outcome {
    // A test's output can appear between its name and its result. Such a line does not match, so the test does not
    // count as passed.
    if output.lines().any(|line| line == format!("test {test} ... ok")) {
        return Outcome::Passed;
    }
    let Some((_, printed)) = output.split_once(&format!("---- {test} stdout ----\n")) else {
        return Outcome::Error("the test has not run to its end".to_owned());
    };
    let printed = printed.split("\n---- ").next().unwrap_or_default();
    let Some((_, panic)) = printed.split_once(" panicked at ") else {
        return Outcome::Error("the test failed without a panic".to_owned());
    };
    let (place, message) = panic.split_once('\n').unwrap_or((panic, ""));
    let message: String = message.lines().next().unwrap_or_default().chars().take(LONGEST).collect();
    let why = format!("{} {message}", place.trim_end_matches(':'));
    // The cluster has not started.
    if message.starts_with("no cluster:") { Outcome::Error(why) } else { Outcome::Failed(why) }
}
