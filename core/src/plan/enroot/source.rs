//! The enroot configuration that the user has without us, read as the user and as enroot would find it.
#![forbid(unsafe_code)]

mod expansion;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::words::names::clip;
use crate::words::secret::{Secret, exposed};
use crate::world::fs::{self, FileError, FileProblem};
use expansion::{Unexpanded, expand};

/// What enroot reads below its configuration directory, with the ending that it looks for.
pub const SUBDIRECTORIES: [&str; 3] = ["hooks.d", "mounts.d", "environ.d"];

// What is taken over at most for one step. It is more than anyone writes by hand, and each step has a copy.

/// Bytes of `.credentials`.
const LONGEST_CREDENTIALS: u64 = 64 << 10;
/// Names in each of [`SUBDIRECTORIES`].
const MOST_NAMES: usize = 100;

// What all steps of a user on a node have at most, in copies that are larger than anyone's usual ones. The steps
// themselves take more of a node than small copies do: those are not counted.

/// A copy up to this size is small.
const SMALL: Size = Size { bytes: 16 << 10, names: 32 };
/// What the large ones may be together.
const SHARE: Size = Size { bytes: 16 << 20, names: 4096 };

/// A tmpfs keeps a link's target in a page unless it is shorter (`mm/shmem.c`, SHORT_SYMLINK_LEN).
const LONG_TARGET: usize = 128;
const PAGE: u64 = 4096;

/// Drop-ins of the node's own configuration.
const MOST_DROP_INS: usize = 1000;

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

/// What a step's copy of the user's configuration takes of the runtime directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Bytes.
    pub bytes: u64,
    /// Names.
    pub names: u64,
}

impl Size {
    /// Whether it is larger than anyone's usual one.
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

/// Where enroot looks, in its own order.
#[derive(Debug, Clone)]
pub struct Search<'a> {
    /// The job's environment.
    pub environment: &'a [(String, String)],
    /// ENROOT_CONFIG_PATH as the user has it, were it not for us.
    pub config_path: Option<String>,
    /// `enroot.conf` of the node.
    pub system: &'a Path,
    /// The user.
    pub uid: u32,
}

/// Why the user's configuration cannot be taken over, so that it is better left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceError {
    /// A file or directory of it cannot be read, or is too large.
    File(FileError),
    /// Its path is not absolute.
    Path(String),
    /// The node's configuration has its path in a form that only a shell can expand.
    NeedsShell {
        /// The file of the node's configuration.
        file: PathBuf,
        /// The value.
        value: String,
    },
    /// The user's steps on this node have the user's share of large ones already.
    Share(String),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Path(path) => write!(f, "ENROOT_CONFIG_PATH: \"{}\" is not an absolute path", clip(path, 100)),
            Self::NeedsShell { file, value } => write!(
                f,
                "{}: ENROOT_CONFIG_PATH: only a shell can expand \"{}\", and none is run for it",
                file.display(),
                clip(value, 200)
            ),
            Self::Share(path) => write!(
                f,
                "{}: with the copies that your steps on this node have already it would be more than {} bytes or {} \
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
    /// Reads the configuration, as the user that this process is.
    ///
    /// # Errors
    /// When there is something that cannot be taken over. What is not there, or may not be entered, is nothing to
    /// enroot either.
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

    /// What a copy of it takes. `.credentials` is kept twice, as the user has it and with the job's lines.
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

    /// Checks that the user's steps may have a further copy beside those that they have.
    ///
    /// # Errors
    /// When all large ones together would be more than a user's share.
    pub fn check_share(&self, copies: impl IntoIterator<Item = Size>) -> Result<(), SourceError> {
        let large = copies.into_iter().filter(|copy| copy.is_large());
        let all = large.fold(self.size(), Size::plus);
        if all.is_within(SHARE) { Ok(()) } else { Err(SourceError::Share(self.path.clone())) }
    }
}

/// Where the link to a user's entry leads.
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
    /// ENROOT_CONFIG_PATH as enroot would have it (`enroot.in`, `config::init`): the environment's, else the first
    /// one of the system's configuration, else the default.
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
                    // No value to enroot either.
                    Ok(_) | Err(Unexpanded::Unset) => {}
                    Err(Unexpanded::NeedsShell) => {
                        return Err(SourceError::NeedsShell { file, value: value.to_owned() });
                    }
                }
            }
        }
        Ok(None)
    }

    /// A variable as enroot's bash has it.
    fn bashs(&self, name: &str) -> Result<Option<String>, Unexpanded> {
        // An earlier line may have set one of enroot's own, and pyxis hides most of the job's.
        let is_told_elsewhere =
            ["BASH", "ENROOT_"].iter().any(|start| name.starts_with(start)) || OF_BASH.split(' ').any(|of| of == name);
        match name {
            "UID" | "EUID" => Ok(Some(self.uid.to_string())),
            _ if is_told_elsewhere => Err(Unexpanded::NeedsShell),
            _ => Ok(self.variable(name).map(str::to_owned)),
        }
    }
}

/// Variables that bash sets itself, or the function of enroot's that reads its configuration.
const OF_BASH: &str = "DIRSTACK EPOCHREALTIME EPOCHSECONDS FUNCNAME GROUPS HISTCMD HOSTNAME HOSTTYPE IFS LINENO \
    MACHTYPE OLDPWD OPTIND OSTYPE PIPESTATUS PPID PWD RANDOM SECONDS SHLVL _ file key overwrite value";

/// enroot's system configuration, in its own order.
pub fn system_files(system: &Path) -> Vec<PathBuf> {
    let mut directory = system.as_os_str().to_owned();
    directory.push(".d");
    let directory = PathBuf::from(directory);
    let names = fs::names(&directory, MOST_DROP_INS).unwrap_or_default().into_iter();
    // As `*.conf` does.
    let drop_ins = names.filter(|name| !name.starts_with('.') && name.ends_with(".conf"));
    [system.to_owned()].into_iter().chain(drop_ins.map(|name| directory.join(name))).collect()
}

/// Whether a value of ENROOT_CONFIG_PATH can be expanded for users, or needs a shell.
pub fn is_expandable(value: &str) -> bool {
    let environment = [("HOME".to_owned(), "/".to_owned())];
    let search = Search { environment: &environment, config_path: None, system: Path::new("/"), uid: 0 };
    expand(value, &|name| search.bashs(name)) != Err(Unexpanded::NeedsShell)
}

/// The values of ENROOT_CONFIG_PATH in a configuration file. `read` does not see a last line without its newline.
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
