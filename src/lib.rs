//! Google Cloud credentials for Slurm jobs by Workload Identity Federation: the SPANK plugin `gcp_wif`.

pub mod config;
pub mod exchange;
pub mod fs;
pub mod http;
pub mod identity;
pub mod lifecycle;
pub mod names;
pub mod plan;
pub mod record;
pub mod report;
pub mod request;
pub mod rules;
pub mod secret;
mod spank;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod worker;
