//! Reads slurm.conf, slurm.conf(5): keys are case-insensitive, and a file can include others.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::slurmd::Slurmd;
use gcp_wif_core::world::fs::read_limited;

/// The usual paths of slurm.conf: the node's file, or slurmd's copy in a configless setup.
const USUAL: [&str; 2] = ["/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf"];
const LONGEST: u64 = 1 << 20;
/// The limit of nested includes. A deeper nesting is a cycle.
const DEEPEST: u32 = 8;

/// The text of slurm.conf and the files that it includes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SlurmConf {
    path: PathBuf,
    text: String,
}

impl SlurmConf {
    /// Reads the node's slurm.conf: the one in SLURM_CONF, or else the one that slurmd was started with, or else the
    /// usual one.
    pub(super) fn of_node(slurmd: Option<&Slurmd>) -> Self {
        let asked = std::env::var_os("SLURM_CONF").map(PathBuf::from);
        let usual = || USUAL.map(PathBuf::from).into_iter().find(|path| path.exists());
        let slurmds = || slurmd?.conf().filter(|path| path.exists());
        let path = asked.or_else(slurmds).or_else(usual);
        Self::read(&path.unwrap_or_else(|| PathBuf::from(USUAL[0])))
    }

    /// Reads a slurm.conf. Files that cannot be read count as empty.
    pub(super) fn read(path: &Path) -> Self {
        let mut text = String::new();
        collect(path, 0, &mut text);
        Self { path: path.to_owned(), text }
    }

    /// What a text says that includes nothing.
    #[cfg(feature = "fuzzing")]
    pub(super) fn of_text(file: &str) -> Self {
        let mut text = String::new();
        add(file, &mut text, |_, _| {});
        Self { path: PathBuf::from(USUAL[0]), text }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether any text was read.
    pub(super) fn is_there(&self) -> bool {
        !self.text.is_empty()
    }

    /// Returns the value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&str> {
        let lines = self.text.lines().map(|line| line.split('#').next().unwrap_or_default());
        let mut pairs = lines.filter_map(|line| line.split_once('='));
        pairs.find_map(|(name, value)| name.trim().eq_ignore_ascii_case(key).then(|| value.trim()))
    }

    /// Returns whether the value of a key, a comma-separated list, contains one of these words.
    pub(super) fn has(&self, key: &str, words: &[&str]) -> bool {
        let listed = self.value(key).unwrap_or_default().split(',').map(str::trim);
        listed.into_iter().any(|word| words.iter().any(|wanted| wanted.eq_ignore_ascii_case(word)))
    }

    /// Returns whether slurmd logs to syslog, because it has no log file or is configured to (slurm.conf(5),
    /// SlurmdLogFile and SlurmdSyslogDebug).
    pub(super) fn logs_to_syslog(&self) -> bool {
        let is_told = self.value("SlurmdSyslogDebug").is_some_and(|level| !level.eq_ignore_ascii_case("quiet"));
        self.is_there() && (is_told || self.value("SlurmdLogFile").is_none())
    }

    /// Returns the value of a key in seconds, or `default`.
    pub(super) fn seconds(&self, key: &str, default: u64) -> u64 {
        self.value(key).and_then(|value| value.parse().ok()).unwrap_or(default)
    }
}

fn collect(path: &Path, depth: u32, text: &mut String) {
    let Ok(bytes) = read_limited(path, LONGEST) else { return };
    add(&String::from_utf8_lossy(&bytes), text, |file, text| {
        if depth < DEEPEST {
            collect(&path.parent().unwrap_or(Path::new("/")).join(file), depth + 1, text);
        }
    });
}

/// Adds the lines of a file, and what it includes.
fn add(file: &str, text: &mut String, include: impl Fn(&str, &mut String)) {
    for line in file.replace("\\\n", "").lines() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some(word), Some(file)) if word.eq_ignore_ascii_case("include") => include(file, text),
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::write;

    #[test]
    fn keys_are_found_in_any_case_and_in_included_files() {
        let directory = gcp_wif_core::testing::directory();
        let text = "ClusterName=x # PluginDir=/no\ninclude more.conf\nprologflags=alloc, X11\nMessageTimeout=25\n";
        write(directory.join("slurm.conf"), text).unwrap();
        write(directory.join("more.conf"), "PluginDir=/a:\\\n/b\ninclude more.conf\n").unwrap();
        let conf = SlurmConf::read(&directory.join("slurm.conf"));
        assert_eq!((conf.value("PLUGINDIR"), conf.value("Include")), (Some("/a:/b"), None));
        assert!(conf.has("PrologFlags", &["Contain", "Alloc"]) && !conf.has("PrologFlags", &["RunInJob"]));
        assert_eq!((conf.seconds("MessageTimeout", 10), conf.seconds("TCPTimeout", 2)), (25, 2));
        assert!(conf.is_there() && !SlurmConf::read(&directory.join("none")).is_there());
    }

    #[test]
    fn slurmd_logs_to_syslog_without_a_log_file_or_if_configured() {
        let directory = gcp_wif_core::testing::directory();
        let path = directory.join("slurm.conf");
        for (text, expected) in [
            ("ClusterName=x", true),
            ("SlurmdLogFile=/var/log/slurmd.log", false),
            ("SlurmdLogFile=/var/log/slurmd.log\nSlurmdSyslogDebug=info", true),
            ("SlurmdLogFile=/var/log/slurmd.log\nslurmdsyslogdebug=Quiet", false),
            // Without slurm.conf, the log destination is unknown.
            ("", false),
        ] {
            write(&path, text).unwrap();
            assert_eq!(SlurmConf::read(&path).logs_to_syslog(), expected, "{text}");
        }
    }
}
