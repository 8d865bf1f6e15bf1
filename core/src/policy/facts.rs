//! What Slurm knows of a job.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::words::names::JobId;
use crate::world::sys::Group;

/// What slurmd says of a job. Nothing in it comes from the job's environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobFacts {
    /// The job.
    pub job: JobId,
    /// The user's number.
    pub uid: u32,
    /// The user's primary group.
    pub gid: u32,
    /// The user's name.
    pub user: Option<String>,
    /// The user's groups, the primary one included.
    pub groups: Vec<Group>,
    /// Account and partition; known to the prolog only, which takes them from the signed job credential.
    pub placement: Option<Placement>,
}

/// Under which account and in which partition a job runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The account, where the job has one.
    pub account: Option<String>,
    /// The partition.
    pub partition: Option<String>,
}

impl JobFacts {
    /// The user for a message: `alice (1000)`, or the number alone.
    pub fn user_text(&self) -> String {
        match &self.user {
            Some(name) => format!("{name} ({})", self.uid),
            None => self.uid.to_string(),
        }
    }
}
