//! Room for everybody: the users' own files cannot fill the runtime directory for good.
//!
//! `access_token` and `credentials.json` belong to the user, who can make them writable and let them grow. When that
//! leaves no room, root ends the processes that have such a file open, empties it, and tries again.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::process::{Pid, Signal};

use super::{Result, RuntimeDirectory};
use crate::world::fs::held::directory_flags;

/// No file that we publish for a user is longer.
const LONGEST: i64 = 64 << 10;
/// `jobs/JOBID/EMAIL/FILE`
const DEEPEST: u32 = 2;
/// The first try or the next ends every process that goes on filling. More would only delay the hook.
const TRIES: u32 = 5;

impl RuntimeDirectory {
    /// Writes something. If there is no room for it, empties the files that users have let grow and tries again.
    pub(super) fn with_room<T>(&self, write: impl Fn() -> Result<T>) -> Result<T> {
        let mut result = write();
        for _ in 0..TRIES {
            match &result {
                Err(error) if error.is_full() => {}
                _ => break,
            }
            let mut grown = Vec::new();
            find_grown(&self.jobs, DEEPEST, &mut grown);
            end_writers(&self.jobs);
            for (directory, name) in grown {
                cut_off(&directory, &name);
            }
            result = write();
        }
        result
    }
}

/// Finds each file below a directory that is longer than any of ours.
fn find_grown(directory: &OwnedFd, depth: u32, grown: &mut Vec<(OwnedFd, std::ffi::CString)>) {
    let Ok(entries) = Dir::read_from(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let Ok(stat) = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        if is_grown(&stat) {
            grown.extend(directory.try_clone().ok().map(|directory| (directory, name.to_owned())));
        } else if depth > 0 && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = directory_flags() | OFlags::NOFOLLOW;
            if let Ok(below) = rustix::fs::openat(directory, name, flags, Mode::empty()) {
                find_grown(&below, depth - 1, grown);
            }
        }
    }
}

fn is_grown(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_uid != 0 && stat.st_size > LONGEST
}

/// Empties a file. The next look at its size finds that it must be published again.
fn cut_off(directory: &OwnedFd, name: &CStr) {
    // Without NONBLOCK, a lease of the user's would make us wait.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let emptied =
        rustix::fs::openat(directory, name, flags, Mode::empty()).and_then(|file| rustix::fs::ftruncate(&file, 0));
    if emptied.is_err() {
        // If this fails as well, there is no room, and the write says so.
        let _ = rustix::fs::unlinkat(directory, name, AtFlags::empty());
    }
}

/// Ends the processes that have a file of such a size open on this file system that is, or was, one of ours. A file
/// that was replaced has no name any more, and can still grow while a process has it open.
fn end_writers(jobs: &OwnedFd) {
    let Ok(device) = rustix::fs::fstat(jobs).map(|stat| stat.st_dev) else { return };
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = process.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        let Some(pid) = pid.filter(|pid| *pid != rustix::process::getpid()) else { continue };
        let descriptors = std::fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if descriptors.map(|entry| entry.path()).any(|path| is_ours_and_grown(&path, device)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

fn is_ours_and_grown(descriptor: &Path, device: u64) -> bool {
    let is_named = std::fs::read_link(descriptor).is_ok_and(|target| {
        let target = target.to_string_lossy();
        let mut parts = target.strip_suffix(" (deleted)").unwrap_or(&target).rsplit('/');
        let is_published = parts.next().is_some_and(|name| ["access_token", "credentials.json"].contains(&name));
        // Its directory is a job's or an identity's.
        is_published && parts.next().is_some_and(|name| name.parse::<u32>().is_ok() || name.contains('@'))
    });
    is_named && rustix::fs::stat(descriptor).is_ok_and(|stat| stat.st_dev == device && is_grown(&stat))
}
