//! Information about processes from `/proc`, proc(5).
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories below `/proc/PID` with a link to each file that the process has open or mapped.
const OPEN: [&str; 2] = ["fd", "map_files"];

/// `/proc`, or a directory that a test uses in its place. Methods return `None` or nothing if a file cannot be read,
/// because the process may have ended.
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
    /// Uses another directory than `/proc`, for tests.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns the IDs of all processes.
    pub fn pids(&self) -> Vec<u32> {
        let entries = std::fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// Returns the start time of a process, in clock ticks since boot.
    pub fn start(&self, pid: u32) -> Option<u64> {
        let stat = self.text(pid, "stat")?;
        // The name, in parentheses, can contain blanks. The start time is field 22 of proc_pid_stat(5), the 20th after
        // the name.
        stat.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
    }

    /// Returns the parent of a process: the process that started it, or the one that adopted it.
    pub fn parent(&self, pid: u32) -> Option<u32> {
        self.text(pid, "stat")?.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    }

    /// Returns the program that a process runs. The path ends in ` (deleted)` if the file was removed or replaced.
    pub fn program(&self, pid: u32) -> Option<PathBuf> {
        std::fs::read_link(self.of(pid, "exe")).ok()
    }

    /// Returns a path that runs the program of a process, even after the file was removed.
    pub fn path_of_program(&self, pid: u32) -> PathBuf {
        self.of(pid, "exe")
    }

    /// Returns the files that a process has mapped, proc_pid_maps(5). The paths of removed files end in ` (deleted)`.
    pub fn mapped_files(&self, pid: u32) -> Option<BTreeSet<PathBuf>> {
        let maps = self.text(pid, "maps")?;
        let files = maps.lines().filter_map(|line| line.find('/').and_then(|start| line.get(start..)));
        Some(files.map(PathBuf::from).collect())
    }

    /// Returns the identifier of a process's mount namespace, namespaces(7).
    pub fn mount_namespace(&self, pid: u32) -> Option<PathBuf> {
        std::fs::read_link(self.of(pid, "ns/mnt")).ok()
    }

    /// Returns the mounts that this process sees, proc_pid_mountinfo(5).
    pub fn own_mounts(&self) -> String {
        std::fs::read_to_string(self.root.join("self/mountinfo")).unwrap_or_default()
    }

    /// Returns the real user of a process, proc_pid_status(5). A setuid program does not change it.
    pub fn real_uid(&self, pid: u32) -> Option<u32> {
        let status = self.text(pid, "status")?;
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())
    }

    /// Returns the owner of a process's files in `/proc`: its effective user, or root if the process is not dumpable.
    pub fn owner(&self, pid: u32) -> Option<u32> {
        std::fs::metadata(self.root.join(pid.to_string())).ok().map(|metadata| metadata.uid())
    }

    /// Returns the arguments of a process, each terminated by a zero byte. The process can change them.
    pub fn command_line(&self, pid: u32) -> Option<Vec<u8>> {
        std::fs::read(self.of(pid, "cmdline")).ok()
    }

    /// Returns the initial environment of a process, each variable terminated by a zero byte.
    pub fn environment(&self, pid: u32) -> Option<Vec<u8>> {
        std::fs::read(self.of(pid, "environ")).ok()
    }

    /// Returns the cgroups of this process, cgroups(7).
    pub fn own_cgroups(&self) -> Option<String> {
        std::fs::read_to_string(self.root.join("self/cgroup")).ok()
    }

    /// Returns the ID of this boot, random(4), or an empty string if it cannot be read.
    pub fn boot_id(&self) -> String {
        let text = std::fs::read_to_string(self.root.join("sys/kernel/random/boot_id")).unwrap_or_default();
        text.trim().to_owned()
    }

    /// Returns the name of a process, proc_pid_comm(5). The process can change it.
    pub fn name(&self, pid: u32) -> String {
        let name = std::fs::read(self.of(pid, "comm")).unwrap_or_default();
        String::from_utf8_lossy(&name).trim_end().to_owned()
    }

    /// Returns the number of bytes that a process and its reaped children have written, proc_pid_io(5).
    pub fn written(&self, pid: u32) -> Option<u64> {
        self.text(pid, "io")?.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok())
    }

    /// Returns the links to open or mapped files that have one of these names. Reads only the links, not the files,
    /// because their file systems may not respond.
    pub fn open_files(&self, pid: u32, names: &[&str]) -> Vec<PathBuf> {
        let directories = OPEN.iter().map(|below| std::fs::read_dir(self.of(pid, below)));
        let links = directories.flatten().flatten().flatten().map(|entry| entry.path());
        let is_named = |link: &PathBuf| {
            let target = std::fs::read_link(link).unwrap_or_default();
            let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            names.contains(&name.strip_suffix(" (deleted)").unwrap_or(name))
        };
        links.filter(is_named).collect()
    }

    fn text(&self, pid: u32, file: &str) -> Option<String> {
        std::fs::read_to_string(self.of(pid, file)).ok()
    }

    fn of(&self, pid: u32, file: &str) -> PathBuf {
        self.root.join(pid.to_string()).join(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_name_with_blanks_and_parentheses() {
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
        let own = std::env::current_exe().unwrap();
        assert_eq!(proc.program(pid).as_ref(), Some(&own));
        assert!(proc.mapped_files(pid).unwrap().contains(&own) && proc.own_mounts().contains(" / "));
        assert!(proc.parent(pid) > Some(0) && proc.mount_namespace(pid).is_some());
        assert_eq!(proc.boot_id().len(), 36);
        assert!(proc.written(pid).is_some() && !proc.name(pid).is_empty());
    }

    #[test]
    fn open_files_are_found_by_name_even_after_their_removal() {
        let (directory, proc, pid) = (crate::testing::directory(), ProcFs::default(), std::process::id());
        let files = ["a-name", "another"].map(|name| std::fs::File::create(directory.join(name)).unwrap());
        let told = || proc.open_files(pid, &["a-name", "none"]);
        let link = PathBuf::from(format!("/proc/{pid}/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&files[0])));
        assert_eq!(told(), std::slice::from_ref(&link));
        std::fs::remove_file(directory.join("a-name")).unwrap();
        assert_eq!(told(), [link]);
    }
}
