//! The runtime directory, with root's record of each job (`records/`) and the files that each job's user can read
//! (`jobs/`).
//!
//! ```text
//! RUNTIME_DIR/           0711 root
//!   records/             0700 root; its lock guards what must be unique on the node, such as ports
//!     JOBID/             the job's lock
//!       record           0600 root; the state of the job
//!       step-STEP        the user's part of a step's enroot configuration
//!   tokens/              0700 root
//!     KEY/               one for each user and grant; its lock is the right to ask Google
//!       token            0600 root; the access token and the last failure
//!       until            the deadline of the lock's holder
//!   metrics.prom         0644 root; guarded by the lock of RUNTIME_DIR
//!   audit.log            0600 root; only if the site configures it
//!   jobs/                0711 root
//!     JOBID/             0700 root, and an ACL entry that lets the job's user list and enter it
//!       access_token     0400 user
//!       credentials.json 0400 user
//!       handle, status   0400 root, and an ACL entry that lets the user read
//!       EMAIL/...        the same files for a further identity of the job
//!       enroot-STEP/...  a step's enroot configuration, with owner and ACL as `handle`
//! ```
//! If the file system has no ACLs, the job's directory has mode 0711 and all files in it belong to the user, who can
//! read them by name but not list them.
#![forbid(unsafe_code)]

mod kept;
mod locked;
mod room;
#[cfg(test)]
mod tests;
mod told;
mod turn;

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::FileError;
use super::held::{directory_flags, empty, lock_within, make_directory, read_file, remove, unlink};
use crate::words::google::ServiceAccountEmail;
use crate::words::names::JobId;

pub use kept::{KeptLock, KeptPlace, TryLock};
pub use locked::LockedJob;
use locked::read_parts;
pub use turn::Turn;

const RECORD: &str = "record";
/// The file name prefix of the user's part of a step's enroot configuration.
const STEP: &str = "step-";
/// The name prefix of a step's directory.
const TREE: &str = "enroot-";
/// The path components below `jobs/` are at most JOBID/EMAIL/FILE.
const DEEPEST: u32 = 3;

/// A file to publish for a job.
#[derive(Debug)]
pub struct NewFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its content.
    pub content: &'a str,
    /// Whether it belongs to the user. Otherwise it belongs to root, and the user can read it.
    pub is_users: bool,
}

/// A directory to publish as a whole. Files and links name their subdirectory; the empty name is the directory itself.
#[derive(Debug, Default)]
pub struct NewTree<'a> {
    /// Subdirectories.
    pub directories: &'a [&'a str],
    /// Files.
    pub files: Vec<(&'a str, NewFile<'a>)>,
    /// Symbolic links: subdirectory, name, target.
    pub links: Vec<(&'a str, &'a str, &'a str)>,
}

/// The directory with the files of one identity of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The job.
    pub job: JobId,
    /// The identity's subdirectory. The files of the job's first identity are in the job's directory itself.
    pub below: Option<ServiceAccountEmail>,
}

/// A job's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The user's primary group.
    pub gid: u32,
}

/// The runtime directory, held open.
#[derive(Debug)]
pub struct RuntimeDirectory {
    path: PathBuf,
    root: OwnedFd,
    jobs: OwnedFd,
    records: OwnedFd,
    tokens: OwnedFd,
    owner: u32,
    /// The processes that were killed to make room, as log lines.
    ended: RefCell<Vec<String>>,
}

type Result<T> = std::result::Result<T, FileError>;

impl RuntimeDirectory {
    /// Opens the runtime directory, and creates it if it is absent.
    ///
    /// # Errors
    /// When it cannot be created, or is not a directory that only root can change.
    pub fn open(path: &Path) -> Result<Self> {
        let owner = rustix::process::geteuid().as_raw();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent_fd = rustix::fs::open(parent, directory_flags(), Mode::empty())
            .map_err(|e| FileError::system(parent, "open it", e))?;
        let name = path.file_name().unwrap_or_default();
        let root = make_directory(&parent_fd, name, path, Some(0o711), owner)?;
        let jobs = make_directory(&root, OsStr::new("jobs"), &path.join("jobs"), Some(0o711), owner)?;
        let records = make_directory(&root, OsStr::new("records"), &path.join("records"), Some(0o700), owner)?;
        let tokens = make_directory(&root, OsStr::new("tokens"), &path.join("tokens"), Some(0o700), owner)?;
        Ok(Self { path: path.to_owned(), root, jobs, records, tokens, owner, ended: RefCell::default() })
    }

    /// Opens an existing runtime directory. Returns `None` if there is none.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn existing(path: &Path) -> Result<Option<Self>> {
        path.join("records").is_dir().then(|| Self::open(path)).transpose()
    }

    /// Returns whether the runtime directory at `path` has a record or files of a job. Does not open it.
    pub fn knows(path: &Path, job: JobId) -> bool {
        ["records", "jobs"].iter().any(|below| path.join(below).join(job.to_string()).symlink_metadata().is_ok())
    }

    /// Returns whether the runtime directory at `path` has a record or files of any job. Does not open it: the link
    /// count of a directory tells, if the file system maintains it, whether there are subdirectories.
    pub fn is_used(path: &Path) -> bool {
        let links = |below: &str| path.join(below).symlink_metadata().map_or(2, |metadata| metadata.nlink());
        ["records", "jobs"].into_iter().any(|below| links(below) != 2)
    }

    /// Returns the path of the runtime directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the runtime directory still exists.
    pub fn is_there(&self) -> bool {
        rustix::fs::fstat(&self.records).is_ok_and(|stat| stat.st_nlink > 0)
    }

    /// Returns the path of the directory with all jobs' directories.
    pub fn path_of_jobs(&self) -> PathBuf {
        self.path.join("jobs")
    }

    /// Returns the path of a job's directory.
    pub fn path_of_job(&self, job: JobId) -> PathBuf {
        self.path_of_jobs().join(job.to_string())
    }

    /// Returns the path of a place, for the job's environment.
    pub fn path_of(&self, place: &Place) -> PathBuf {
        let job = self.path_of_job(place.job);
        match &place.below {
            Some(email) => job.join(email.as_str()),
            None => job,
        }
    }

    /// Returns the path of a step's enroot configuration, for the job's environment.
    pub fn path_of_step(&self, job: JobId, step: &str) -> PathBuf {
        self.path_of_job(job).join(format!("{TREE}{step}"))
    }

    /// Returns whether a job has a record here.
    pub fn has_record(&self, job: JobId) -> bool {
        rustix::fs::statat(&self.records, &*job.to_string(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Waits for the job's lock, and creates the record's directory if it is absent. The holder must not do anything
    /// slow.
    ///
    /// # Errors
    /// When another process holds the lock for longer than `limit`, or the record's directory cannot be created.
    pub fn lock(&self, job: JobId, limit: Duration) -> Result<LockedJob<'_>> {
        let path = self.record_path(job);
        let name = job.to_string();
        lock_within(&path, limit, || {
            let made =
                self.with_room(|| make_directory(&self.records, OsStr::new(&name), &path, Some(0o700), self.owner));
            match made {
                Ok(directory) => LockedJob::new(self, job, directory),
                // An epilog, or the sweep of another job's prolog that found it empty, is removing it.
                Err(error) if error.is_absent() => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    /// Like [`Self::lock`], but returns `None` for a job without a record's directory, because that job is over.
    ///
    /// # Errors
    /// When another process holds the lock for longer than `limit`.
    pub fn lock_existing(&self, job: JobId, limit: Duration) -> Result<Option<LockedJob<'_>>> {
        let path = self.record_path(job);
        lock_within(&path, limit, || match self.record_directory(job) {
            Ok(directory) => Ok(LockedJob::new(self, job, directory)?.map(Some)),
            Err(Errno::NOENT) => Ok(Some(None)),
            Err(errno) => Err(FileError::system(&path, "open it", errno)),
        })
    }

    /// Reads a job's record without its lock. Another process can replace the record at any time, by rename.
    pub fn peek_record(&self, job: JobId) -> Option<Vec<u8>> {
        self.look_at_record(job).ok().flatten()
    }

    /// The same. Returns none for a job that has no record.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn look_at_record(&self, job: JobId) -> Result<Option<Vec<u8>>> {
        let path = self.record_path(job);
        match self.record_directory(job) {
            Ok(directory) => read_file(&directory, &path, RECORD),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(FileError::system(&path, "open it", errno)),
        }
    }

    /// Returns the users' parts of a job's steps without the job's lock.
    pub fn peek_parts(&self, job: JobId) -> Vec<(String, Vec<u8>)> {
        self.record_directory(job).map_or_else(|_| Vec::new(), |record| read_parts(&record, &self.record_path(job)))
    }

    /// Returns whether files of a place have these sizes. If not, the user has changed one, or they are not yet
    /// published. Root never reads the files back.
    pub fn have_sizes(&self, place: &Place, sizes: &[(&str, usize)]) -> bool {
        let mut below = PathBuf::from(place.job.to_string());
        below.extend(place.below.as_ref().map(ServiceAccountEmail::as_str));
        sizes.iter().all(|(name, size)| {
            rustix::fs::statat(&self.jobs, below.join(name), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| usize::try_from(stat.st_size) == Ok(*size))
        })
    }

    /// Removes a step's directory and the user's part of its configuration. Succeeds if they are absent.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_step(&self, job: JobId, step: &str) -> Result<()> {
        let (path, tree, part) = (self.path_of_job(job), format!("{TREE}{step}"), format!("{STEP}{step}"));
        let flags = directory_flags() | OFlags::NOFOLLOW;
        let removed = match rustix::fs::openat(&self.jobs, &*job.to_string(), flags, Mode::empty()) {
            Ok(parent) => remove(&parent, OsStr::new(&tree), &path.join(&tree), DEEPEST),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FileError::system(&path, "open it", errno)),
        };
        if let Ok(record) = self.record_directory(job) {
            // If this fails, the epilog removes it.
            let _ = remove(&record, OsStr::new(&part), &self.record_path(job).join(&part), 0);
        }
        removed
    }

    /// Removes a job's files. Succeeds if they are absent.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_files(&self, job: JobId) -> Result<()> {
        let path = self.path_of_job(job);
        remove(&self.jobs, OsStr::new(&job.to_string()), &path, DEEPEST)
    }

    /// Removes everything that root remembers of a job, but not the job's lock. Succeeds if it is absent.
    ///
    /// The record goes first. If the process is killed afterwards, no other process takes the job for a running one, and
    /// the next sweep removes the rest.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn forget(&self, job: JobId) -> Result<()> {
        let path = self.record_path(job);
        let error = |errno| FileError::system(&path, "remove it", errno);
        match self.record_directory(job) {
            Ok(directory) => {
                unlink(&directory, OsStr::new(RECORD)).map_err(error)?;
                empty(&directory, &path, 0)
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(error(errno)),
        }
    }

    /// Removes a job's record and everything else that root remembers of the job. Succeeds if it is absent.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove_record(&self, job: JobId) -> Result<()> {
        remove(&self.records, OsStr::new(&job.to_string()), &self.record_path(job), DEEPEST)
    }

    /// Returns all jobs that have a record or files here, sorted.
    pub fn jobs(&self) -> Vec<JobId> {
        self.look_for_jobs().unwrap_or_default()
    }

    /// Every job that has a record or files here.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look_for_jobs(&self) -> Result<Vec<JobId>> {
        let mut jobs = Vec::new();
        for (directory, name) in [(&self.jobs, "jobs"), (&self.records, "records")] {
            let failed = |errno| FileError::system(&self.path.join(name), "list it", errno);
            for entry in Dir::read_from(directory).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                jobs.extend(entry.file_name().to_str().ok().and_then(|name| name.parse().ok()).map(JobId));
            }
        }
        jobs.sort_unstable();
        jobs.dedup();
        Ok(jobs)
    }

    fn record_directory(&self, job: JobId) -> rustix::io::Result<OwnedFd> {
        rustix::fs::openat(&self.records, &*job.to_string(), directory_flags() | OFlags::NOFOLLOW, Mode::empty())
    }

    fn record_path(&self, job: JobId) -> PathBuf {
        self.path.join("records").join(job.to_string())
    }
}
