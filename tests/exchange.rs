//! The exchange and its HTTP client against the embedded Google, over real connections and without Slurm.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "exchange/connections.rs"]
mod connections;
#[path = "google/mod.rs"]
mod google;
#[path = "exchange/relay.rs"]
mod relay;
#[path = "exchange/sessions.rs"]
mod sessions;
#[path = "exchange/throttled.rs"]
mod throttled;
#[path = "exchange/world.rs"]
mod world;
