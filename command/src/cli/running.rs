//! Information about the running agent of a runtime directory, from its lock file and /proc.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use gcp_wif_core::words::time::UnixSeconds;
use gcp_wif_core::world::fs::read_limited;
use gcp_wif_core::world::proc::ProcFs;

const LONGEST: u64 = 4096;
const DELETED: &str = " (deleted)";

/// A watcher and its serving process.
#[derive(Debug)]
pub(super) struct Running {
    pids: Vec<u32>,
    /// When the serving process started.
    pub(super) since: Option<UnixSeconds>,
    program: PathBuf,
    was_replaced: bool,
}

impl Running {
    /// Returns the agent of a runtime directory, or `None` if none runs or this process may not read its lock file.
    pub(super) fn of(runtime_dir: &Path, proc: &ProcFs) -> Option<Self> {
        let lock = runtime_dir.join("agent.lock");
        let text = String::from_utf8(read_limited(&lock, LONGEST).ok()?).ok()?;
        // Each line has a process ID and a start time.
        let lives = |line: &str| {
            let (pid, start) = line.split_once(' ')?;
            let pid = pid.parse().ok()?;
            (proc.start(pid) == start.parse().ok()).then_some(pid)
        };
        let pids: Vec<u32> = text.lines().filter_map(lives).collect();
        let first = *pids.first()?;
        let signed = std::fs::metadata(&lock).and_then(|lock| lock.modified()).ok();
        let since = signed.and_then(|time| UnixSeconds::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok());
        let program = proc.program(first).unwrap_or_default();
        let was_replaced = program.to_string_lossy().ends_with(DELETED);
        Some(Self { pids, since, program: proc.path_of_program(first), was_replaced })
    }

    /// Returns the process IDs as arguments for `kill`.
    pub(super) fn pids(&self) -> String {
        self.pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    /// Returns the version of its program, even if the file has been replaced.
    pub(super) fn version(&self) -> Option<String> {
        version(&self.program)
    }

    /// Returns whether its program has been removed or replaced since its start.
    pub(super) fn was_replaced(&self) -> bool {
        self.was_replaced
    }
}

/// Returns the version that a program prints as `gcp-wif 0.1.0`.
pub(super) fn version(program: &Path) -> Option<String> {
    Some(told(program, "--version")?.trim().strip_prefix("gcp-wif ")?.to_owned())
}

/// Runs a program with one option and returns its output, if it succeeds.
pub(super) fn told(program: &Path, option: &str) -> Option<String> {
    let output = Command::new(program).arg(option).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_names_an_agent_only_while_it_runs() {
        let (directory, proc) = (gcp_wif_core::testing::directory(), ProcFs::default());
        let own = std::process::id();
        let write = |text: String| std::fs::write(directory.join("agent.lock"), text).unwrap();
        assert!(Running::of(&directory, &proc).is_none());
        let start = proc.start(own).unwrap();
        write(format!("{own} {start}\n1 {start}7\n"));
        let running = Running::of(&directory, &proc).unwrap();
        assert_eq!((running.pids(), running.was_replaced()), (own.to_string(), false));
        assert!(running.since > Some(1_700_000_000));
        write(format!("{own} {}\n", start + 1));
        assert!(Running::of(&directory, &proc).is_none());
    }
}
