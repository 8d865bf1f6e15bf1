//! The metrics file and the audit log.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::Write;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{Result, RuntimeDirectory};
use crate::world::fs::FileError;
use crate::world::fs::held::{Access, DirectoryLock, directory_flags, read_file, write_file};

/// The metrics file.
const METRICS: &str = "metrics.prom";
/// The audit log.
const AUDIT: &str = "audit.log";
/// How long to wait for another process that is writing the metrics.
const LIMIT: Duration = Duration::from_millis(200);

impl RuntimeDirectory {
    /// Replaces the metrics with the result of `change`, under the lock of the runtime directory.
    ///
    /// # Errors
    /// When the file cannot be written, or another process holds the lock for too long.
    pub fn update_metrics(&self, change: impl FnOnce(&str) -> String) -> Result<()> {
        // Opened again, because a lock belongs to the open file, which `self.root` shares with forked processes.
        let directory = rustix::fs::openat(&self.root, ".", directory_flags(), Mode::empty())
            .map_err(|errno| FileError::system(&self.path, "lock it", errno))?;
        let lock = DirectoryLock::take(directory, &self.path, LIMIT)?;
        let before = read_file(lock.directory(), &self.path, METRICS).ok().flatten().unwrap_or_default();
        let before = String::from_utf8_lossy(&before);
        let after = change(&before);
        if after == before {
            return Ok(());
        }
        write_file(lock.directory(), &self.path, METRICS, &after, Access::Everyone)
    }

    /// Appends a line to the audit log, which only root can read. Opens the file for each line, so that it can be
    /// rotated.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn append_audit(&self, line: &str) -> Result<()> {
        let path = self.path.join(AUDIT);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.root, AUDIT, flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(opened.map_err(|errno| FileError::system(&path, "open it", errno))?);
        // A single write, so that lines of concurrent processes do not mix.
        file.write_all(format!("{line}\n").as_bytes())
            .map_err(|error| FileError::system(&path, "write it", Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }
}
