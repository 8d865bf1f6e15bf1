//! Programs that tests start as a user's shell would.

use std::process::Command;

/// Removes what `cargo test` tells a test about its package. ring's build script depends on these variables, so a cargo that
/// a test starts would otherwise rebuild ring and everything above it.
pub fn without_cargo(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "OUT_DIR"].iter().any(|start| name.to_string_lossy().starts_with(start)) {
            command.env_remove(name);
        }
    }
    command
}
