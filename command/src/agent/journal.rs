//! The agent's log, `agent.log` in the runtime directory, and syslog.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gcp_wif_core::policy::config::LogLevel;
use syslog::Formatter3164;

use gcp_wif_core::words::names::clip;
use gcp_wif_core::world::clock::{Clock, SystemClock};

/// The size above which the log is renamed to `agent.log.1`, in bytes. An earlier `agent.log.1` is overwritten.
const LONGEST: u64 = 4 << 20;

/// The log's destinations and level.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    path: PathBuf,
    /// The socket of syslog, if slurmd logs to syslog too.
    syslog: Option<PathBuf>,
    level: LogLevel,
}

impl Journal {
    /// Creates the log of a runtime directory.
    pub(super) fn new(runtime_dir: &Path, syslog: Option<&Path>, level: LogLevel) -> Self {
        Self { path: runtime_dir.join("agent.log"), syslog: syslog.map(Path::to_owned), level }
    }

    /// Returns the same log with another level.
    pub(super) fn with_level(&self, level: LogLevel) -> Self {
        Self { level, ..self.clone() }
    }

    /// Writes a line, `TIME LEVEL TEXT`, if the site's log level includes this level. Ignores write errors, which must
    /// not stop the agent.
    pub(super) fn write(&self, level: LogLevel, text: impl Display) {
        if level > self.level {
            return;
        }
        let text = clip(&text.to_string(), usize::MAX);
        if std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.len() > LONGEST) {
            // If this fails, the log keeps growing.
            let _ = std::fs::rename(&self.path, self.path.with_extension("log.1"));
        }
        // Open the file for each line, so that it can be rotated.
        if let Ok(mut file) = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path) {
            let _ = writeln!(file, "{} {level} {text}", gcp_wif_core::words::time::rfc3339(SystemClock.now()));
        }
        if let Some(socket) = &self.syslog {
            let _ = tell_syslog(socket, level, &text);
        }
    }
}

fn tell_syslog(socket: &Path, level: LogLevel, text: &str) -> syslog::Result<()> {
    let (facility, process, pid) = (syslog::Facility::LOG_DAEMON, "gcp-wif".to_owned(), std::process::id());
    let mut log = syslog::unix_custom(Formatter3164 { facility, hostname: None, process, pid }, socket)?;
    match level {
        LogLevel::Error => log.err(text),
        LogLevel::Warn => log.warning(text),
        LogLevel::Info => log.info(text),
        LogLevel::Debug => log.debug(text),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn lines_below_the_sites_level_are_omitted() {
        use LogLevel::{Debug, Error, Info, Warn};
        let levels = [(Error, "error"), (Warn, "warn"), (Info, "info"), (Debug, "debug")];
        for (wanted, (level, _)) in levels.iter().enumerate() {
            let directory = gcp_wif_core::testing::directory();
            let journal = Journal::new(&directory, None, *level);
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
    fn a_line_is_one_line_whatever_is_in_it() {
        let directory = gcp_wif_core::testing::directory();
        let journal = Journal::new(&directory, None, LogLevel::Info);
        journal.write(LogLevel::Info, "a\n2026-01-01T00:00:00Z error b\u{1b}[2J\u{202e}");
        let text = std::fs::read_to_string(&journal.path).unwrap();
        assert!(text.ends_with(" info a\\n2026-01-01T00:00:00Z error b\\u{1b}[2J\\u{202e}\n"), "{text:?}");
    }

    #[test]
    fn a_long_log_is_renamed() {
        let directory = gcp_wif_core::testing::directory();
        let journal = Journal::new(&directory, None, LogLevel::Info);
        std::fs::write(&journal.path, vec![b'x'; LONGEST as usize + 1]).unwrap();
        journal.write(LogLevel::Info, "new");
        let text = std::fs::read_to_string(&journal.path).unwrap();
        assert!(text.ends_with(" info new\n") && text.lines().count() == 1, "{} bytes", text.len());
        assert_eq!(std::fs::metadata(directory.join("agent.log.1")).unwrap().len(), LONGEST + 1);
    }

    #[test]
    fn lines_also_go_to_syslog_and_an_absent_socket_is_ignored() {
        let directory = gcp_wif_core::testing::directory();
        let path = directory.join("log");
        let socket = UnixDatagram::bind(&path).unwrap();
        for syslog in [path, directory.join("absent")] {
            Journal::new(&directory, Some(&syslog), LogLevel::Warn).write(LogLevel::Warn, "gcp-wif: agent: a line");
            Journal::new(&directory, Some(&syslog), LogLevel::Warn).write(LogLevel::Info, "gcp-wif: agent: another");
        }
        let mut told = [0; 200];
        let length = socket.recv(&mut told).unwrap();
        let told = String::from_utf8_lossy(&told[..length]);
        // Facility daemon, severity warning: RFC 3164, 4.1.1.
        assert!(
            told.starts_with("<28>") && told.contains("gcp-wif[") && told.ends_with("]: gcp-wif: agent: a line"),
            "{told}"
        );
        socket.set_nonblocking(true).unwrap();
        assert!(socket.recv(&mut [0]).is_err());
        assert_eq!(std::fs::read_to_string(directory.join("agent.log")).unwrap().lines().count(), 2);
    }
}
