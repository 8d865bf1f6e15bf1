//! The companion command `gcp-wif`, which is also the node agent.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    gcp_wif::main()
}
