//! The fuzz targets. Each is a function that passes untrusted bytes to the project's code, and panics if an invariant
//! does not hold.
//!
//! `ci/fuzz` calls a target millions of times, with inputs that libFuzzer mutates. `tests/corpus.rs` calls it with the
//! inputs in `corpus/TARGET/`. Inputs with a name are written by hand; `ci/fuzz` has found the others. An input that
//! once violated an invariant stays there, with a name that describes it.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a target panics if an invariant does not hold")]

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

/// The name and the function of a target.
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

/// Returns the target with this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|(target, _)| *target == name)
}
