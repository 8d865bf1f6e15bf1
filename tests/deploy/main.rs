//! What operators apply on Kubernetes (deploy/): rendered, checked, and run on a node of a real Slurm that has its
//! files only from the manifests.
//!
//! ```text
//! manifests.rs  a copy of deploy/ with a site's values, parsed, rendered by kubectl, merged into pods
//! rendered.rs   mounts, volumes, names, audiences, order; Kubernetes' own schemas
//! image.rs      the image, built as in its Containerfile
//! kubelet.rs    volumes, init containers and mounts on a node, as the kubelet makes them
//! boot.rs       jobs on such nodes
//! retired.rs    from the hand-made setup to the plugin, step by step, with a pull after each
//! ```

#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]
#![allow(unreachable_pub, reason = "a test crate is its own root")]

#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../google/mod.rs"]
mod google;
#[path = "../slurm/registry.rs"]
#[allow(dead_code, reason = "these tests need one of its registries")]
mod registry;
#[path = "../slurm/site.rs"]
#[allow(dead_code, reason = "these tests need a part of it")]
mod site;
#[path = "../slurm/skipped.rs"]
mod skipped;

mod boot;
mod image;
mod kubelet;
mod manifests;
mod rendered;
mod retired;
