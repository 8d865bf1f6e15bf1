//! `ci/defences`: takes each defence out, one at a time, and sees the tests fail that should.
//!
//! It works in a git worktree of its own, in `target/defences`, with builds of its own. All tests must pass there first,
//! or their failing would tell nothing.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]
#![allow(clippy::indexing_slicing, reason = "JSON gives null for what it does not have")]
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
        all.iter().for_each(|defence| println!("{:<26}{}", defence.name, defence.without));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.iter().find(|name| all.iter().all(|defence| defence.name != **name)) {
        eprintln!("there is no defence {unknown}\n{USAGE}");
        return ExitCode::from(2);
    }
    let wanted = |defence: &&&Defence| arguments.is_empty() || arguments.iter().any(|name| name == defence.name);
    let chosen: Vec<&Defence> = all.iter().filter(wanted).copied().collect();
    if take_out(&chosen) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Takes each out. Returns whether all tests failed that should.
fn take_out(chosen: &[&Defence]) -> bool {
    let begun = Instant::now();
    let mut tree = Tree::new();
    let tests: BTreeSet<&str> = chosen.iter().flat_map(|defence| defence.red.iter().copied()).collect();
    let tests: Vec<&str> = tests.into_iter().collect();
    if let Err(problem) = tree.build(&tests) {
        eprintln!("{problem}");
        return false;
    }
    let before = tree.run(&tests);
    let failed: Vec<_> = before.iter().filter(|(_, outcome)| !matches!(outcome, Outcome::Green)).collect();
    if !failed.is_empty() {
        eprintln!("with all defences in place, these do not pass: {failed:#?}");
        return false;
    }
    println!("{} tests pass with all defences in place ({} s)", tests.len(), begun.elapsed().as_secs());
    let (mut red, mut others) = (0, 0);
    for defence in chosen {
        let begun = Instant::now();
        let outcomes = match tree.without(defence) {
            Ok(outcomes) => outcomes,
            Err(problem) => defence.red.iter().map(|test| (*test, Outcome::Error(problem.clone()))).collect(),
        };
        for (number, (test, outcome)) in outcomes.iter().enumerate() {
            let name = if number == 0 { defence.name } else { "" };
            println!("{name:<26}{outcome:<9}{test}");
            if let Outcome::Red(why) | Outcome::Error(why) = outcome {
                println!("{:35}{why}", "");
            }
            *(if matches!(outcome, Outcome::Red(_)) { &mut red } else { &mut others }) += 1;
        }
        println!("{:35}{} s", "", begun.elapsed().as_secs());
    }
    println!("{} defences taken out, {red} tests red, {others} not ({} s)", chosen.len(), begun.elapsed().as_secs());
    others == 0
}
