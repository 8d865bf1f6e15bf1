//! The right to give a job what no other job of the node may have.
#![forbid(unsafe_code)]

use std::time::Duration;

use rustix::fs::Mode;

use super::{Result, RuntimeDirectory};
use crate::world::fs::FileError;
use crate::world::fs::held::{DirectoryLock, directory_flags};

/// While a process has it, no other one reserves anything. It ends when it is dropped or its process dies.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    _records: DirectoryLock,
}

impl RuntimeDirectory {
    /// Waits for the turn. The holder does nothing that takes time.
    ///
    /// # Errors
    /// When another process keeps it for longer than `limit`.
    pub fn turn(&self, limit: Duration) -> Result<Turn> {
        let path = self.path.join("records");
        // Opened again, because a lock belongs to the open file, which `self.records` shares with forked processes.
        let records = rustix::fs::openat(&self.records, ".", directory_flags(), Mode::empty())
            .map_err(|errno| FileError::system(&path, "lock it", errno))?;
        Ok(Turn { _records: DirectoryLock::take(records, &path, limit)? })
    }
}
