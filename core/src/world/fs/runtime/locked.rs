//! What the holder of a job's lock does with the job's record and files.
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

/// A job whose lock is held: the exclusive right to change its record and its files. It ends when it is dropped, also
/// for processes that were forked meanwhile, or when its process dies.
///
/// Each write proves the lock first: the epilog removes the locked directory, and then the job is over.
#[derive(Debug)]
#[must_use]
pub struct LockedJob<'a> {
    runtime: &'a RuntimeDirectory,
    job: JobId,
    directory: OwnedFd,
}

impl Drop for LockedJob<'_> {
    fn drop(&mut self) {
        // A child that was forked meanwhile has the descriptor as well, so closing ours would not be enough.
        let _ = rustix::fs::flock(&self.directory, FlockOperation::Unlock);
    }
}

impl<'a> LockedJob<'a> {
    /// Takes the lock of a record's directory if it is free now, and the directory still in its place.
    pub(super) fn new(runtime: &'a RuntimeDirectory, job: JobId, directory: OwnedFd) -> Result<Option<Self>> {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(FileError::system(&runtime.record_path(job), "lock it", errno)),
        }
        let locked = Self { runtime, job, directory };
        Ok(locked.is_in_place()?.then_some(locked))
    }

    /// The runtime directory that the job is in.
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

    /// The job's record, if there is one.
    ///
    /// # Errors
    /// When it is there and cannot be read.
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

    /// Replaces the files of a place, each by rename, so that no reader ever misses one.
    ///
    /// # Errors
    /// When one cannot be written. The ones before it are in place then.
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

    /// Makes a step's enroot configuration, and keeps the user's part of it for root alone.
    ///
    /// # Errors
    /// When it cannot be written. [`RuntimeDirectory::remove_step`] removes what there is of it.
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

    /// The users' parts of the steps that have an enroot configuration, by the steps' names.
    pub fn parts(&self) -> Vec<(String, Vec<u8>)> {
        read_parts(&self.directory, &self.runtime.record_path(self.job))
    }

    /// Replaces a file of a step's enroot configuration. Does nothing for a step that has ended.
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

/// The users' parts in a record's directory, each of them whole.
pub(super) fn read_parts(record: &OwnedFd, path: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = Dir::read_from(record) else { return Vec::new() };
    let part = |name: &str| {
        let step = name.strip_prefix(STEP)?;
        Some((step.to_owned(), read_file(record, path, name).ok()??))
    };
    entries.flatten().filter_map(|entry| part(entry.file_name().to_str().ok()?)).collect()
}
