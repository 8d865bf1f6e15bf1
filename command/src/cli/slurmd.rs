//! Information about this node's slurmd, from /proc.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use gcp_wif_core::world::proc::ProcFs;

const NAME: &str = "slurmd";
/// The suffix with which the kernel marks a removed or replaced file.
const DELETED: &str = " (deleted)";
/// The name prefixes of plugins that every slurmd loads.
const KINDS: [&str; 4] = ["auth_", "cred_", "hash_", "select_"];

/// A running slurmd.
#[derive(Debug)]
pub(super) struct Slurmd {
    pub(super) pid: u32,
    proc: ProcFs,
    files: Option<BTreeSet<PathBuf>>,
}

/// Whether a slurmd has loaded a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    Yes,
    /// It has loaded a file that has been removed or replaced since.
    Replaced,
    No,
    /// This process may not read slurmd's mappings.
    Unknown,
}

impl Slurmd {
    /// Finds slurmd: the one in this process's mount namespace, or else any. Children of a slurmd do not count.
    pub(super) fn of_node(proc: &ProcFs) -> Option<Self> {
        let is_slurmd = |pid: u32| proc.name(pid) == NAME;
        let mut found: Vec<u32> = proc.pids().into_iter().filter(|pid| is_slurmd(*pid)).collect();
        found.retain(|pid| !proc.parent(*pid).is_some_and(is_slurmd));
        found.sort_unstable();
        let here = proc.mount_namespace(std::process::id());
        let near = found.iter().find(|pid| here.is_some() && proc.mount_namespace(**pid) == here);
        let pid = *near.or_else(|| found.first())?;
        Some(Self { pid, proc: proc.clone(), files: proc.mapped_files(pid) })
    }

    /// Returns the slurm.conf that it was started with: from its option `-f`, or from SLURM_CONF.
    pub(super) fn conf(&self) -> Option<PathBuf> {
        let line = self.proc.command_line(self.pid)?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let behind = words.iter().skip_while(|word| **word != b"-f").nth(1).copied();
        let glued = || words.iter().find_map(|word| word.strip_prefix(b"-f").filter(|rest| rest.starts_with(b"/")));
        let environment = self.proc.environment(self.pid).unwrap_or_default();
        let variable = || environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"SLURM_CONF="));
        let path = Path::new(OsStr::from_bytes(behind.or_else(glued).or_else(variable)?));
        path.is_absolute().then(|| path.to_owned())
    }

    /// Returns a path that runs slurmd's program.
    pub(super) fn program(&self) -> PathBuf {
        self.proc.path_of_program(self.pid)
    }

    /// Returns the directory from which it has loaded Slurm's own plugins, if known.
    pub(super) fn plugin_dir(&self) -> Option<PathBuf> {
        let is_slurms = |path: &&PathBuf| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            name.ends_with(".so") && KINDS.iter().any(|kind| name.starts_with(kind))
        };
        self.files.as_ref()?.iter().find(is_slurms)?.parent().map(Path::to_owned)
    }

    /// Returns whether it has loaded the plugin with this file name.
    pub(super) fn has_loaded(&self, name: &str) -> Loaded {
        let Some(files) = &self.files else { return Loaded::Unknown };
        let names = files.iter().filter_map(|path| path.file_name().and_then(OsStr::to_str));
        let found: BTreeSet<&str> = names.filter(|file| file.strip_suffix(DELETED).unwrap_or(file) == name).collect();
        match (found.contains(name), found.is_empty()) {
            (true, _) => Loaded::Yes,
            (false, false) => Loaded::Replaced,
            (false, true) => Loaded::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir_all, write};

    #[test]
    fn slurmd_is_distinguished_from_its_children_and_its_plugins_are_found() {
        let directory = gcp_wif_core::testing::directory();
        let proc = ProcFs::at(&directory);
        assert!(Slurmd::of_node(&proc).is_none());
        let process = |pid: &str, parent: &str, name: &str, maps: &str| {
            let path = directory.join(pid);
            create_dir_all(&path).unwrap();
            write(path.join("comm"), format!("{name}\n")).unwrap();
            write(path.join("stat"), format!("{pid} ({name}) S {parent} 0")).unwrap();
            write(path.join("maps"), maps).unwrap();
            write(path.join("cmdline"), "slurmd\0-D\0-f\0/opt/slurm.conf\0").unwrap();
        };
        let map = |path: &str| format!("7f00-7f01 r-xp 00000000 08:01 12   {path}\n");
        process("5", "40", "slurmd", "");
        process("40", "1", "slurmd", &(map("/usr/lib/slurm/auth_munge.so") + &map("/opt/spank_gcp_wif.so (deleted)")));
        process("41", "40", "slurmstepd", "");
        let slurmd = Slurmd::of_node(&proc).unwrap();
        assert_eq!((slurmd.pid, slurmd.conf()), (40, Some("/opt/slurm.conf".into())));
        assert_eq!(slurmd.plugin_dir(), Some("/usr/lib/slurm".into()));
        assert_eq!(slurmd.has_loaded("spank_gcp_wif.so"), Loaded::Replaced);
        assert_eq!(slurmd.has_loaded("auth_munge.so"), Loaded::Yes);
        assert_eq!(slurmd.has_loaded("spank_pyxis.so"), Loaded::No);
    }
}
