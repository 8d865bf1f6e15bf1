//! The enroot configuration that the user has without this plugin, found in the same way as enroot finds it.
#![forbid(unsafe_code)]

mod expansion;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::words::names::clip;
use crate::words::secret::{Secret, exposed};
use crate::world::fs::{self, FileError, FileProblem};
use expansion::{Unexpanded, expand};

/// The subdirectories that enroot reads in its configuration directory.
pub const SUBDIRECTORIES: [&str; 3] = ["hooks.d", "mounts.d", "environ.d"];

// Limits for one step. They exceed what people write by hand, and each step has a copy.

/// The size limit of `.credentials`, in bytes.
const LONGEST_CREDENTIALS: u64 = 64 << 10;
/// The limit of names in each of [`SUBDIRECTORIES`].
const MOST_NAMES: usize = 100;

// Limits for all steps of a user on a node. Only large copies count, because a small copy takes less of the node than
// its step does.

/// The size up to which a copy is small.
const SMALL: Size = Size { bytes: 16 << 10, names: 32 };
/// The limit for all large copies of a user together.
const SHARE: Size = Size { bytes: 16 << 20, names: 4096 };

/// tmpfs uses a page for a link's target of at least this length, in bytes (`mm/shmem.c`, SHORT_SYMLINK_LEN).
const LONG_TARGET: usize = 128;
const PAGE: u64 = 4096;

/// The limit of drop-ins in the node's enroot configuration.
const MOST_DROP_INS: usize = 1000;

/// The user's configuration.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The configuration directory.
    pub path: String,
    /// The content of `.credentials`; empty if there is none.
    #[serde(with = "exposed")]
    pub credentials: Secret,
    /// The names in each of [`SUBDIRECTORIES`], in the same order.
    pub entries: [Vec<String>; 3],
}

/// The space that a step's copy of the user's configuration takes in the runtime directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Bytes.
    pub bytes: u64,
    /// Names.
    pub names: u64,
}

impl Size {
    /// Returns whether a copy of this size is large.
    pub fn is_large(self) -> bool {
        !self.is_within(SMALL)
    }

    fn is_within(self, limit: Self) -> bool {
        self.bytes <= limit.bytes && self.names <= limit.names
    }

    fn plus(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), names: self.names.saturating_add(other.names) }
    }
}

/// The places where enroot looks for its configuration.
#[derive(Debug, Clone)]
pub struct Search<'a> {
    /// The job's environment.
    pub environment: &'a [(String, String)],
    /// ENROOT_CONFIG_PATH as the user has set it.
    pub config_path: Option<String>,
    /// The node's `enroot.conf`.
    pub system: &'a Path,
    /// The user ID.
    pub uid: u32,
}

/// Why the user's configuration cannot be merged and stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceError {
    /// A file or directory cannot be read or is too large.
    File(FileError),
    /// The path is not absolute.
    Path(String),
    /// The node's configuration sets the path with a value that only a shell can expand.
    NeedsShell {
        /// The configuration file.
        file: PathBuf,
        /// The value.
        value: String,
    },
    /// The large copies of the user's steps on this node have reached the limit.
    Share(String),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Path(path) => write!(f, "ENROOT_CONFIG_PATH: \"{}\" is not an absolute path", clip(path, 100)),
            Self::NeedsShell { file, value } => write!(
                f,
                "{}: ENROOT_CONFIG_PATH: only a shell can expand \"{}\", and gcp-wif runs none",
                file.display(),
                clip(value, 200)
            ),
            Self::Share(path) => write!(
                f,
                "{}: together with the copies of your other steps on this node, it would exceed {} bytes or {} \
                 names",
                clip(path, 200),
                SHARE.bytes,
                SHARE.names
            ),
        }
    }
}

impl std::error::Error for SourceError {}

impl Source {
    /// Reads the configuration. The process must have become the user.
    ///
    /// # Errors
    /// When something cannot be merged. Files and directories that are absent or not accessible are ignored, as enroot
    /// ignores them.
    pub fn read(search: &Search<'_>) -> Result<Self, SourceError> {
        let path = search.path()?;
        if !path.starts_with('/') || path.contains(['\n', '\0']) {
            return Err(SourceError::Path(path));
        }
        let directory = Path::new(&path);
        let file = directory.join(".credentials");
        let credentials = or_nothing(fs::read_users(&file, LONGEST_CREDENTIALS))?;
        let credentials = String::from_utf8(credentials)
            .map_err(|_| SourceError::File(FileError::new(&file, FileProblem::NotText)))?;
        let [hooks, mounts, environs] =
            SUBDIRECTORIES.map(|name| or_nothing(fs::names(&directory.join(name), MOST_NAMES)));
        Ok(Self { credentials: Secret::new(credentials), entries: [hooks?, mounts?, environs?], path })
    }

    /// Returns the size of a copy. `.credentials` counts twice, because it is stored with and without the job's lines.
    pub fn size(&self) -> Size {
        let bytes = |text: usize| u64::try_from(text).unwrap_or(u64::MAX);
        let mut size = Size { bytes: bytes(self.credentials.expose().len()).saturating_mul(2), names: 0 };
        for (directory, names) in SUBDIRECTORIES.into_iter().zip(&self.entries) {
            for name in names {
                let is_long = link_target(&self.path, directory, name).len() >= LONG_TARGET;
                size = size.plus(Size { bytes: if is_long { PAGE } else { 0 }, names: 1 });
            }
        }
        size
    }

    /// Checks that the user's steps may have this copy in addition to `copies`.
    ///
    /// # Errors
    /// When all large copies together would exceed the user's limit.
    pub fn check_share(&self, copies: impl IntoIterator<Item = Size>) -> Result<(), SourceError> {
        let large = copies.into_iter().filter(|copy| copy.is_large());
        let all = large.fold(self.size(), Size::plus);
        if all.is_within(SHARE) { Ok(()) } else { Err(SourceError::Share(self.path.clone())) }
    }
}

/// Returns the target of the link to a user's entry.
pub(super) fn link_target(path: &str, directory: &str, name: &str) -> String {
    format!("{path}/{directory}/{name}")
}

fn or_nothing<T: Default>(read: Result<T, FileError>) -> Result<T, SourceError> {
    match read {
        Err(error) if error.is_absent() || error.is_forbidden() => Ok(T::default()),
        result => result.map_err(SourceError::File),
    }
}

impl Search<'_> {
    /// Returns ENROOT_CONFIG_PATH as enroot determines it (`enroot.in`, `config::init`): from the environment, or else
    /// the first value in the system's configuration, or else the default.
    fn path(&self) -> Result<String, SourceError> {
        match self.config_path.clone().filter(|path| !path.is_empty()) {
            Some(path) => Ok(path),
            None => Ok(self.systems()?.unwrap_or_else(|| self.default_path())),
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    fn default_path(&self) -> String {
        let set = |name| self.variable(name).filter(|value| !value.is_empty());
        match (set("XDG_CONFIG_HOME"), set("HOME")) {
            (Some(path), _) => format!("{path}/enroot"),
            (None, home) => format!("{}/.config/enroot", home.unwrap_or_default()),
        }
    }

    fn systems(&self) -> Result<Option<String>, SourceError> {
        for file in system_files(self.system) {
            let Some(text) = fs::read_system(&file) else { continue };
            for value in assignments(&text) {
                match expand(value, &|name| self.bashs(name)) {
                    Ok(path) if !path.is_empty() => return Ok(Some(path)),
                    // enroot ignores such a value too.
                    Ok(_) | Err(Unexpanded::Unset) => {}
                    Err(Unexpanded::NeedsShell) => {
                        return Err(SourceError::NeedsShell { file, value: value.to_owned() });
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns a variable as it is in enroot's bash.
    fn bashs(&self, name: &str) -> Result<Option<String>, Unexpanded> {
        // An earlier line may have set a variable with enroot's prefix, and pyxis hides most of those in the job.
        let is_told_elsewhere =
            ["BASH", "ENROOT_"].iter().any(|start| name.starts_with(start)) || OF_BASH.split(' ').any(|of| of == name);
        match name {
            "UID" | "EUID" => Ok(Some(self.uid.to_string())),
            _ if is_told_elsewhere => Err(Unexpanded::NeedsShell),
            _ => Ok(self.variable(name).map(str::to_owned)),
        }
    }
}

/// Variables that bash sets, or the function with which enroot reads its configuration.
const OF_BASH: &str = "DIRSTACK EPOCHREALTIME EPOCHSECONDS FUNCNAME GROUPS HISTCMD HOSTNAME HOSTTYPE IFS LINENO \
    MACHTYPE OLDPWD OPTIND OSTYPE PIPESTATUS PPID PWD RANDOM SECONDS SHLVL _ file key overwrite value";

/// Returns the files of enroot's system configuration, in the order in which enroot reads them.
pub fn system_files(system: &Path) -> Vec<PathBuf> {
    let mut directory = system.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let names = fs::names(&directory, MOST_DROP_INS).unwrap_or_default().into_iter();
    // The same names as the shell pattern `*.conf`.
    let drop_ins = names.filter(|name| !name.starts_with('.') && name.ends_with(".conf"));
    [system.to_owned()].into_iter().chain(drop_ins.map(|name| directory.join(name))).collect()
}

/// The expansion of a value of ENROOT_CONFIG_PATH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expanded {
    /// The path.
    To(String),
    /// None, because a variable in the value is not set.
    Unset,
    /// Only a shell can expand the value.
    NeedsShell,
}

/// Expands a value of ENROOT_CONFIG_PATH in a user's environment.
pub fn expanded(value: &str, environment: &[(String, String)], uid: u32) -> Expanded {
    let search = Search { environment, config_path: None, system: Path::new("/"), uid };
    match expand(value, &|name| search.bashs(name)) {
        Ok(path) => Expanded::To(path),
        Err(Unexpanded::Unset) => Expanded::Unset,
        Err(Unexpanded::NeedsShell) => Expanded::NeedsShell,
    }
}

/// Returns whether a value of ENROOT_CONFIG_PATH can be expanded without a shell.
pub fn is_expandable(value: &str) -> bool {
    expanded(value, &[("HOME".to_owned(), "/".to_owned())], 0) != Expanded::NeedsShell
}

/// Returns the values of ENROOT_CONFIG_PATH in a configuration file. Ignores a last line without newline, as bash's
/// `read` loop does.
pub fn assignments(text: &str) -> impl Iterator<Item = &str> {
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    lines.filter_map(|line| line.trim_start().strip_prefix("ENROOT_CONFIG_PATH")).filter_map(|rest| {
        let value = rest.trim_start_matches([' ', '\t']);
        let value = value.strip_prefix('=').unwrap_or(value).trim_matches([' ', '\t']);
        (rest.starts_with([' ', '\t', '=']) && !value.is_empty()).then_some(value)
    })
}

#[cfg(test)]
mod tests;
