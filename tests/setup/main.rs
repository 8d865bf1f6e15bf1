//! `deploy/google`: the script with the real gcloud, and the Terraform module, against a project at an embedded Google.
//!
//! Tests that need gcloud or terraform are skipped if it is not installed. `GCP_WIF_SETUP_SWEEP=1` kills the script at
//! each of its steps, not only at some.
//!
//! ```text
//! whole.rs        created, created again, removed, restored; the written files, and an exchange with them
//! changed.rs      existing resources: updated, used, or left alone
//! interrupted.rs  killed at a step, then run again
//! wrong.rs        refusals and their messages
//! terraform.rs    the module: its names, and what it creates, compared with the script
//! commands.rs     the commands of deploy/google/README.md
//! desk.rs         an administrator's machine: gcloud's own configuration, the script, its output
//! api/            the project at Google
//! ```

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
// Skipped tests are reported.
#![allow(clippy::print_stderr)]
#![forbid(unsafe_code)]

mod api {
    pub mod errors;
    pub mod iam;
    pub mod policies;
    pub mod server;
    pub mod services;
    pub mod world;
}
mod changed;
mod commands;
mod desk;
#[path = "../google/mod.rs"]
mod google;
mod interrupted;
#[path = "../slurm/skipped.rs"]
mod skipped;
mod terraform;
mod whole;
mod wrong;
