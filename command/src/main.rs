//! The companion command `gcp-wif`, and the node agent that it is too.
#![forbid(unsafe_code)]

mod agent;
mod cli;

fn main() -> std::process::ExitCode {
    cli::main(std::env::args_os())
}
