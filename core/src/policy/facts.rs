//! Facts about a job.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::words::names::JobId;
use crate::world::sys::Group;

/// What slurmd reports about a job. Nothing in it comes from the job's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFacts {
    /// The job ID.
    pub job: JobId,
    /// The user ID.
    pub uid: u32,
    /// The ID of the primary group.
    pub gid: u32,
    /// The user name, if the node knows it.
    pub user: Option<String>,
    /// The groups, including the primary group.
    pub groups: Vec<Group>,
    /// Account and partition. Only the prolog gets them, and slurmd takes them from the signed job credential.
    pub placement: Option<Placement>,
}

/// The account and the partition of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The account, if the job has one.
    pub account: Option<String>,
    /// The partition.
    pub partition: Option<String>,
}

impl JobFacts {
    /// Formats the user for a message: `alice (1000)`, or only the ID.
    pub fn user_text(&self) -> String {
        match &self.user {
            Some(name) => format!("{name} ({})", self.uid),
            None => self.uid.to_string(),
        }
    }
}
