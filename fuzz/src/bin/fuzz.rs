//! libFuzzer over one target, which the environment variable TARGET names. ci/fuzz builds and runs it.
#![no_main]
#![allow(clippy::panic, reason = "it does not start")]

use std::sync::LazyLock;

use gcp_wif_fuzz::{Target, target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("TARGET").unwrap_or_default();
    target(&name).unwrap_or_else(|| panic!("TARGET={name} is none of the targets"))
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (TARGET.1)(bytes));
