//! File access: checked reads of configuration files, and the runtime directory.
//!
//! No other part of the core opens files. Below the runtime directory each path component is opened relative to a
//! directory that is held open, and symbolic links are not followed. Root never writes inside a directory that a user
//! owns.
#![forbid(unsafe_code)]

mod acl;
mod held;
mod links;
mod mark;
mod projected;
mod runtime;
mod users;

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

pub use links::{forget_link, links, remember_link};
pub use projected::read_projected;
pub use runtime::{KeptLock, KeptPlace, LockedJob, NewFile, NewTree, Owner, Place, RuntimeDirectory, TryLock, Turn};
pub use users::read_users;

/// The size limit of configuration files and certificate bundles, in bytes.
const LONGEST: u64 = 4 << 20;

/// `O_NONBLOCK` so that opening a FIFO does not block.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// The error for a file or directory that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileError {
    /// Its path.
    pub path: PathBuf,
    /// The problem.
    pub problem: FileProblem,
}

/// Why a file or directory cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileProblem {
    /// A system call failed.
    System {
        /// The attempted action, as a verb with its object.
        action: &'static str,
        /// The error of the system call.
        errno: Errno,
    },
    /// It is a directory, a FIFO or a device.
    NotAFile,
    /// It is on `/proc`, `/sys` or another pseudo file system, where the kernel generates the content.
    Pseudo,
    /// It, or a name in the directory, is not UTF-8.
    NotText,
    /// It is longer than this number of bytes.
    TooLong(u64),
    /// It is a directory with more entries than this.
    TooMany(usize),
    /// It belongs to this user instead of root.
    OwnedBy(u32),
    /// Group or others can write to it.
    Writable(u32),
    /// Another process held the lock for the whole waiting time.
    Locked,
    /// The job is over: its epilog has removed the record. Or another process has ended the lock of a kept token.
    Over,
}

impl FileError {
    /// Creates the error for a path.
    pub fn new(path: &Path, problem: FileProblem) -> Self {
        Self { path: path.to_owned(), problem }
    }

    fn system(path: &Path, action: &'static str, errno: Errno) -> Self {
        Self::new(path, FileProblem::System { action, errno })
    }

    /// Returns whether this process lacks the permission.
    pub fn is_forbidden(&self) -> bool {
        matches!(self.problem, FileProblem::System { errno: Errno::ACCESS | Errno::PERM, .. })
    }

    /// Returns advice with the command that fixes the problem, if there is one and the message does not already contain
    /// it.
    pub fn fix(&self) -> Option<String> {
        match self.problem {
            FileProblem::OwnedBy(_) => Some(format!("run chown root: {}", self.path.display())),
            _ => None,
        }
    }

    /// Returns whether the file system or the quota is full.
    pub fn is_full(&self) -> bool {
        matches!(self.problem, FileProblem::System { errno: Errno::NOSPC | Errno::DQUOT, .. })
    }

    /// Returns whether the file does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self.problem, FileProblem::System { errno: Errno::NOENT | Errno::NOTDIR, .. })
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path.display())?;
        match &self.problem {
            FileProblem::System { action, errno } => {
                let reason = match *errno {
                    Errno::NOENT => "no such file or directory",
                    Errno::ACCESS | Errno::PERM => "permission denied",
                    Errno::NOSPC => "no space left on device",
                    Errno::ROFS => "read-only file system",
                    Errno::NOTDIR => "not a directory",
                    Errno::LOOP => "it is a symbolic link",
                    other => return write!(f, "cannot {action}: {}", std::io::Error::from(other)),
                };
                write!(f, "cannot {action}: {reason}")
            }
            FileProblem::NotAFile => f.write_str("not a regular file"),
            FileProblem::Pseudo => f.write_str("not on a real file system (such as /proc)"),
            FileProblem::NotText => f.write_str("not UTF-8 text"),
            FileProblem::TooMany(limit) => write!(f, "more than {limit} names"),
            FileProblem::TooLong(limit) => write!(f, "longer than {limit} bytes"),
            FileProblem::OwnedBy(uid) => write!(f, "owned by uid {uid}, must be owned by root"),
            FileProblem::Writable(mode) => {
                let path = self.path.display();
                write!(f, "mode {mode:04o} lets group or others write; run chmod go-w {path}")
            }
            FileProblem::Over => f.write_str("the job is over on this node"),
            FileProblem::Locked => f.write_str("another process holds the lock and did not release it in time"),
        }
    }
}

impl std::error::Error for FileError {}

/// Reads a file that decides what root does. It must be a regular file that belongs to root and that nobody else can
/// write. When a user runs the companion command, a file of that user is accepted too.
///
/// # Errors
/// When it is not such a file or cannot be read.
pub fn read_trusted(path: &Path) -> Result<Vec<u8>, FileError> {
    let check = |stat: &Stat| {
        let mode = stat.st_mode & 0o7777;
        if ![0, rustix::process::geteuid().as_raw()].contains(&stat.st_uid) {
            Err(FileProblem::OwnedBy(stat.st_uid))
        } else if mode & 0o022 != 0 {
            Err(FileProblem::Writable(mode))
        } else {
            Ok(())
        }
    };
    projected::look(path, || read(path, LONGEST, check))
}

/// Checks owner and mode of a file as [`read_trusted`] does, without reading it.
///
/// # Errors
/// When it is not.
pub fn check_trusted(path: &Path) -> Result<(), FileError> {
    let stat = rustix::fs::stat(path).map_err(|e| FileError::system(path, "examine it", e))?;
    let mode = stat.st_mode & 0o7777;
    match (stat.st_uid, mode & 0o022) {
        (0, 0) => Ok(()),
        (0, _) => Err(FileError::new(path, FileProblem::Writable(mode))),
        (uid, _) => Err(FileError::new(path, FileProblem::OwnedBy(uid))),
    }
}

/// Reads a text file of the system, below `/proc` or `/etc`. Returns `None` if it cannot be read.
pub fn read_system(path: &Path) -> Option<String> {
    String::from_utf8(read(path, LONGEST, |_| Ok(())).ok()?).ok()
}

/// Writes a text to an existing file of the system, below `/proc` or `/sys`.
///
/// # Errors
/// When it cannot be written.
pub fn write_system(path: &Path, text: &str) -> Result<(), FileError> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| FileError::system(path, "open it", e))?;
    File::from(file).write_all(text.as_bytes()).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        FileError::system(path, "write it", errno)
    })
}

/// Reads a regular file of at most `longest` bytes. Does not check owner and mode.
///
/// # Errors
/// When it is not such a file or cannot be read.
pub fn read_limited(path: &Path, longest: u64) -> Result<Vec<u8>, FileError> {
    read(path, longest, |_| Ok(()))
}

/// Returns whether the path leads to a regular file.
pub fn is_file(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// Identifies a file independently of its path: device and inode number.
pub type FileId = (u64, u64);

/// Returns the identity of the regular file that a path leads to, or `None` if there is none.
pub fn file_id(path: &Path) -> Option<FileId> {
    let stat = rustix::fs::stat(path).ok()?;
    (FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile).then_some((stat.st_dev, stat.st_ino))
}

/// Returns the names in a directory, sorted.
///
/// # Errors
/// When it is not a directory, cannot be read, has more than `most` entries, or has a name that is not UTF-8.
pub fn names(directory: &Path, most: usize) -> Result<Vec<String>, FileError> {
    let problem = |action| move |errno| FileError::system(directory, action, errno);
    let held = rustix::fs::open(directory, READ | OFlags::DIRECTORY, Mode::empty()).map_err(problem("open it"))?;
    let mut names = Vec::new();
    for entry in Dir::new(held).map_err(problem("read it"))? {
        let entry = entry.map_err(problem("read it"))?;
        let name = entry.file_name().to_str().map_err(|_| FileError::new(directory, FileProblem::NotText))?;
        if [".", ".."].contains(&name) {
            continue;
        }
        if names.len() == most {
            return Err(FileError::new(directory, FileProblem::TooMany(most)));
        }
        names.push(name.to_owned());
    }
    names.sort();
    Ok(names)
}

fn read(path: &Path, longest: u64, check: impl Fn(&Stat) -> Result<(), FileProblem>) -> Result<Vec<u8>, FileError> {
    let file = rustix::fs::open(path, READ, Mode::empty()).map_err(|e| FileError::system(path, "open it", e))?;
    read_opened(file, path, longest, check)
}

/// Reads an open file. `path` is only for errors.
fn read_opened(
    file: OwnedFd,
    path: &Path,
    longest: u64,
    check: impl Fn(&Stat) -> Result<(), FileProblem>,
) -> Result<Vec<u8>, FileError> {
    let stat = rustix::fs::fstat(&file).map_err(|e| FileError::system(path, "examine it", e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(FileError::new(path, FileProblem::NotAFile));
    }
    check(&stat).map_err(|problem| FileError::new(path, problem))?;
    let size = u64::try_from(stat.st_size).unwrap_or(0).min(longest);
    let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    File::from(file).take(longest + 1).read_to_end(&mut content).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        FileError::system(path, "read it", errno)
    })?;
    if content.len() as u64 > longest {
        return Err(FileError::new(path, FileProblem::TooLong(longest)));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(directory: &Path, mode: u32) -> PathBuf {
        let path = directory.join("file");
        std::fs::write(&path, "content").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_trusted_file_belongs_to_root_and_nobody_else_can_write_it() {
        let directory = crate::testing::directory();
        for (mode, trusted) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false), (0o666, false)] {
            let path = file(&directory, mode);
            assert_eq!(read_trusted(&path).is_ok(), trusted, "{mode:o}");
        }
        let path = file(&directory, 0o644);
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert_eq!(read_trusted(&path).unwrap_err().problem, FileProblem::OwnedBy(65534));
    }

    #[test]
    fn a_system_file_is_written_but_never_created() {
        let directory = crate::testing::directory();
        let path = file(&directory, 0o644);
        write_system(&path, "0\n").unwrap();
        assert_eq!(read_system(&path).as_deref(), Some("0\nntent"));
        let none = directory.join("none");
        assert!(write_system(&none, "0\n").unwrap_err().is_absent() && !none.exists());
    }

    #[test]
    fn a_fifo_a_directory_and_a_file_that_is_too_long_are_refused_without_waiting() {
        let directory = crate::testing::directory();
        assert_eq!(read_limited(&directory, 10).unwrap_err().problem, FileProblem::NotAFile);
        let fifo = directory.join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(read_limited(&fifo, 10).unwrap_err().problem, FileProblem::NotAFile);
        let path = file(&directory, 0o644);
        assert_eq!(read_limited(&path, 6).unwrap_err().problem, FileProblem::TooLong(6));
        assert_eq!(read_limited(&path, 7).unwrap(), b"content");
        assert!(read_limited(&directory.join("none"), 7).unwrap_err().is_absent());
    }

    #[test]
    fn names_returns_all_entries_or_an_error() {
        use std::os::unix::ffi::OsStrExt;
        let directory = crate::testing::directory();
        assert_eq!(names(&directory, 0), Ok(Vec::new()));
        for name in ["b", ".c", "a"] {
            std::fs::write(directory.join(name), "").unwrap();
        }
        assert_eq!(names(&directory, 3), Ok([".c", "a", "b"].map(str::to_owned).to_vec()));
        assert_eq!(names(&directory, 2).unwrap_err().problem, FileProblem::TooMany(2));
        std::fs::write(directory.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        assert_eq!(names(&directory, 4).unwrap_err().problem, FileProblem::NotText);
        for absent in ["none", "a"] {
            assert!(names(&directory.join(absent), 3).unwrap_err().is_absent(), "{absent}");
        }
    }
}
