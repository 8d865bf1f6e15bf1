//! The companion command `gcp-wif`; all of it is in [`gcp_wif::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    gcp_wif::cli::main(std::env::args_os())
}
