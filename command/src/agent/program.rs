//! The agent's program. After an upgrade, the site's `command` is another file, and the agent replaces itself with that
//! program, so that a plugin and an agent of different versions do not work together for long.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gcp_wif_core::world::fs::{self, FileId};

/// The variable that identifies the file from which a program was started, so that the agent does not replace itself
/// with the same file again. Some file systems report another inode for the running program.
const PROGRAM: &str = "GCP_WIF_AGENT_PROGRAM";
/// How long a new program may take to check its arguments.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// The files with which the agent does not replace itself: the running one, and those that it has already tried.
#[derive(Debug, Clone)]
pub(super) struct Known(Vec<FileId>);

impl Known {
    /// Creates the list for a process that has just started.
    pub(super) fn new() -> Self {
        let told = std::env::var(PROGRAM).ok();
        let told = told.and_then(|told| {
            let (device, number) = told.split_once(':')?;
            Some((device.parse().ok()?, number.parse().ok()?))
        });
        Self(fs::file_id(Path::new("/proc/self/exe")).into_iter().chain(told).collect())
    }

    /// Returns the file of a command, if it is not yet known and root may run it.
    pub(super) fn other(&self, command: &Path) -> Option<FileId> {
        fs::check_trusted(command).ok()?;
        fs::file_id(command).filter(|file| !self.0.contains(file))
    }
}

/// Replaces this process with another program, if that program accepts the arguments. Returns only on failure, with the
/// reason.
pub(super) fn replace(
    known: &mut Known,
    file: FileId,
    program: &Path,
    arguments: &[OsString],
    hand_down: impl FnOnce(&mut Command),
) -> String {
    known.0.push(file);
    if let Err(why) = try_out(program, arguments) {
        return why;
    }
    let mut start = Command::new(program);
    start.args(arguments).env(PROGRAM, format!("{}:{}", file.0, file.1));
    hand_down(&mut start);
    start.exec().to_string()
}

/// Checks whether a program accepts these arguments, by running it with `--help` added.
fn try_out(program: &Path, arguments: &[OsString]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments).arg("--help").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("with --help it ends with {status}")),
            Err(error) => return Err(error.to_string()),
            Ok(None) if Instant::now() < end => std::thread::sleep(LOOK),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("with --help it does not end".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_found_if_root_may_run_it() {
        let directory = gcp_wif_core::testing::directory();
        let program = directory.join("program");
        let put = |mode| {
            let new = directory.join("new");
            std::fs::write(&new, "").unwrap();
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode)).unwrap();
            std::fs::rename(&new, &program).unwrap();
        };
        let mut known = Known::new();
        assert_eq!(known.other(Path::new("/proc/self/exe")), None);
        assert_eq!(known.other(&program), None, "none is there");
        put(0o777);
        assert_eq!(known.other(&program), None, "everyone can write to it");
        put(0o755);
        let file = known.other(&program).unwrap();
        known.0.push(file);
        assert_eq!(known.other(&program), None, "it was tried");
        // A directory is not a program.
        assert_eq!(known.other(&directory), None);
    }

    #[test]
    fn a_program_that_refuses_the_arguments_is_not_started() {
        let arguments = [OsString::from("agent")];
        assert_eq!(try_out(Path::new("/bin/true"), &arguments), Ok(()));
        let why = try_out(Path::new("/bin/false"), &arguments).unwrap_err();
        assert_eq!(why, "with --help it ends with exit status: 1");
        assert!(try_out(Path::new("/none"), &arguments).unwrap_err().starts_with("No such file"));
    }
}
