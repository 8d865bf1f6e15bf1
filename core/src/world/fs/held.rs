//! Operations relative to a directory that is held open. They do not follow symbolic links.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::mark::mark;
use super::{FileError, FileProblem, Owner, acl};

/// The pause between two attempts to take a lock.
const LOOK: Duration = Duration::from_millis(5);

type Result<T> = std::result::Result<T, FileError>;

pub(super) fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// Opens a directory that only `owner` can change, and creates it if it is absent.
///
/// Without `mode`, a new directory has mode 0700, and an existing one keeps its mode, which the caller sets.
pub(super) fn make_directory(
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    mode: Option<u32>,
    owner: u32,
) -> Result<OwnedFd> {
    let open = || rustix::fs::openat(parent, name, directory_flags() | OFlags::NOFOLLOW, Mode::empty());
    // An existing directory is usable even if the disk is full or read-only.
    let opened = match open() {
        Err(Errno::NOENT) => match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode.unwrap_or(0o700))) {
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(errno) => return Err(FileError::system(path, "make it", errno)),
        },
        opened => opened,
    };
    let directory = opened.map_err(|errno| FileError::system(path, "open it", errno))?;
    let stat = rustix::fs::fstat(&directory).map_err(|e| FileError::system(path, "examine it", e))?;
    if stat.st_uid != owner {
        return Err(FileError::new(path, FileProblem::OwnedBy(stat.st_uid)));
    }
    let present = stat.st_mode & 0o7777;
    // If the directory has an ACL, the group bits are its mask, in which this plugin never sets w.
    if present & 0o022 != 0 {
        return Err(FileError::new(path, FileProblem::Writable(present)));
    }
    if let Some(mode) = mode.filter(|mode| *mode != present) {
        // mkdirat is subject to the umask of the process that has loaded the plugin.
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))
            .map_err(|e| FileError::system(path, "set its mode", e))?;
    }
    Ok(directory)
}

/// Repeats `attempt` until it returns a lock, for at most `limit`.
pub(super) fn lock_within<T>(
    path: &Path,
    limit: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(locked) = attempt()? {
            return Ok(locked);
        }
        if Instant::now() >= end {
            return Err(FileError::new(path, FileProblem::Locked));
        }
        std::thread::sleep(LOOK);
    }
}

/// A held lock on a directory.
#[derive(Debug)]
#[must_use]
pub(super) struct DirectoryLock(OwnedFd);

impl DirectoryLock {
    /// Waits for the lock of an open directory. No forked process shares the descriptor yet.
    pub(super) fn take(directory: OwnedFd, path: &Path, limit: Duration) -> Result<Self> {
        lock_within(path, limit, || match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(())),
            Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(None),
            Err(errno) => Err(FileError::system(path, "lock it", errno)),
        })?;
        Ok(Self(directory))
    }

    /// The directory.
    pub(super) fn directory(&self) -> &OwnedFd {
        &self.0
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // A forked child can have the descriptor too, so closing it here is not enough.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

pub(super) fn read_file(directory: &OwnedFd, path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = path.join(name);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(FileError::system(&path, "open it", errno)),
    };
    let mut content = Vec::new();
    match File::from(file).read_to_end(&mut content) {
        Ok(_) => Ok(Some(content)),
        Err(error) => Err(FileError::system(&path, "read it", Errno::from_io_error(&error).unwrap_or(Errno::IO))),
    }
}

/// Who can read a new file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    /// Root.
    Root,
    /// Everyone.
    Everyone,
    /// The user, to whom the file belongs.
    Users(Owner),
    /// Root, to whom the file belongs, and the user.
    Readable(Owner),
}

impl Access {
    fn give(self, file: &File) -> rustix::io::Result<()> {
        let owned = |owner: Owner| {
            mark(file);
            rustix::fs::fchown(file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
            rustix::fs::fchmod(file, Mode::from_raw_mode(0o400))
        };
        match self {
            Self::Root => Ok(()),
            Self::Everyone => rustix::fs::fchmod(file, Mode::from_raw_mode(0o644)),
            Self::Users(owner) => owned(owner),
            Self::Readable(owner) => match acl::let_read(file, owner.uid) {
                Err(Errno::NOTSUP | Errno::NOSYS) => owned(owner),
                result => result,
            },
        }
    }
}

/// Replaces a file by rename. Only root can open the new file before it is complete.
pub(super) fn write_file(directory: &OwnedFd, path: &Path, name: &str, content: &str, access: Access) -> Result<()> {
    let path = path.join(name);
    let error = |errno| FileError::system(&path, "write it", errno);
    let temporary = format!(".{name}.new");
    unlink(directory, OsStr::new(&temporary)).map_err(error)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(error)?;
    let mut opened = File::from(opened);
    let written = opened
        .write_all(content.as_bytes())
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        .and_then(|()| access.give(&opened))
        .and_then(|()| rustix::fs::renameat(directory, &temporary, directory, name));
    written.map_err(|errno| {
        // Report the first error, even if the incomplete file cannot be removed.
        let _ = unlink(directory, OsStr::new(&temporary));
        error(errno)
    })
}

pub(super) fn unlink(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Removes a directory with its content. Does not follow symbolic links.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr, path: &Path, depth: u32) -> Result<()> {
    let error = |errno| FileError::system(path, "remove it", errno);
    let directory = match rustix::fs::openat(parent, name, directory_flags() | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlink(parent, name).map_err(error),
        Err(errno) => return Err(error(errno)),
    };
    empty(&directory, path, depth)?;
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(error(errno)),
    }
}

/// Removes what is in a held directory.
pub(super) fn empty(directory: &OwnedFd, path: &Path, depth: u32) -> Result<()> {
    let error = |errno| FileError::system(path, "remove it", errno);
    for entry in Dir::read_from(directory).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        match unlink(directory, name) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::PERM) if depth > 0 => remove(directory, name, &path.join(name), depth - 1)?,
            Err(errno) => return Err(error(errno)),
        }
    }
    Ok(())
}
