//! The companion command `gcp-wif`; all of it is in [`spank_gcp_wif::cli`].
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    spank_gcp_wif::cli::main(std::env::args_os())
}
