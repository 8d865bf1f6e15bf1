//! The runtime directory: what root alone knows of each job (`records/`), and what each job's user may read
//! (`jobs/`).
//!
//! ```text
//! RUNTIME_DIR/          0711 root
//!   records/            0700 root; the lock for what jobs may not share
//!     JOBID/record      0600 root; the directory itself is the job's lock
//!   jobs/               0711 root
//!     JOBID/            0700 root, and an ACL entry that lets the job's user in, read-only
//!       access_token    0400 user
//!       EMAIL/...       the same for a further identity of the same job
//!       enroot-STEP/... a step's enroot configuration
//! ```
//! Where the file system has no ACLs, the job's directory is 0711: its user can read his files by name, and
//! nobody can list them.
#![forbid(unsafe_code)]

mod turn;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::held::{directory_flags, make_directory, read_file, remove, write_file};
use super::{FileError, FileProblem, acl};
use crate::words::names::{JobId, ServiceAccountEmail};

const RECORD: &str = "record";
/// enroot's netrc file in a step's directory.
const PULL_CREDENTIALS: &str = ".credentials";
/// The path components below `jobs/` are at most JOBID/EMAIL/FILE.
const DEEPEST: u32 = 3;

/// A file to publish for a job.
#[derive(Debug)]
pub struct NewFile<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its content.
    pub content: &'a str,
}

/// A directory to publish whole: what is in it by subdirectory, the empty one being the directory itself.
#[derive(Debug, Default)]
pub struct NewTree<'a> {
    /// Subdirectories.
    pub directories: &'a [&'a str],
    /// Files.
    pub files: Vec<(&'a str, NewFile<'a>)>,
    /// Symbolic links: subdirectory, name, target.
    pub links: Vec<(&'a str, &'a str, &'a str)>,
}

/// Where the files of one identity of a job are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The job.
    pub job: JobId,
    /// The identity's own directory; the job's first identity has none and lies in the job's directory itself.
    pub below: Option<ServiceAccountEmail>,
}

/// The runtime directory, held open.
#[derive(Debug)]
pub struct RuntimeDirectory {
    path: PathBuf,
    jobs: OwnedFd,
    records: OwnedFd,
    owner: u32,
}

/// The exclusive right to work on a job's record and files; ends when it is dropped or its process dies.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    directory: OwnedFd,
}

type Result<T> = std::result::Result<T, FileError>;

impl RuntimeDirectory {
    /// Opens the runtime directory, making it where it is absent.
    ///
    /// # Errors
    /// When it cannot be made, or is not a directory that only root can change.
    pub fn open(path: &Path) -> Result<Self> {
        let owner = rustix::process::geteuid().as_raw();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let parent_fd = rustix::fs::open(parent, directory_flags(), Mode::empty())
            .map_err(|e| FileError::system(parent, "open it", e))?;
        let name = path.file_name().unwrap_or_default();
        let root = make_directory(&parent_fd, name, path, Some(0o711), owner)?;
        let jobs = make_directory(&root, OsStr::new("jobs"), &path.join("jobs"), Some(0o711), owner)?;
        let records = make_directory(&root, OsStr::new("records"), &path.join("records"), Some(0o700), owner)?;
        Ok(Self { path: path.to_owned(), jobs, records, owner })
    }

    /// The path of a job's directory.
    pub fn path_of_job(&self, job: JobId) -> PathBuf {
        self.path.join("jobs").join(job.to_string())
    }

    /// The path of a place, for the job's environment.
    pub fn path_of(&self, place: &Place) -> PathBuf {
        let job = self.path_of_job(place.job);
        match &place.below {
            Some(email) => job.join(email.as_str()),
            None => job,
        }
    }

    /// Waits for the exclusive right to work on a job.
    ///
    /// # Errors
    /// When another process keeps it for longer than `limit`, or the record's directory cannot be made.
    pub fn lock(&self, job: JobId, limit: Duration) -> Result<Lock> {
        let path = self.record_path(job);
        let name = job.to_string();
        let end = Instant::now() + limit;
        loop {
            // An epilog, or the prolog of another job that found it empty, may remove the directory at any moment until
            // it is locked: then there is none, or the lock is worth nothing.
            match make_directory(&self.records, OsStr::new(&name), &path, Some(0o700), self.owner) {
                Ok(directory) => match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => {
                        let stat =
                            rustix::fs::fstat(&directory).map_err(|e| FileError::system(&path, "examine it", e))?;
                        if stat.st_nlink > 0 {
                            return Ok(Lock { directory });
                        }
                    }
                    Err(Errno::WOULDBLOCK) => {}
                    Err(errno) => return Err(FileError::system(&path, "lock it", errno)),
                },
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= end {
                return Err(FileError::new(&path, FileProblem::Locked));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The record of a locked job, if there is one.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn read_record(&self, job: JobId, lock: &Lock) -> Result<Option<Vec<u8>>> {
        read_file(&lock.directory, &self.record_path(job), RECORD)
    }

    /// The record of a job that another process works on: it may be replaced at any time, but is always whole.
    pub fn peek_record(&self, job: JobId) -> Option<Vec<u8>> {
        let name = job.to_string();
        let flags = directory_flags() | OFlags::NOFOLLOW;
        let directory = rustix::fs::openat(&self.records, &*name, flags, Mode::empty()).ok()?;
        read_file(&directory, &self.record_path(job), RECORD).ok().flatten()
    }

    /// Replaces the record of a locked job.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_record(&self, job: JobId, lock: &Lock, content: &str) -> Result<()> {
        let file = NewFile { name: RECORD, content };
        write_file(&lock.directory, &self.record_path(job), &file, 0o600, None)
    }

    /// Replaces the files of a place, each by rename, so that no reader ever misses one.
    ///
    /// # Errors
    /// When one cannot be written; the ones before it are in place then.
    pub fn publish(&self, place: &Place, uid: u32, gid: u32, files: &[NewFile<'_>], _lock: &Lock) -> Result<()> {
        let path = self.path_of_job(place.job);
        let mut directory = self.users_directory(&self.jobs, &place.job.to_string(), &path, uid)?;
        let path = self.path_of(place);
        if let Some(email) = &place.below {
            directory = self.users_directory(&directory, email.as_str(), &path, uid)?;
        }
        files.iter().try_for_each(|file| write_file(&directory, &path, file, 0o400, Some((uid, gid))))
    }

    /// Makes a directory of a step's in its job's directory.
    ///
    /// # Errors
    /// When it cannot be written; what there is of it then goes with [`RuntimeDirectory::remove_tree`].
    pub fn publish_tree(
        &self,
        job: JobId,
        name: &str,
        uid: u32,
        gid: u32,
        tree: &NewTree<'_>,
        _lock: &Lock,
    ) -> Result<()> {
        let path = self.path_of_job(job);
        let parent = self.users_directory(&self.jobs, &job.to_string(), &path, uid)?;
        let path = path.join(name);
        remove(&parent, OsStr::new(name), &path, DEEPEST)?;
        let top = self.users_directory(&parent, name, &path, uid)?;
        let mut directories = Vec::new();
        for below in tree.directories {
            directories.push((*below, self.users_directory(&top, below, &path.join(below), uid)?));
        }
        let find =
            |below: &str| directories.iter().find(|(name, _)| *name == below).map_or(&top, |(_, directory)| directory);
        for (below, file) in &tree.files {
            write_file(find(below), &path.join(below), file, 0o400, Some((uid, gid)))?;
        }
        for (below, link, target) in &tree.links {
            rustix::fs::symlinkat(*target, find(below), *link)
                .map_err(|errno| FileError::system(&path.join(below).join(link), "make it", errno))?;
        }
        Ok(())
    }

    /// The path of a step's directory, for the job's environment.
    pub fn path_of_tree(&self, job: JobId, name: &str) -> PathBuf {
        self.path_of_job(job).join(name)
    }

    /// Puts a new token in the place of an old one in the pull credentials of every step of a job.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn replace_in_trees(&self, job: JobId, uid: u32, gid: u32, old: &str, new: &str, _lock: &Lock) -> Result<()> {
        let path = self.path_of_job(job);
        let flags = directory_flags() | OFlags::NOFOLLOW;
        let error = |errno| FileError::system(&path, "open it", errno);
        let directory = rustix::fs::openat(&self.jobs, &*job.to_string(), flags, Mode::empty()).map_err(error)?;
        for entry in Dir::read_from(&directory).map_err(error)?.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Ok(tree) = rustix::fs::openat(&directory, name, flags, Mode::empty()) else { continue };
            let Some(text) = read_file(&tree, &path.join(name), PULL_CREDENTIALS)? else { continue };
            let text = zeroize::Zeroizing::new(String::from_utf8_lossy(&text).into_owned());
            if text.contains(old) {
                let text = zeroize::Zeroizing::new(text.replace(old, new));
                let file = NewFile { name: PULL_CREDENTIALS, content: &text };
                write_file(&tree, &path.join(name), &file, 0o400, Some((uid, gid)))?;
            }
        }
        Ok(())
    }

    /// Removes a step's directory. What is not there is no error.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn remove_tree(&self, job: JobId, name: &str) -> Result<()> {
        let path = self.path_of_job(job);
        let flags = directory_flags() | OFlags::NOFOLLOW;
        match rustix::fs::openat(&self.jobs, &*job.to_string(), flags, Mode::empty()) {
            Ok(parent) => remove(&parent, OsStr::new(name), &path.join(name), DEEPEST),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(FileError::system(&path, "open it", errno)),
        }
    }

    /// Removes a job's files. What is not there is no error.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn remove_files(&self, job: JobId) -> Result<()> {
        let path = self.path_of_job(job);
        remove(&self.jobs, OsStr::new(&job.to_string()), &path, DEEPEST)
    }

    /// Removes a job's record, the last that is known of it. What is not there is no error.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn remove_record(&self, job: JobId) -> Result<()> {
        remove(&self.records, OsStr::new(&job.to_string()), &self.record_path(job), DEEPEST)
    }

    /// Every job that has a record or files here.
    pub fn jobs(&self) -> Vec<JobId> {
        let mut jobs: Vec<JobId> = [&self.jobs, &self.records]
            .into_iter()
            .filter_map(|directory| Dir::read_from(directory).ok())
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok().map(JobId))
            .collect();
        jobs.sort_unstable();
        jobs.dedup();
        jobs
    }

    fn users_directory(&self, parent: &OwnedFd, name: &str, path: &Path, uid: u32) -> Result<OwnedFd> {
        let directory = make_directory(parent, OsStr::new(name), path, None, self.owner)?;
        acl::let_in(&directory, uid).map_err(|e| FileError::system(path, "set its mode", e))?;
        Ok(directory)
    }

    fn record_path(&self, job: JobId) -> PathBuf {
        self.path.join("records").join(job.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const JOB: JobId = JobId(42);

    fn place() -> Place {
        Place { job: JOB, below: None }
    }

    fn opened() -> (crate::testing::Directory, RuntimeDirectory) {
        let directory = crate::testing::directory();
        let runtime = RuntimeDirectory::open(&directory.join("run")).unwrap();
        (directory, runtime)
    }

    #[test]
    fn files_are_the_users_and_the_directories_are_roots() {
        let (_directory, runtime) = opened();
        let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
        let files = [NewFile { name: "access_token", content: "one" }];
        runtime.publish(&place(), 61001, 61002, &files, &lock).unwrap();
        let path = runtime.path_of(&place());
        let file = std::fs::metadata(path.join("access_token")).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (61001, 61002, 0o400));
        let job = std::fs::metadata(&path).unwrap();
        assert_eq!((job.uid(), job.mode() & 0o7007), (0, 0o000), "others can enter");
        assert_eq!(std::fs::metadata(runtime.path.join("records")).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "a temporary file was left");
    }

    #[test]
    fn a_job_is_removed_whole_and_nothing_else() {
        let (directory, runtime) = opened();
        let outside = directory.join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("file"), "").unwrap();
        let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
        let email = ServiceAccountEmail::parse("a@p.iam.gserviceaccount.com").unwrap();
        let files = [NewFile { name: "access_token", content: "one" }];
        runtime.publish(&place(), 0, 0, &files, &lock).unwrap();
        runtime.publish(&Place { job: JOB, below: Some(email) }, 0, 0, &files, &lock).unwrap();
        runtime.publish(&Place { job: JobId(43), below: None }, 0, 0, &files, &lock).unwrap();
        symlink(&outside, runtime.path_of(&place()).join("link")).unwrap();
        runtime.write_record(JOB, &lock, "{}").unwrap();
        assert_eq!(runtime.jobs(), [JOB, JobId(43)]);
        runtime.remove_files(JOB).unwrap();
        runtime.remove_record(JOB).unwrap();
        runtime.remove_record(JOB).unwrap();
        assert_eq!(runtime.jobs(), [JobId(43)]);
        assert!(outside.join("file").exists());
    }

    #[test]
    fn one_process_at_a_time_works_on_a_job() {
        let (_directory, runtime) = opened();
        let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
        assert_eq!(runtime.lock(JOB, Duration::from_millis(30)).unwrap_err().problem, FileProblem::Locked);
        drop(lock);
        let lock = runtime.lock(JOB, Duration::ZERO).unwrap();
        runtime.remove_record(JOB).unwrap();
        let after = runtime.lock(JOB, Duration::ZERO).unwrap();
        assert!(runtime.read_record(JOB, &after).unwrap().is_none());
        drop(lock);
    }

    #[test]
    fn a_hostile_directory_is_refused() {
        let directory = crate::testing::directory();
        let path = directory.join("run");
        symlink("/tmp", &path).unwrap();
        assert!(RuntimeDirectory::open(&path).is_err(), "a link was followed");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(61001), None).unwrap();
        assert_eq!(RuntimeDirectory::open(&path).unwrap_err().problem, FileProblem::OwnedBy(61001));
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(RuntimeDirectory::open(&path).unwrap_err().problem, FileProblem::Writable(0o777));
    }
}
