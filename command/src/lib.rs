//! The companion command `gcp-wif`, and the node agent that it is too. A library, so that `fuzz/` can call what reads
//! untrusted bytes.
#![forbid(unsafe_code)]

mod agent;
mod cli;

use std::process::ExitCode;

/// Runs the command with the process's arguments.
pub fn main() -> ExitCode {
    cli::main(std::env::args_os())
}

#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    //! What reads untrusted bytes, as functions of values.
    pub use crate::agent::fuzzing::{Job, Outcome, scopes};
    pub use crate::cli::fuzzing::{Plugins, fits, slurm_conf, token_service};
}
