//! What is done below a held directory, name by name and without following links.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::{FileError, FileProblem, NewFile};

type Result<T> = std::result::Result<T, FileError>;

pub(super) fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

/// Opens a directory that only `owner` can change, making it where it is absent.
///
/// Without `mode`, a new one is 0700 and that of an old one stays for the caller to set.
pub(super) fn make_directory(
    parent: &OwnedFd,
    name: &OsStr,
    path: &Path,
    mode: Option<u32>,
    owner: u32,
) -> Result<OwnedFd> {
    let made = rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode.unwrap_or(0o700)));
    match made {
        Ok(()) | Err(Errno::EXIST) => {}
        // A read-only disk answers ROFS even where the directory is there; opening it tells.
        Err(Errno::ROFS) => {}
        Err(errno) => return Err(FileError::system(path, "make it", errno)),
    }
    let directory =
        rustix::fs::openat(parent, name, directory_flags() | OFlags::NOFOLLOW, Mode::empty()).map_err(|errno| {
            match errno {
                Errno::NOENT if made == Err(Errno::ROFS) => FileError::system(path, "make it", Errno::ROFS),
                errno => FileError::system(path, "open it", errno),
            }
        })?;
    let stat = rustix::fs::fstat(&directory).map_err(|e| FileError::system(path, "examine it", e))?;
    if stat.st_uid != owner {
        return Err(FileError::new(path, FileProblem::OwnedBy(stat.st_uid)));
    }
    let present = stat.st_mode & 0o7777;
    // Of a directory with an ACL the group's bits are the mask, which never has a w of ours.
    if present & 0o022 != 0 {
        return Err(FileError::new(path, FileProblem::Writable(present)));
    }
    if let Some(mode) = mode.filter(|mode| *mode != present) {
        // mkdirat is subject to the umask of the process that we are loaded into.
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode))
            .map_err(|e| FileError::system(path, "set its mode", e))?;
    }
    Ok(directory)
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
    match std::fs::File::from(file).read_to_end(&mut content) {
        Ok(_) => Ok(Some(content)),
        Err(error) => Err(FileError::system(&path, "read it", Errno::from_io_error(&error).unwrap_or(Errno::IO))),
    }
}

pub(super) fn write_file(
    directory: &OwnedFd,
    path: &Path,
    file: &NewFile<'_>,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<()> {
    let path = path.join(file.name);
    let error = |errno| FileError::system(&path, "write it", errno);
    let temporary = format!(".{}.new", file.name);
    unlink(directory, OsStr::new(&temporary)).map_err(error)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, &temporary, flags, Mode::from_raw_mode(0o600)).map_err(error)?;
    let mut opened = std::fs::File::from(opened);
    let written = opened
        .write_all(file.content.as_bytes())
        .map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
        .and_then(|()| match owner {
            Some((uid, gid)) => rustix::fs::fchown(&opened, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))),
            None => Ok(()),
        })
        .and_then(|()| rustix::fs::fchmod(&opened, Mode::from_raw_mode(mode)))
        .and_then(|()| rustix::fs::renameat(directory, &temporary, directory, file.name));
    written.map_err(|errno| {
        // The error to report is the first one, whether or not the half-written file can be removed.
        let _ = unlink(directory, OsStr::new(&temporary));
        error(errno)
    })
}

fn unlink(directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Removes a directory and what is in it, by held directories and without following links.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr, path: &Path, depth: u32) -> Result<()> {
    let error = |errno| FileError::system(path, "remove it", errno);
    let directory = match rustix::fs::openat(parent, name, directory_flags() | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return unlink(parent, name).map_err(error),
        Err(errno) => return Err(error(errno)),
    };
    for entry in Dir::read_from(&directory).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name == "." || name == ".." {
            continue;
        }
        match unlink(&directory, name) {
            Ok(()) => {}
            Err(Errno::ISDIR | Errno::PERM) if depth > 0 => remove(&directory, name, &path.join(name), depth - 1)?,
            Err(errno) => return Err(error(errno)),
        }
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(error(errno)),
    }
}
