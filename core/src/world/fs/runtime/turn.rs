//! The right to give a job what no other job of the node may have.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use super::{Result, RuntimeDirectory};
use crate::world::fs::FileError;
use crate::world::fs::held::{directory_flags, lock_within};

/// While it lasts the jobs' records can be compared; ends when it is dropped or its process dies.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    records: OwnedFd,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // As for a job's lock: a child may have the descriptor, too.
        let _ = rustix::fs::flock(&self.records, FlockOperation::Unlock);
    }
}

impl RuntimeDirectory {
    /// Waits for the turn. Whoever has it does nothing that takes time.
    ///
    /// # Errors
    /// When another process keeps it for longer than `limit`.
    pub fn turn(&self, limit: Duration) -> Result<Turn> {
        let path = self.path.join("records");
        let problem = |errno| FileError::system(&path, "lock it", errno);
        // Opened again: a lock belongs to what was opened, which `self.records` shares with the processes forked from here.
        let records = rustix::fs::openat(&self.records, ".", directory_flags(), Mode::empty()).map_err(problem)?;
        lock_within(&path, limit, || match rustix::fs::flock(&records, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(())),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(errno) => Err(problem(errno)),
        })?;
        Ok(Turn { records })
    }
}
