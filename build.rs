//! Finds out for which Slurm release the plugin is built, and how it is linked.
//!
//! Slurm loads a plugin only if major and minor of `plugin_version` are its own
//! (`src/common/plugin.c`), so the number is read from the target's own header.
// A build script that fails says so by panicking.
#![allow(clippy::expect_used, clippy::panic)]

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=SLURM_INCLUDE_DIR");
    // Slurm unloads plugins (spank_fini); a thread of the resolver may still run our code then.
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
