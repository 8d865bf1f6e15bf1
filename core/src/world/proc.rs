//! What the kernel tells of processes, proc(5).
#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::world::fs::{read_limited, read_system};

/// Longer than a command line or an environment can be (`_STK_LIM / 4 * 3`, 6 MiB).
const LONGEST: u64 = 8 << 20;

/// `/proc`, or a directory that a test has in its place. What cannot be read is none: the process may have ended.
#[derive(Debug, Clone)]
pub struct ProcFs {
    root: PathBuf,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self { root: "/proc".into() }
    }
}

impl ProcFs {
    /// A test's.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The processes that there are.
    pub fn pids(&self) -> Vec<u32> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// When a process started, in clock ticks after the boot.
    pub fn start(&self, pid: u32) -> Option<u64> {
        let stat = read_system(&self.of(pid, "stat"))?;
        // The name, in brackets, may hold blanks; the start is field 22 of proc_pid_stat(5), the 20th after the name.
        stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
    }

    /// The real user of a process, proc_pid_status(5).
    pub fn real_uid(&self, pid: u32) -> Option<u32> {
        let status = read_system(&self.of(pid, "status"))?;
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
    }

    /// The user whom a process's files here belong to: its effective user, or root where it guards its memory.
    pub fn owner(&self, pid: u32) -> Option<u32> {
        std::fs::metadata(self.root.join(pid.to_string())).ok().map(|metadata| metadata.uid())
    }

    /// A process's arguments, each with a zero byte at its end. A process can change them.
    pub fn command_line(&self, pid: u32) -> Option<Vec<u8>> {
        read_limited(&self.of(pid, "cmdline"), LONGEST).ok()
    }

    /// The environment that a process was started with, each variable with a zero byte at its end.
    pub fn environment(&self, pid: u32) -> Option<Vec<u8>> {
        read_limited(&self.of(pid, "environ"), LONGEST).ok()
    }

    /// The cgroups of this process, cgroups(7).
    pub fn own_cgroups(&self) -> Option<String> {
        read_system(&self.root.join("self/cgroup"))
    }

    /// The boot's own number, random(4); empty where it cannot be read.
    pub fn boot_id(&self) -> String {
        let text = read_system(&self.root.join("sys/kernel/random/boot_id")).unwrap_or_default();
        text.trim().to_owned()
    }

    fn of(&self, pid: u32, file: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_start_is_read_after_its_name() {
        let directory = crate::testing::directory();
        std::fs::create_dir(directory.join("7")).unwrap();
        let fields: Vec<String> = (4..=30).map(|n| n.to_string()).collect();
        std::fs::write(directory.join("7/stat"), format!("7 (sl) urmd) S {}", fields.join(" "))).unwrap();
        std::fs::write(directory.join("uptime"), "1.0 1.0\n").unwrap();
        let proc = ProcFs::at(&directory);
        assert_eq!((proc.pids(), proc.start(7), proc.start(8)), (vec![7], Some(22), None));
    }

    #[test]
    fn this_process_is_described_as_it_is() {
        let (proc, pid) = (ProcFs::default(), std::process::id());
        let user = rustix::process::getuid().as_raw();
        assert_eq!((proc.real_uid(pid), proc.owner(pid)), (Some(user), Some(user)));
        assert!(proc.pids().contains(&pid) && proc.start(pid) > Some(0));
        let program = std::env::args_os().next().unwrap();
        assert!(proc.command_line(pid).unwrap().starts_with(program.as_encoded_bytes()));
        assert!(proc.environment(pid).is_some() && proc.own_cgroups().is_some());
        assert_eq!(proc.boot_id().len(), 36);
    }
}
