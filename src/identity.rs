//! Who a job is to Slurm, and who it is to Google.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::{JobId, ServiceAccountEmail};

/// A group of the job's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its number.
    pub id: u32,
    /// Its name, where the node knows it.
    pub name: Option<String>,
}

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

/// Who a job is to Google.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// A service account, impersonated.
    ServiceAccount(ServiceAccountEmail),
    /// The federated principal itself.
    Federated,
}

impl Identity {
    /// The service account, if it is one.
    pub fn service_account(&self) -> Option<&ServiceAccountEmail> {
        match self {
            Self::ServiceAccount(email) => Some(email),
            Self::Federated => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServiceAccount(email) => email.fmt(f),
            Self::Federated => f.write_str("the federated principal"),
        }
    }
}
