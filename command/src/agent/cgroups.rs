//! Moves the agent out of a job's cgroup. An agent that a step has started is in the job's cgroup, which would count
//! its memory, freeze it with the job, and exist as long as the agent.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use gcp_wif_core::world::fs::{FileError, read_limited, write_system};

/// The size limit of the files, in bytes, with room for the mounts of many containers.
const LONGEST: u64 = 64 << 20;

/// Joins the cgroups of another process in all hierarchies. Returns the first error.
pub(super) fn join(process: u32) -> Result<(), String> {
    let refused = |error: FileError| error.to_string();
    let read = |path: &str| {
        read_limited(Path::new(path), LONGEST).map(|text| String::from_utf8_lossy(&text).into_owned()).map_err(refused)
    };
    let (mounts, ours) = (read("/proc/self/mountinfo")?, read("/proc/self/cgroup")?);
    let theirs = read(&format!("/proc/{process}/cgroup"))?;
    let mut result = Ok(());
    for line in theirs.lines().filter(|line| !ours.lines().any(|own| own == *line)) {
        let Some(directory) = directory(&mounts, line) else {
            result = result.and(Err(format!("{line}: it is not mounted")));
            continue;
        };
        let file = directory.join("cgroup.procs");
        // 0 stands for the writing process.
        result = result.and(write_system(&file, "0\n").map_err(refused));
    }
    result
}

/// Returns the directory of a cgroup from its line in `/proc/PID/cgroup`, `HIERARCHY:CONTROLLERS:PATH` (cgroups(7)). In
/// version 2, the line has no controllers.
fn directory(mountinfo: &str, line: &str) -> Option<PathBuf> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    mountinfo.lines().find_map(|mount| {
        // proc_pid_mountinfo(5): ID, parent, device, root, mount point, options, ..., a dash, type, source, options.
        let (before, after) = mount.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, place) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, options) = (after.next()?, after.nth(1)?);
        let is_it = if controllers.is_empty() {
            kind == "cgroup2"
        } else {
            kind == "cgroup" && controllers.split(',').all(|wanted| options.split(',').any(|option| option == wanted))
        };
        let below = Path::new(path).strip_prefix(root).ok().filter(|_| is_it)?;
        Some(Path::new(place).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_found_in_all_hierarchies() {
        let mounts = "25 1 0:1 / / rw - ext4 /dev/vda rw\n\
            30 25 0:2 / /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n\
            31 25 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            32 25 0:4 /pod /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n\
            33 25 0:5 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,name=systemd\n";
        for (line, expected) in [
            ("0::/system.slice/slurmd.service", Some("/sys/fs/cgroup/unified/system.slice/slurmd.service")),
            ("0::/", Some("/sys/fs/cgroup/unified")),
            ("4:cpu,cpuacct:/a", Some("/sys/fs/cgroup/cpu,cpuacct/a")),
            ("4:cpuacct,cpu:/a", Some("/sys/fs/cgroup/cpu,cpuacct/a")),
            ("9:name=systemd:/x", Some("/sys/fs/cgroup/systemd/x")),
            ("5:freezer:/pod/slurm", Some("/sys/fs/cgroup/freezer/slurm")),
            ("5:freezer:/elsewhere", None),
            ("6:pids:/", None),
            ("", None),
        ] {
            assert_eq!(directory(mounts, line), expected.map(PathBuf::from), "{line}");
        }
    }
}
