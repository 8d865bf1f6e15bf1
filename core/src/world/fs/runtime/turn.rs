//! The right to give a job what no other job of the node may have.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use super::{Result, RuntimeDirectory};
use crate::world::fs::FileError;
use crate::world::fs::held::{directory_flags, lock_within};

/// While a process has it, no other one reserves anything. It ends when it is dropped or its process dies.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    records: OwnedFd,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // As with a job's lock, a child may have the descriptor as well.
        let _ = rustix::fs::flock(&self.records, FlockOperation::Unlock);
    }
}

impl RuntimeDirectory {
    /// Waits for the turn. The holder does nothing that takes time.
    ///
    /// # Errors
    /// When another process keeps it for longer than `limit`.
    pub fn turn(&self, limit: Duration) -> Result<Turn> {
        let path = self.path.join("records");
        let problem = |errno| FileError::system(&path, "lock it", errno);
        // Opened again, because a lock belongs to the open file, which `self.records` shares with forked processes.
        let records = rustix::fs::openat(&self.records, ".", directory_flags(), Mode::empty()).map_err(problem)?;
        lock_within(&path, limit, || match rustix::fs::flock(&records, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(())),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(errno) => Err(problem(errno)),
        })?;
        Ok(Turn { records })
    }
}
