//! Runs libFuzzer on the fuzz target that the environment variable TARGET names. `ci/fuzz` builds and runs this
//! program.
#![no_main]
#![allow(clippy::panic, reason = "exits if TARGET is invalid")]

use std::sync::LazyLock;

use gcp_wif_fuzz::{Target, target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("TARGET={name} is not a fuzz target"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.1)(bytes));
