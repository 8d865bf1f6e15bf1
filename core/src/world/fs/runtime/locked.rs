//! Operations on a job's record and files that require the job's lock.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{DEEPEST, NewFile, NewTree, Owner, Place, RECORD, Result, RuntimeDirectory, STEP, TREE};
use crate::words::names::JobId;
use crate::world::fs::held::{Access, directory_flags, make_directory, read_file, remove, write_file};
use crate::world::fs::{FileError, FileProblem, acl};

/// A job's held lock: the exclusive right to change its record and files. It ends when it is dropped, also in processes
/// that were forked meanwhile, or when its process dies.
///
/// Each write first checks that the locked directory still exists. The epilog removes it, and after that nothing is
/// written for the job.
#[derive(Debug)]
#[must_use]
pub struct LockedJob<'a> {
    runtime: &'a RuntimeDirectory,
    job: JobId,
    directory: OwnedFd,
}

impl Drop for LockedJob<'_> {
    fn drop(&mut self) {
        // A child that was forked meanwhile has the descriptor too, so closing it here is not enough.
        let _ = rustix::fs::flock(&self.directory, FlockOperation::Unlock);
    }
}

impl<'a> LockedJob<'a> {
    /// Takes the lock of a record's directory. Returns `None` if another process has it, or if the directory was
    /// removed.
    pub(super) fn new(runtime: &'a RuntimeDirectory, job: JobId, directory: OwnedFd) -> Result<Option<Self>> {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(FileError::system(&runtime.record_path(job), "lock it", errno)),
        }
        let locked = Self { runtime, job, directory };
        Ok(locked.is_in_place()?.then_some(locked))
    }

    /// Returns the job's runtime directory.
    pub fn runtime(&self) -> &RuntimeDirectory {
        self.runtime
    }

    fn is_in_place(&self) -> Result<bool> {
        let path = self.runtime.record_path(self.job);
        let stat = rustix::fs::fstat(&self.directory).map_err(|e| FileError::system(&path, "examine it", e))?;
        Ok(stat.st_nlink > 0)
    }

    fn prove(&self) -> Result<()> {
        if self.is_in_place()? {
            Ok(())
        } else {
            Err(FileError::new(&self.runtime.record_path(self.job), FileProblem::Over))
        }
    }

    /// Reads the job's record, if there is one.
    ///
    /// # Errors
    /// When the record exists and cannot be read.
    pub fn read_record(&self) -> Result<Option<Vec<u8>>> {
        read_file(&self.directory, &self.runtime.record_path(self.job), RECORD)
    }

    /// Replaces the job's record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_record(&self, content: &str) -> Result<()> {
        self.write_below_record(RECORD, content)
    }

    /// Replaces the files of a place, each by rename, so that a reader always finds them.
    ///
    /// # Errors
    /// When a file cannot be written. The files before it have been replaced.
    pub fn publish(&self, place: &Place, owner: Owner, files: &[NewFile<'_>]) -> Result<()> {
        self.prove()?;
        let mut directory = self.jobs_directory(owner)?;
        let path = self.runtime.path_of(place);
        if let Some(email) = &place.below {
            directory = self.users_directory(&directory, email.as_str(), &path, owner)?;
        }
        files.iter().try_for_each(|file| {
            self.prove()?;
            let access = if file.is_users { Access::Users(owner) } else { Access::Readable(owner) };
            self.runtime.with_room(|| write_file(&directory, &path, file.name, file.content, access))
        })
    }

    /// Creates a step's enroot configuration, and stores the user's part of it next to the record, where only root can
    /// read it.
    ///
    /// # Errors
    /// When something cannot be written. [`RuntimeDirectory::remove_step`] removes an incomplete configuration.
    pub fn publish_step(&self, step: &str, owner: Owner, tree: &NewTree<'_>, part: &str) -> Result<()> {
        self.prove()?;
        let parent = self.jobs_directory(owner)?;
        let (name, path) = (format!("{TREE}{step}"), self.runtime.path_of_step(self.job, step));
        remove(&parent, OsStr::new(&name), &path, DEEPEST)?;
        self.write_below_record(&format!("{STEP}{step}"), part)?;
        let top = self.users_directory(&parent, &name, &path, owner)?;
        let mut directories = Vec::new();
        for below in tree.directories {
            directories.push((*below, self.users_directory(&top, below, &path.join(below), owner)?));
        }
        let find =
            |below: &str| directories.iter().find(|(name, _)| *name == below).map_or(&top, |(_, directory)| directory);
        for (below, file) in &tree.files {
            let access = if file.is_users { Access::Users(owner) } else { Access::Readable(owner) };
            let path = path.join(below);
            self.runtime.with_room(|| write_file(find(below), &path, file.name, file.content, access))?;
        }
        for (below, link, target) in &tree.links {
            self.runtime.with_room(|| {
                rustix::fs::symlinkat(*target, find(below), *link)
                    .map_err(|errno| FileError::system(&path.join(below).join(link), "make it", errno))
            })?;
        }
        Ok(())
    }

    /// Returns the user's part of each step that has an enroot configuration, by the step's name.
    pub fn parts(&self) -> Vec<(String, Vec<u8>)> {
        read_parts(&self.directory, &self.runtime.record_path(self.job))
    }

    /// Replaces a file in a step's enroot configuration. Does nothing if the step has ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace_in_step(&self, step: &str, owner: Owner, file: &NewFile<'_>) -> Result<()> {
        self.prove()?;
        let (path, flags) = (self.runtime.path_of_step(self.job, step), directory_flags() | OFlags::NOFOLLOW);
        let below = format!("{}/{TREE}{step}", self.job);
        match rustix::fs::openat(&self.runtime.jobs, &*below, flags, Mode::empty()) {
            Ok(tree) => {
                let access = if file.is_users { Access::Users(owner) } else { Access::Readable(owner) };
                self.runtime.with_room(|| write_file(&tree, &path, file.name, file.content, access))
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FileError::system(&path, "open it", errno)),
        }
    }

    fn write_below_record(&self, name: &str, content: &str) -> Result<()> {
        self.prove()?;
        let path = self.runtime.record_path(self.job);
        self.runtime.with_room(|| write_file(&self.directory, &path, name, content, Access::Root))
    }

    fn jobs_directory(&self, owner: Owner) -> Result<OwnedFd> {
        let path = self.runtime.path_of_job(self.job);
        self.users_directory(&self.runtime.jobs, &self.job.to_string(), &path, owner)
    }

    fn users_directory(&self, parent: &OwnedFd, name: &str, path: &Path, owner: Owner) -> Result<OwnedFd> {
        let root = self.runtime.owner;
        let directory = self.runtime.with_room(|| make_directory(parent, OsStr::new(name), path, None, root))?;
        acl::let_in(&directory, owner.uid).map_err(|e| FileError::system(path, "set its mode", e))?;
        Ok(directory)
    }
}

/// Reads the users' parts in a record's directory.
pub(super) fn read_parts(record: &OwnedFd, path: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = Dir::read_from(record) else { return Vec::new() };
    let part = |name: &str| {
        let step = name.strip_prefix(STEP)?;
        Some((step.to_owned(), read_file(record, path, name).ok()??))
    };
    entries.flatten().filter_map(|entry| part(entry.file_name().to_str().ok()?)).collect()
}
