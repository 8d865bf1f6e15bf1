//! The program of `ci/defences`: removes each defence in turn, and checks that its tests fail.
//!
//! The program works in its own git worktree in `target/defences`, with its own builds. First, all tests must pass
//! there. Otherwise a failure would prove nothing.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]
#![allow(clippy::indexing_slicing, reason = "indexing JSON returns null for a missing key")]
#![allow(unreachable_pub, reason = "the command and its test include the same modules")]

mod outcome;
mod table;
mod tree;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use outcome::Outcome;
use table::Defence;
use tree::Tree;

const USAGE: &str = "usage: ci/defences [--list] [NAME...]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = table::all();
    if arguments == ["--list"] {
        all.iter().for_each(|defence| println!("{:<26}{}", defence.name, defence.property));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.iter().find(|name| all.iter().all(|defence| defence.name != **name)) {
        eprintln!("unknown defence {unknown}\n{USAGE}");
        return ExitCode::from(2);
    }
    let wanted = |defence: &&&Defence| arguments.is_empty() || arguments.iter().any(|name| name == defence.name);
    let chosen: Vec<&Defence> = all.iter().filter(wanted).copied().collect();
    if remove_each(&chosen) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Removes each defence in turn. Returns whether all tests failed that must fail.
fn remove_each(chosen: &[&Defence]) -> bool {
    let started = Instant::now();
    let mut tree = Tree::new();
    let tests: BTreeSet<&str> = chosen.iter().flat_map(|defence| defence.must_fail.iter().copied()).collect();
    let tests: Vec<&str> = tests.into_iter().collect();
    if let Err(problem) = tree.build(&tests) {
        eprintln!("{problem}");
        return false;
    }
    let before = tree.run(&tests);
    let failed: Vec<_> = before.iter().filter(|(_, outcome)| !matches!(outcome, Outcome::Passed)).collect();
    if !failed.is_empty() {
        eprintln!("tests that do not pass with all defences in place: {failed:#?}");
        return false;
    }
    println!("{} tests pass with all defences in place ({} s)", tests.len(), started.elapsed().as_secs());
    let (mut failed, mut others) = (0, 0);
    for defence in chosen {
        let started_one = Instant::now();
        let outcomes = match tree.without(defence) {
            Ok(outcomes) => outcomes,
            Err(problem) => defence.must_fail.iter().map(|test| (*test, Outcome::Error(problem.clone()))).collect(),
        };
        for (number, (test, outcome)) in outcomes.iter().enumerate() {
            let name = if number == 0 { defence.name } else { "" };
            println!("{name:<26}{outcome:<9}{test}");
            if let Outcome::Failed(why) | Outcome::Error(why) = outcome {
                println!("{:35}{why}", "");
            }
            *(if matches!(outcome, Outcome::Failed(_)) { &mut failed } else { &mut others }) += 1;
        }
        println!("{:35}{} s", "", started_one.elapsed().as_secs());
    }
    println!(
        "{} defences removed: {failed} tests failed, {others} did not ({} s)",
        chosen.len(),
        started.elapsed().as_secs()
    );
    others == 0
}
