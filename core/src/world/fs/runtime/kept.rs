//! Tokens that the node keeps for a user and a grant, each with a lock.
//!
//! Only the holder of the lock asks Google for the token. It is a lock on the directory, like a job's. If a process
//! holds it past the deadline that it wrote, another process removes the directory; the late process thereby loses the
//! lock, and its later writes fail.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{Dir, FlockOperation};
use rustix::io::Errno;

use super::{Result, RuntimeDirectory};
use crate::world::fs::held::{Access, lock_within, make_directory, read_file, remove, unlink, write_file};
use crate::world::fs::{FileError, FileProblem};

/// The file with the token and the last failure.
const TOKEN: &str = "token";
/// The file with the deadline of the lock's holder, in seconds since boot.
const UNTIL: &str = "until";
/// How long a removal waits for the turn, whose holders only write a few files.
const TURN: Duration = Duration::from_secs(5);

/// The directory of a kept token, opened.
#[derive(Debug)]
pub struct KeptPlace<'a> {
    runtime: &'a RuntimeDirectory,
    name: String,
    directory: OwnedFd,
}

/// The lock of a kept token, which is the right to ask Google for it. It ends on release, or when the last process that
/// has it drops it or dies. A worker inherits it from the prolog.
#[derive(Debug)]
#[must_use]
pub struct KeptLock<'a>(KeptPlace<'a>);

/// The result of an attempt to take a lock.
#[derive(Debug)]
pub enum TryLock<'a> {
    /// This process has the lock.
    Locked(KeptLock<'a>),
    /// Another process has the lock.
    Busy(KeptPlace<'a>),
    /// Another process has removed the directory. The caller opens the place again.
    Gone,
}

impl RuntimeDirectory {
    /// Opens the directory of a kept token, and creates it if it is absent.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn kept_place(&self, name: &str) -> Result<KeptPlace<'_>> {
        let path = self.path.join("tokens").join(name);
        let make = || make_directory(&self.tokens, OsStr::new(name), &path, Some(0o700), self.owner);
        let directory = lock_within(&path, TURN, || match self.with_room(make) {
            Ok(directory) => Ok(Some(directory)),
            // A sweep is removing it.
            Err(error) if error.is_absent() && self.is_there() => Ok(None),
            Err(error) => Err(error),
        })?;
        Ok(KeptPlace { runtime: self, name: name.to_owned(), directory })
    }

    /// Returns the names of all kept tokens.
    pub fn kept(&self) -> Vec<String> {
        let entries = Dir::read_from(&self.tokens).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

impl<'a> KeptPlace<'a> {
    /// Reads the token file. Another process can replace it at any time, by rename.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        read_file(&self.directory, &self.path(), TOKEN)
    }

    /// Takes the lock if it is free.
    ///
    /// # Errors
    /// When the system refuses the lock.
    pub fn try_lock(self) -> Result<TryLock<'a>> {
        let locked = match rustix::fs::flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => true,
            Err(Errno::WOULDBLOCK | Errno::INTR) => false,
            Err(errno) => return Err(FileError::system(&self.path(), "lock it", errno)),
        };
        Ok(match (self.is_there()?, locked) {
            (true, true) => TryLock::Locked(KeptLock(self)),
            (true, false) => TryLock::Busy(self),
            (false, _) => TryLock::Gone,
        })
    }

    /// Ends the lock of a process that holds it past its deadline, because it is stopped or hangs in the kernel. `now`
    /// is in seconds since boot.
    ///
    /// # Errors
    /// When the directory cannot be removed.
    pub fn end_late_lock(&self, now: i64) -> Result<()> {
        let until = read_file(&self.directory, &self.path(), UNTIL)?;
        let until = until.and_then(|text| std::str::from_utf8(&text).ok()?.parse::<i64>().ok());
        if until.is_some_and(|until| until < now) { self.remove() } else { Ok(()) }
    }

    fn remove(&self) -> Result<()> {
        // Without the turn, another process could replace the directory between the check and the removal.
        let _turn = self.runtime.turn(TURN)?;
        if self.is_there()? {
            remove(&self.runtime.tokens, OsStr::new(&self.name), &self.path(), 0)?;
        }
        Ok(())
    }

    fn is_there(&self) -> Result<bool> {
        let stat = rustix::fs::fstat(&self.directory).map_err(|e| FileError::system(&self.path(), "examine it", e))?;
        Ok(stat.st_nlink > 0)
    }

    fn path(&self) -> PathBuf {
        self.runtime.path.join("tokens").join(&self.name)
    }
}

impl KeptLock<'_> {
    /// Reads the token file.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        self.0.read()
    }

    /// Writes the deadline of this process, in seconds since boot.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn say_until(&self, since_boot: i64) -> Result<()> {
        self.replace(UNTIL, &since_boot.to_string())
    }

    /// Releases the lock in all processes that share it. Dropping it is not enough: a process that another thread is
    /// just starting would hold it a moment longer.
    pub fn release(self) {
        // A stale deadline would let the next holder count as late until it has written its own. If the removal fails,
        // the cost is one more exchange.
        let _ = unlink(&self.0.directory, OsStr::new(UNTIL));
        // If this fails, the lock ends with this process's descriptor.
        let _ = rustix::fs::flock(&self.0.directory, FlockOperation::Unlock);
    }

    /// Replaces the token file.
    ///
    /// # Errors
    /// When the file cannot be written, or another process has ended this lock.
    pub fn write(&self, content: &str) -> Result<()> {
        self.replace(TOKEN, content)
    }

    /// Removes the directory with its files.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(self) -> Result<()> {
        self.0.remove()
    }

    fn replace(&self, name: &str, content: &str) -> Result<()> {
        let (place, path) = (&self.0, self.0.path());
        if !place.is_there()? {
            return Err(FileError::new(&path, FileProblem::Over));
        }
        place.runtime.with_room(|| write_file(&place.directory, &path, name, content, Access::Root))
    }
}
