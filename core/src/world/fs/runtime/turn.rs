//! The lock for what must be unique on a node, such as a job's port.
#![forbid(unsafe_code)]

use std::time::Duration;

use rustix::fs::Mode;

use super::{Result, RuntimeDirectory};
use crate::world::fs::FileError;
use crate::world::fs::held::{DirectoryLock, directory_flags};

/// The held lock. It ends when it is dropped or its process dies.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    _records: DirectoryLock,
}

impl RuntimeDirectory {
    /// Waits for the turn. The holder must not do anything slow.
    ///
    /// # Errors
    /// When another process holds it for longer than `limit`.
    pub fn turn(&self, limit: Duration) -> Result<Turn> {
        let path = self.path.join("records");
        // A flock(2) lock belongs to the open file description, which `self.records` shares with forked processes, so
        // open the directory again.
        let records = rustix::fs::openat(&self.records, ".", directory_flags(), Mode::empty())
            .map_err(|errno| FileError::system(&path, "lock it", errno))?;
        Ok(Turn { _records: DirectoryLock::take(records, &path, limit)? })
    }
}
