//! What is kept for a user and an identity on the node, each under a lock of its own.
//!
//! The lock is the right to ask Google. It is the directory itself, as a job's is: a process that held it for longer than
//! it said loses it when another one removes the directory, and whatever it writes later fails.
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

/// The token and the last failure.
const TOKEN: &str = "token";
/// When the holder of the lock is done at the latest, in seconds since the machine was started.
const UNTIL: &str = "until";
/// How long a removal waits for its turn. Its holders only write some files.
const TURN: Duration = Duration::from_secs(5);

/// The place of a name, opened by a process that wants its lock.
#[derive(Debug)]
pub struct KeptPlace<'a> {
    runtime: &'a RuntimeDirectory,
    name: String,
    directory: OwnedFd,
}

/// The right to ask Google for what is kept in a place. It ends when it is released, or when the last process that has it
/// drops it or dies: a worker inherits it from its prolog.
#[derive(Debug)]
#[must_use]
pub struct KeptLock<'a>(KeptPlace<'a>);

/// What came of a try to take a lock.
#[derive(Debug)]
pub enum TryLock<'a> {
    /// It is taken.
    Locked(KeptLock<'a>),
    /// Another process has it.
    Busy(KeptPlace<'a>),
    /// Another process has removed the place; it has to be opened again.
    Gone,
}

impl RuntimeDirectory {
    /// Opens the place of a name, making it where it is absent.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn kept_place(&self, name: &str) -> Result<KeptPlace<'_>> {
        let path = self.path.join("tokens").join(name);
        let make = || make_directory(&self.tokens, OsStr::new(name), &path, Some(0o700), self.owner);
        let directory = lock_within(&path, TURN, || match self.with_room(make) {
            Ok(directory) => Ok(Some(directory)),
            // A sweep has found it empty and removes it at this moment.
            Err(error) if error.is_absent() && self.is_there() => Ok(None),
            Err(error) => Err(error),
        })?;
        Ok(KeptPlace { runtime: self, name: name.to_owned(), directory })
    }

    /// Everything that is kept here, by name.
    pub fn kept(&self) -> Vec<String> {
        let entries = Dir::read_from(&self.tokens).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
        names.filter(|name| !name.starts_with('.')).collect()
    }
}

impl<'a> KeptPlace<'a> {
    /// What is kept there. Another process may replace it at any time, always by a complete file.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        read_file(&self.directory, &self.path(), TOKEN)
    }

    /// Takes the lock if it is free now.
    ///
    /// # Errors
    /// When it cannot be locked.
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

    /// Ends the lock of a process that still has it though it said that it would be done by now: it is stopped, or
    /// hangs in the kernel. `now` is in seconds since the machine was started.
    ///
    /// # Errors
    /// When the place cannot be removed.
    pub fn end_late_lock(&self, now: i64) -> Result<()> {
        let until = read_file(&self.directory, &self.path(), UNTIL)?;
        let until = until.and_then(|text| std::str::from_utf8(&text).ok()?.parse::<i64>().ok());
        if until.is_some_and(|until| until < now) { self.remove() } else { Ok(()) }
    }

    fn remove(&self) -> Result<()> {
        // Otherwise another process could remove it and make a new one between these two lines.
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
    /// What is kept.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read(&self) -> Result<Option<Vec<u8>>> {
        self.0.read()
    }

    /// Says until when this process is done at the latest, in seconds since the machine was started.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn say_until(&self, since_boot: i64) -> Result<()> {
        self.replace(UNTIL, &since_boot.to_string())
    }

    /// Ends the lock in every process that has it. One that is only dropped lives on for a moment in each process that
    /// another thread is starting.
    pub fn release(self) {
        // Otherwise the next holder would count as late until it has said its own time. If it cannot be removed, another
        // process may ask Google once more.
        let _ = unlink(&self.0.directory, OsStr::new(UNTIL));
        // If it cannot be unlocked, it ends with this process's descriptor.
        let _ = rustix::fs::flock(&self.0.directory, FlockOperation::Unlock);
    }

    /// Replaces what is kept.
    ///
    /// # Errors
    /// When it cannot be written, or another process has ended this lock.
    pub fn write(&self, content: &str) -> Result<()> {
        self.replace(TOKEN, content)
    }

    /// Removes the place, and what is kept in it.
    ///
    /// # Errors
    /// When something of it cannot be removed.
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
