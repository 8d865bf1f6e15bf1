//! What takes foreign bytes, each as a function of bytes that panics where a promise is broken.
//!
//! `ci/fuzz` calls a function millions of times, with inputs that libFuzzer mutates. `tests/corpus.rs` calls it with the
//! inputs in `corpus/TARGET/`, which are the kept ones: the first ones written by hand, the others found by `ci/fuzz`.
//! An input that broke a promise stays there under a name that says what it was.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a broken promise ends in a panic")]

mod agent;
mod configuration;
mod containers;
mod environment;
mod exchange;
pub mod fixtures;
pub mod line;
mod node;
mod options;
mod slurm;

/// A target's name, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 18] = [
    ("credential_configuration", configuration::credential_configuration),
    ("enroot_conf", containers::enroot_conf),
    ("environment", environment::environment),
    ("iam_answer", exchange::iam_answer),
    ("kept_token", node::kept_token),
    ("metrics", node::metrics),
    ("netrc", containers::netrc),
    ("option", options::option),
    ("plugstack_conf", slurm::plugstack_conf),
    ("record", node::record),
    ("refusal", exchange::refusal),
    ("registry_challenge", slurm::registry_challenge),
    ("request", agent::request),
    ("scopes", options::scopes),
    ("site_configuration", configuration::site_configuration),
    ("slurm_conf", slurm::slurm_conf),
    ("sts_answer", exchange::sts_answer),
    ("subject_token", exchange::subject_token),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|(target, _)| *target == name)
}
