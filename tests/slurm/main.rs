//! The plugin in a real Slurm, with the embedded Google.
//!
//! ```text
//! plugin.rs    the file that every srun loads: its size, what it exports
//! site.rs      a cluster and a Google that trust each other; what every test ends with
//! jobs.rs      srun, sbatch, salloc, arrays, heterogeneous jobs, requeue: each uses its token
//! requests.rs  options, inheritance, refusals at submission, environment, nested jobs
//! failures.rs  each fault: the user's line is the golden one, and no node is lost
//! kills.rs     processes that die, hang or are cancelled; nothing stays behind
//! agent.rs     delivery by the agent: refresh, metadata, killed agents
//!   callers.rs   who is answered: other users, namespaces, pages, crowds; files and processes
//!   clients.rs   clients past three expiries
//!   federated.rs the same without a service account
//!   metadata.rs  the same without GOOGLE_APPLICATION_CREDENTIALS
//!   load.rs      killed under load, memory and descriptors with many jobs
//! attacks.rs   what a user of a shared node might try
//! readme.rs    the README's commands are run, its troubleshooting holds
//! containers.rs what enroot is given: merged configuration, pull credentials, mounts
//! pyxis.rs     containers to the end, where pyxis and enroot are installed
//! command.rs   the companion command: doctor, explain, env
//! registry.rs  the registries of these tests
//! clients.rs   Google's own clients as jobs under direct delivery: Python, Node, rclone, gcloud, curl
//! internet.rs  the internet as jobs know it: Google's host names lead to the embedded one
//! ```

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]
#![allow(unreachable_pub, reason = "a test crate is its own root")]

#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../google/mod.rs"]
mod google;

mod agent;
mod attacks;
mod clients;
mod command;
mod containers;
mod failures;
mod golden;
mod internet;
mod jobs;
mod kills;
mod plugin;
mod pyxis;
mod readme;
mod registry;
mod requests;
mod site;
mod skipped;
