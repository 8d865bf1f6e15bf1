//! The right to give a job what no other job of the node may have.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;

use super::{Result, RuntimeDirectory};
use crate::world::fs::held::directory_flags;
use crate::world::fs::{FileError, FileProblem};

/// While it lasts the jobs' records can be compared; ends when it is dropped or its process dies.
#[derive(Debug)]
#[must_use]
pub struct Turn {
    _records: OwnedFd,
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
        let end = Instant::now() + limit;
        loop {
            match rustix::fs::flock(&records, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Turn { _records: records }),
                Err(Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(problem(errno)),
            }
            if Instant::now() >= end {
                return Err(FileError::new(&path, FileProblem::Locked));
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}
