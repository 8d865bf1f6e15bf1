//! A change of a job's environment.
#![forbid(unsafe_code)]

use crate::words::secret::Secret;

/// A change of one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It gets this value.
    Set(&'static str, Secret),
    /// It goes.
    Unset(&'static str),
}
