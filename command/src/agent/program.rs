//! The program that the agent runs. After an upgrade the site's `command` is another file, and the agent starts over as
//! that program, so that plugin and agent of two versions do not work together for long.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gcp_wif_core::world::fs::{self, FileId};

/// The variable that names the file which a program was started from, so that it does not start over for it: some file
/// systems number a program that runs differently.
const PROGRAM: &str = "GCP_WIF_AGENT_PROGRAM";
/// How long a new program may take to understand its arguments.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(5);

/// The files that the agent does not start over for: the one that it runs, and those that were tried.
#[derive(Debug, Clone)]
pub(super) struct Known(Vec<FileId>);

impl Known {
    /// Of a process that has just started.
    pub(super) fn new() -> Self {
        let told = std::env::var(PROGRAM).ok();
        let told = told.and_then(|told| {
            let (device, number) = told.split_once(':')?;
            Some((device.parse().ok()?, number.parse().ok()?))
        });
        Self(fs::file_id(Path::new("/proc/self/exe")).into_iter().chain(told).collect())
    }

    /// The file of a command that is another one, and that root may run.
    pub(super) fn other(&self, command: &Path) -> Option<FileId> {
        fs::check_trusted(command).ok()?;
        fs::file_id(command).filter(|file| !self.0.contains(file))
    }
}

/// Replaces this process by another program, if that one understands the same arguments. Returns only if it does not,
/// and says why.
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

/// Whether a program understands these arguments: it would tell what they mean.
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
    fn another_file_is_noticed_if_root_may_run_it() {
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
        // A directory is no program.
        assert_eq!(known.other(&directory), None);
    }

    #[test]
    fn a_program_that_does_not_understand_is_not_started() {
        let arguments = [OsString::from("agent")];
        assert_eq!(try_out(Path::new("/bin/true"), &arguments), Ok(()));
        let why = try_out(Path::new("/bin/false"), &arguments).unwrap_err();
        assert_eq!(why, "with --help it ends with exit status: 1");
        assert!(try_out(Path::new("/none"), &arguments).unwrap_err().starts_with("No such file"));
    }
}
