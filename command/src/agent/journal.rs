//! The agent's log in the runtime directory, `agent.log`.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::world::clock::{Clock, SystemClock};

/// The log starts anew beyond this.
const LONGEST: u64 = 4 << 20;

/// Where to log, and how much.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    path: PathBuf,
    level: LogLevel,
}

impl Journal {
    /// As the site wants it.
    pub(super) fn new(runtime_dir: &Path, level: LogLevel) -> Self {
        Self { path: runtime_dir.join("agent.log"), level }
    }

    /// Writes a line, `TIME LEVEL TEXT`, if the site wants lines of this level.
    pub(super) fn write(&self, level: LogLevel, text: impl Display) {
        if level > self.level {
            return;
        }
        let long = std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() > LONGEST);
        let mut options = OpenOptions::new();
        options.create(true).mode(0o600);
        let options = if long { options.write(true).truncate(true) } else { options.append(true) };
        if let Ok(mut file) = options.open(&self.path) {
            // A log that cannot be written is no reason to stop serving.
            let _ = writeln!(file, "{} {level} {text}", gcp_wif_core::words::time::rfc3339(SystemClock.now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_level_and_those_below_the_sites_are_left_out() {
        use LogLevel::{Debug, Error, Info, Warn};
        let levels = [(Error, "error"), (Warn, "warn"), (Info, "info"), (Debug, "debug")];
        for (wanted, (level, _)) in levels.iter().enumerate() {
            let directory = gcp_wif_core::testing::directory();
            let journal = Journal { path: directory.join("agent.log"), level: *level };
            for (level, name) in levels {
                journal.write(level, format_args!("a line of {name}"));
            }
            let text = std::fs::read_to_string(&journal.path).unwrap();
            let told: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
            let expected = levels.map(|(_, name)| format!("{name} a line of {name}"));
            assert_eq!(told, expected[..=wanted]);
        }
    }

    #[test]
    fn a_long_log_starts_anew() {
        let directory = gcp_wif_core::testing::directory();
        let journal = Journal { path: directory.join("agent.log"), level: LogLevel::Info };
        std::fs::write(&journal.path, vec![b'x'; LONGEST as usize + 1]).unwrap();
        journal.write(LogLevel::Info, "new");
        let text = std::fs::read_to_string(&journal.path).unwrap();
        assert!(text.ends_with(" info new\n") && text.lines().count() == 1, "{} bytes", text.len());
    }
}
