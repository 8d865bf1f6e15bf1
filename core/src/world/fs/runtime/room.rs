//! Room for everybody: the users' own files cannot fill the runtime directory for good.
//!
//! `access_token` and `credentials.json` belong to the user, who can make them writable and let them grow. A file that
//! was replaced has no name any more, and can still grow while a process has it open. When no room is left, root empties
//! these files, ends the user's processes that go on filling them or prevent that, and tries again.
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

/// The names of the users' own files.
const NAMES: [&str; 2] = ["access_token", "credentials.json"];
/// No such file that we publish is longer.
const LONGEST: u64 = 64 << 10;
/// One that was replaced is of use only to whoever reads it at this moment; many of them take room, too.
const LONGEST_REPLACED: u64 = 4 << 10;
/// `jobs/JOBID/EMAIL/FILE`
const DEEPEST: u32 = 2;

/// How often a write is tried.
const TRIES: u32 = 3;
/// How often the files are looked at until none grows, and the pause before the next look.
const LOOKS: u32 = 7;
const PAUSE: Duration = Duration::from_millis(50);
/// From this look on whoever has a file open that still grows, or cannot be emptied, is ended: there are ways to fill it
/// that do not count as written, and leases.
const PATIENCE: u32 = 4;

/// A file that has grown, in the hands of a process that has it open.
struct Holding {
    pid: u32,
    link: PathBuf,
    inode: u64,
    owner: u32,
    /// Whether the process belongs to the file's owner. A process of root's or another user's may have been handed the
    /// file without knowing it.
    is_owners: bool,
}

impl RuntimeDirectory {
    /// Writes something. Where there is no room for it, what users have let grow is emptied first.
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

    /// Which processes were ended since the last call, and why: lines for a log.
    pub fn ended(&self) -> Vec<String> {
        self.ended.take()
    }

    /// Empties what users have let grow until nothing grows any more. Tells whether there was any.
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
                // Each is looked at, so that the next look has something to compare with.
                if watch.goes_on(holding.pid) || number >= PATIENCE {
                    guilty.insert(holding.pid, holding);
                }
            }
            if !guilty.is_empty() {
                guilty.values().for_each(|holding| self.end(&files, holding));
                // What they still write must not be taken for another's.
                std::thread::sleep(PAUSE);
            }
            files.empty();
            std::thread::sleep(PAUSE);
        }
        true
    }

    fn end(&self, files: &Files, holding: &Holding) {
        let Holding { pid, link, inode, owner, .. } = holding;
        // The process may have ended, and its number belong to another one.
        if !look(CWD, link).is_ok_and(|stat| files.device == device(&stat) && *inode == stat.stx_ino) {
            return;
        }
        let (name, file) = (ProcFs::default().name(*pid), std::fs::read_link(link).unwrap_or_default());
        let process = i32::try_from(*pid).ok().and_then(Pid::from_raw);
        if process.is_some_and(|process| rustix::process::kill_process(process, Signal::KILL).is_ok()) {
            self.ended.borrow_mut().push(format!(
                "process {pid} ({}) of uid {owner} was ended: it fills the runtime directory by {}, or keeps that from \
                 being emptied",
                clip(&name, 20),
                clip(&file.to_string_lossy(), 200)
            ));
        }
    }
}

/// What processes write, from look to look.
#[derive(Default)]
struct Watch {
    proc: ProcFs,
    /// The processes of the first look.
    first: BTreeSet<u32>,
    /// What each had written when it was seen first.
    written: BTreeMap<u32, u64>,
}

impl Watch {
    fn goes_on(&mut self, pid: u32) -> bool {
        if self.first.is_empty() {
            self.first.extend(self.proc.pids());
        }
        let written = self.proc.written(pid).unwrap_or(0);
        // A new process has written all of it since.
        let begun = *self.written.entry(pid).or_insert(if self.first.contains(&pid) { written } else { 0 });
        written.saturating_sub(begun) > LONGEST
    }
}

/// The users' own files that have grown.
struct Files {
    device: (u32, u32),
    /// Those in their places, by their inodes.
    named: BTreeMap<u64, OwnedFd>,
    /// Those that somebody has open.
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
                // Not opened: a lease of the user's would hold us up.
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

    /// Empties all that can be.
    fn empty(&self) {
        for file in self.named.values() {
            // A lease, or a program that runs from it, is in the way until its process is ended.
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
        // Between a look and the next the link may have come to lead elsewhere.
        if self.is_grown_one(&link_to(&file), &look(&file, "")?) { empty(&file) } else { Err(Errno::BADF) }
    }
}

/// Looks at a file without asking its file system, which may be a user's own and not answer.
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

/// A path of what is open without being opened.
fn link_to(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Empties a file that is open without being opened.
fn empty(file: &OwnedFd) -> rustix::io::Result<()> {
    // A lease would make us wait without NONBLOCK.
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::ftruncate(rustix::fs::open(link_to(file), flags, Mode::empty())?, 0)
}

#[cfg(test)]
mod tests;
