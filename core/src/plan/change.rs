//! Changes of a job's environment.
#![forbid(unsafe_code)]

use crate::words::secret::Secret;

/// A change of one variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Set the variable to this value.
    Set(&'static str, Secret),
    /// Remove the variable.
    Unset(&'static str),
}
