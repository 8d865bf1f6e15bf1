//! Clients that outlive their tokens. Each runs as one job past three expiries, because the node's agent has new tokens
//! for it at the token endpoint that `credentials.json` names, and at the metadata endpoint. A client that refuses one
//! of these ways does so before it sends a request.
//!
//! Each client uses its own bucket, which identifies it in Google's record, and has a row in docs/clients.md.

mod crates;
mod data;
mod gcloud;
mod go;
mod java;
mod node;
mod python;
mod r;
mod rclone;

pub use node::node_at;
pub use python::python_at;

use crate::table::Outcome::{self, Refuses, Works};

/// By file, by metadata.
const BOTH: [Outcome; 2] = [Works, Works];
const METADATA: [Outcome; 2] = [Refuses, Works];
