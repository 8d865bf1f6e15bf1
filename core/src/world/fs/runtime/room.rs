//! Prevents users' files from filling the runtime directory.
//!
//! `access_token` and `credentials.json` belong to the user, who can make them writable and let them grow. A replaced
//! file no longer has a name, but it can grow while a process has it open. When a write fails for lack of space, root
//! truncates these files, kills processes of their owners that keep filling them or prevent truncation, and writes
//! again.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::{Result, RuntimeDirectory};
use crate::words::names::clip;
use crate::world::fs::held::directory_flags;
use crate::world::fs::mark::is_marked;
use crate::world::proc::ProcFs;

/// The names of the files that belong to users.
const NAMES: [&str; 2] = ["access_token", "credentials.json"];
/// A file in its place counts as grown above this size, in bytes. No published file is longer.
const LONGEST: u64 = 64 << 10;
/// A replaced file counts as grown above this size, in bytes. It is smaller because only current readers need the file,
/// and many of them take space too.
const LONGEST_REPLACED: u64 = 4 << 10;
/// `jobs/JOBID/EMAIL/FILE`
const DEEPEST: u32 = 2;

/// The number of attempts to write.
const TRIES: u32 = 3;
/// The number of rounds until no file grows any more, and the pause between rounds.
const LOOKS: u32 = 7;
const PAUSE: Duration = Duration::from_millis(50);
/// From this round on, each owner's process that has a grown file open is killed. Some ways to fill a file, such as
/// fallocate(2), do not count as written, and a lease prevents truncation.
const PATIENCE: u32 = 4;

/// A grown file that a process has open.
struct Holding {
    pid: u32,
    link: PathBuf,
    inode: u64,
    owner: u32,
    /// Whether the process belongs to the file's owner. Another user's process may have inherited the descriptor
    /// without knowing it.
    is_owners: bool,
}

impl RuntimeDirectory {
    /// Calls `write`. If it fails for lack of space, truncates grown files and calls it again.
    pub(super) fn with_room<T>(&self, write: impl Fn() -> Result<T>) -> Result<T> {
        let mut result = write();
        for _ in 1..TRIES {
            match &result {
                Err(error) if error.is_full() && self.make_room() => result = write(),
                _ => break,
            }
        }
        result
    }

    /// Returns and clears the log lines about killed processes.
    pub fn ended(&self) -> Vec<String> {
        self.ended.take()
    }

    /// Truncates grown files until none grows any more. Returns whether there were any.
    fn make_room(&self) -> bool {
        let mut watch = Watch::default();
        for number in 0..LOOKS {
            let Ok(files) = Files::find(&self.jobs) else { return false };
            if files.are_none() {
                return number > 0;
            }
            let owners = files.held.iter().filter(|holding| holding.is_owners);
            let mut guilty = BTreeMap::new();
            for holding in owners {
                // Call `goes_on` for each process, so that the next round has a value to compare with.
                if watch.goes_on(holding.pid) || number >= PATIENCE {
                    guilty.insert(holding.pid, holding);
                }
            }
            if !guilty.is_empty() {
                guilty.values().for_each(|holding| self.end(&files, holding));
                // Their last writes must not count against other processes.
                std::thread::sleep(PAUSE);
            }
            files.empty();
            std::thread::sleep(PAUSE);
        }
        true
    }

    fn end(&self, files: &Files, holding: &Holding) {
        let Holding { pid, link, inode, owner, .. } = holding;
        // The process can have ended, and its ID can have been reused.
        if !look(CWD, link).is_ok_and(|stat| files.device == device(&stat) && *inode == stat.stx_ino) {
            return;
        }
        let (name, file) = (ProcFs::default().name(*pid), std::fs::read_link(link).unwrap_or_default());
        let process = i32::try_from(*pid).ok().and_then(Pid::from_raw);
        if process.is_some_and(|process| rustix::process::kill_process(process, Signal::KILL).is_ok()) {
            let line = format!(
                "process {pid} ({}) of uid {owner} was killed: it fills the runtime directory with {}, or prevents \
                 its truncation",
                clip(&name, 20),
                clip(&file.to_string_lossy(), 200)
            );
            // On a busy node it can take more than a round to end.
            let mut ended = self.ended.borrow_mut();
            if !ended.contains(&line) {
                ended.push(line);
            }
        }
    }
}

/// The bytes that processes have written, compared between rounds.
#[derive(Default)]
struct Watch {
    proc: ProcFs,
    /// The processes of the first round.
    first: BTreeSet<u32>,
    /// The bytes that each process had written when it was first seen.
    written: BTreeMap<u32, u64>,
}

impl Watch {
    fn goes_on(&mut self, pid: u32) -> bool {
        if self.first.is_empty() {
            self.first.extend(self.proc.pids());
        }
        let written = self.proc.written(pid).unwrap_or(0);
        // A process that is new since the first round has written all its bytes since.
        let begun = *self.written.entry(pid).or_insert(if self.first.contains(&pid) { written } else { 0 });
        written.saturating_sub(begun) > LONGEST
    }
}

/// The files of users that have grown.
struct Files {
    device: (u32, u32),
    /// The files in their places, by inode.
    named: BTreeMap<u64, OwnedFd>,
    /// The files that processes have open.
    held: Vec<Holding>,
}

impl Files {
    fn find(jobs: &OwnedFd) -> rustix::io::Result<Self> {
        let mut files = Self { device: device(&look(jobs, "")?), named: BTreeMap::new(), held: Vec::new() };
        files.find_named(jobs, DEEPEST);
        files.find_held();
        Ok(files)
    }

    fn find_named(&mut self, directory: &OwnedFd, depth: u32) {
        let Ok(entries) = Dir::read_from(directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
            if NAMES.iter().any(|ours| ours.as_bytes() == name.to_bytes()) {
                // Use O_PATH, because a user's lease would block a real open.
                let Ok(file) = rustix::fs::openat(directory, name, flags | OFlags::PATH, Mode::empty()) else {
                    continue;
                };
                let Ok(stat) = look(&file, "") else { continue };
                if has_grown(&stat) {
                    self.named.insert(stat.stx_ino, file);
                }
            } else if depth > 0 && ![c".", c".."].contains(&name) {
                let below = rustix::fs::openat(directory, name, flags | directory_flags(), Mode::empty());
                below.iter().for_each(|below| self.find_named(below, depth - 1));
            }
        }
    }

    fn find_held(&mut self) {
        let proc = ProcFs::default();
        for pid in proc.pids().into_iter().filter(|pid| *pid != std::process::id()) {
            for link in proc.open_files(pid, &NAMES) {
                let Ok(stat) = look(CWD, &link) else { continue };
                if self.is_grown_one(&link, &stat) {
                    let (inode, owner) = (stat.stx_ino, stat.stx_uid);
                    let is_owners = proc.real_uid(pid) == Some(owner);
                    self.held.push(Holding { pid, link, inode, owner, is_owners });
                }
            }
        }
    }

    fn is_grown_one(&self, link: &Path, stat: &Statx) -> bool {
        let is_published = || self.named.contains_key(&stat.stx_ino) || is_marked(link);
        device(stat) == self.device && has_grown(stat) && is_published()
    }

    fn are_none(&self) -> bool {
        self.named.is_empty() && self.held.is_empty()
    }

    /// Truncates all files that can be truncated.
    fn empty(&self) {
        for file in self.named.values() {
            // A lease, or a program that runs from the file, prevents this until its process is killed.
            let _ = empty(file);
        }
        let mut emptied = BTreeSet::new();
        for holding in &self.held {
            if !self.named.contains_key(&holding.inode) && !emptied.contains(&holding.inode) {
                emptied.extend(self.empty_held(&holding.link).map(|()| holding.inode));
            }
        }
    }

    fn empty_held(&self, link: &Path) -> rustix::io::Result<()> {
        let file = rustix::fs::open(link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // The link can lead to another file since it was found.
        if self.is_grown_one(&link_to(&file), &look(&file, "")?) { empty(&file) } else { Err(Errno::BADF) }
    }
}

/// Calls statx(2) without synchronizing with the file system, because a user's FUSE file system may not respond.
fn look(at: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    rustix::fs::statx(at, path, flags, StatxFlags::BASIC_STATS)
}

fn device(stat: &Statx) -> (u32, u32) {
    (stat.stx_dev_major, stat.stx_dev_minor)
}

fn has_grown(stat: &Statx) -> bool {
    let longest = if stat.stx_nlink == 0 { LONGEST_REPLACED } else { LONGEST };
    let is_file = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
    is_file && stat.stx_uid != 0 && stat.stx_size > longest
}

/// Returns a path that reopens an O_PATH descriptor.
fn link_to(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Truncates the file of an O_PATH descriptor.
fn empty(file: &OwnedFd) -> rustix::io::Result<()> {
    // Without NONBLOCK, the open waits for the holder of a lease.
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::ftruncate(rustix::fs::open(link_to(file), flags, Mode::empty())?, 0)
}

#[cfg(test)]
mod tests;
