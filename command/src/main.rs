//! The companion command `gcp-wif`, which is also the node agent.
#![forbid(unsafe_code)]

mod agent;
mod cli;

fn main() -> std::process::ExitCode {
    cli::main(std::env::args_os())
}
