//! The enroot configuration that the user has without us, read as him and as enroot would find it.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::words::names::clip;
use crate::words::secret::{Secret, exposed};
use crate::world::fs::{FileError, FileProblem, read_limited};

/// What enroot reads below its configuration directory, with the ending that it looks for.
pub const SUBDIRECTORIES: [&str; 3] = ["hooks.d", "mounts.d", "environ.d"];

/// More than anyone writes by hand; less than would hurt the node.
const LONGEST_CREDENTIALS: u64 = 1 << 20;
const MOST_ENTRIES: usize = 1000;

/// The user's own configuration.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its directory.
    pub path: String,
    /// The text of `.credentials`, empty if there is none.
    #[serde(with = "exposed")]
    pub credentials: Secret,
    /// The names in each of [`SUBDIRECTORIES`].
    pub entries: [Vec<String>; 3],
}

/// Where enroot looks, in its own order.
#[derive(Debug, Clone)]
pub struct Search<'a> {
    /// The job's environment.
    pub environment: &'a [(String, String)],
    /// ENROOT_CONFIG_PATH as the user has it, were it not for us.
    pub config_path: Option<String>,
    /// `enroot.conf` of the node.
    pub system: &'a Path,
}

/// Why the user's configuration cannot be taken over, so that it is better left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceError {
    /// A file of it cannot be read.
    File(FileError),
    /// Its path cannot be told.
    Path(String),
    /// One of its directories has too many entries.
    TooMany(PathBuf),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Path(path) => write!(f, "ENROOT_CONFIG_PATH: \"{}\" is not an absolute path", clip(path, 100)),
            Self::TooMany(path) => write!(f, "{}: more than {MOST_ENTRIES} entries", path.display()),
        }
    }
}

impl std::error::Error for SourceError {}

impl Source {
    /// Reads the configuration, as the user that this process is.
    ///
    /// # Errors
    /// When there is something that cannot be taken over. What is not there, or may not be entered, is nothing to
    /// enroot either.
    pub fn read(search: &Search<'_>) -> Result<Self, SourceError> {
        let path = search.path();
        if !path.starts_with('/') || path.contains(['\n', '\0']) {
            return Err(SourceError::Path(path));
        }
        let directory = Path::new(&path);
        let credentials = match read_limited(&directory.join(".credentials"), LONGEST_CREDENTIALS) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| {
                let problem = FileProblem::NotAFile;
                SourceError::File(FileError { path: directory.join(".credentials"), problem })
            })?,
            Err(error) if error.is_absent() || error.is_forbidden() => String::new(),
            Err(error) => return Err(SourceError::File(error)),
        };
        let [hooks, mounts, environs] = SUBDIRECTORIES.map(|name| entries(&directory.join(name)));
        Ok(Self { credentials: Secret::new(credentials), entries: [hooks?, mounts?, environs?], path })
    }
}

impl Search<'_> {
    /// ENROOT_CONFIG_PATH as enroot would have it (`enroot.in`, `config::init`): the environment's, else the first
    /// one of the system's configuration, else the default.
    fn path(&self) -> String {
        let set = |value: &String| !value.is_empty();
        self.config_path
            .clone()
            .filter(set)
            .or_else(|| self.systems().filter(set))
            .unwrap_or_else(|| self.default_path())
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(key, value)| key == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    fn default_path(&self) -> String {
        match (self.variable("XDG_CONFIG_HOME"), self.variable("HOME")) {
            (Some(path), _) => format!("{path}/enroot"),
            (None, home) => format!("{}/.config/enroot", home.unwrap_or_default()),
        }
    }

    fn systems(&self) -> Option<String> {
        let mut texts = system_files(self.system).into_iter().filter_map(|file| fs::read_to_string(file).ok());
        texts.find_map(|text| self.evaluate(assignment(&text)?))
    }

    /// enroot lets bash expand the value, so bash it is, as the user and with his environment.
    fn evaluate(&self, value: &str) -> Option<String> {
        if !value.contains(['$', '`', '~', '"', '\'', '\\', '*', '?', '[', '{']) {
            return Some(value.to_owned());
        }
        let output = Command::new("/bin/bash")
            .args(["--norc", "--noprofile", "-c", "set -u; eval echo \"$1\"", "enroot", value])
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env_remove("BASH_ENV")
            .current_dir("/")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim_end_matches('\n').to_owned())
    }
}

/// enroot's system configuration, in its own order.
pub fn system_files(system: &Path) -> Vec<PathBuf> {
    let mut drop_in = system.as_os_str().to_owned();
    drop_in.push(".d");
    let mut files: Vec<PathBuf> =
        fs::read_dir(drop_in).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "conf"));
    files.sort();
    files.insert(0, system.to_owned());
    files
}

/// The value of ENROOT_CONFIG_PATH in a configuration file. `read` does not see a last line without its newline.
pub fn assignment(text: &str) -> Option<&str> {
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    lines.filter_map(|line| line.trim_start().strip_prefix("ENROOT_CONFIG_PATH")).find_map(|rest| {
        let value = rest.trim_start_matches([' ', '\t']);
        let value = value.strip_prefix('=').unwrap_or(value).trim_matches([' ', '\t']);
        (rest.starts_with([' ', '\t', '=']) && !value.is_empty()).then_some(value)
    })
}

/// The names in a directory, in enroot's order. What is no directory, or may not be entered, has none.
fn entries(directory: &Path) -> Result<Vec<String>, SourceError> {
    let Ok(listing) = fs::read_dir(directory) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in listing {
        let name =
            entry.and_then(|entry| entry.file_name().into_string().map_err(|_| io::ErrorKind::InvalidData.into()));
        names.extend(name.ok());
        if names.len() > MOST_ENTRIES {
            return Err(SourceError::TooMany(directory.to_owned()));
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
