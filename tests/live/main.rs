//! `ci/live`: compares the exchange at the real Google with the embedded one.

#[path = "../google/mod.rs"]
mod google;
#[path = "mod.rs"]
mod live;

use std::io::{stderr, stdout};
use std::process::ExitCode;

fn main() -> ExitCode {
    live::run(std::env::args().skip(1), &mut stdout(), &mut stderr()).into()
}
