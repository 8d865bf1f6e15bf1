//! The agent's log in the runtime directory, `agent.log`.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::world::clock::{Clock, SystemClock};

/// Beyond this the log moves aside, and the one before it goes.
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
        if long {
            // If it cannot be moved, it grows.
            let _ = std::fs::rename(&self.path, self.path.with_extension("log.1"));
        }
        // Opened anew for each line, so that it can be rotated.
        if let Ok(mut file) = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path) {
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
    fn a_long_log_moves_aside() {
        let directory = gcp_wif_core::testing::directory();
        let journal = Journal { path: directory.join("agent.log"), level: LogLevel::Info };
        std::fs::write(&journal.path, vec![b'x'; LONGEST as usize + 1]).unwrap();
        journal.write(LogLevel::Info, "new");
        let text = std::fs::read_to_string(&journal.path).unwrap();
        assert!(text.ends_with(" info new\n") && text.lines().count() == 1, "{} bytes", text.len());
        assert_eq!(std::fs::metadata(directory.join("agent.log.1")).unwrap().len(), LONGEST + 1);
    }
}
