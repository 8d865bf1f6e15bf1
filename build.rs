//! Determines the Slurm release that the plugin is built for, and sets a linker option.
//!
//! Slurm loads a plugin only if major and minor of its `plugin_version` match (`src/common/plugin.c`), so the number is
//! read from the headers of the target release.
// A build script reports a failure by panicking.
#![allow(clippy::expect_used, clippy::panic)]

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=SLURM_INCLUDE_DIR");
    // Slurm unloads plugins (`spank_fini`) while a resolver thread may still run their code.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");

    let mut builder = bindgen::Builder::default()
        .header_contents("slurm_version_wrapper.h", "#include <slurm/slurm_version.h>")
        .allowlist_var("SLURM_VERSION_NUMBER")
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()));
    if let Some(directory) = env::var_os("SLURM_INCLUDE_DIR") {
        builder = builder.clang_arg(format!("-I{}", PathBuf::from(directory).display()));
    }
    let bindings = builder.generate().unwrap_or_else(|error| {
        panic!(
            "slurm/slurm_version.h cannot be read: {error}; install Slurm's headers \
             (Debian: libslurm-dev, and libclang-dev) or set SLURM_INCLUDE_DIR to the folder that holds slurm/"
        )
    });
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindings.write_to_file(out.join("slurm_version.rs")).expect("OUT_DIR is writable");
}
