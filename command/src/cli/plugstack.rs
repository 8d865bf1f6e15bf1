//! Reads plugstack.conf and the files that it includes, spank(8).
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::slurmconf::SlurmConf;
use super::slurmd::Slurmd;
use gcp_wif_core::world::fs::{self, FileError};
use gcp_wif_core::world::proc::ProcFs;

/// The usual plugin directories, for a node where neither slurm.conf nor slurmd tells it. Slurm's default is compiled
/// in. These are the directories of Debian's packages, of SchedMD's Debian packages, of RPMs and of manual builds.
const PLUGIN_DIRS: [&str; 9] = [
    "/usr/lib/x86_64-linux-gnu/slurm-wlm",
    "/usr/lib/aarch64-linux-gnu/slurm-wlm",
    "/usr/lib/x86_64-linux-gnu/slurm",
    "/usr/lib/aarch64-linux-gnu/slurm",
    "/usr/lib64/slurm",
    "/usr/lib/slurm",
    "/usr/local/lib/slurm",
    "/opt/slurm/lib64/slurm",
    "/opt/slurm/lib/slurm",
];
const LONGEST: u64 = 1 << 20;
/// The limit of nested includes. A deeper nesting is a cycle.
const DEEPEST: u32 = 8;

pub(super) const OURS: &str = "spank_gcp_wif.so";
const PYXIS: &str = "spank_pyxis.so";

/// The content of plugstack.conf.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plugstack {
    plugins: Vec<Plugin>,
    /// The directories for plugins without a path, if slurm.conf or slurmd tells them.
    plugin_dir: Option<String>,
    /// The files that were read.
    pub(super) files: Vec<PathBuf>,
}

/// A line that names a plugin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plugin {
    /// The file that contains the line.
    pub(super) file: PathBuf,
    path: PathBuf,
    arguments: Vec<String>,
}

impl Plugstack {
    /// Reads the node's plugstack.conf.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn of_node() -> Result<Self, FileError> {
        let slurmd = Slurmd::of_node(&ProcFs::default());
        Self::new(&SlurmConf::of_node(slurmd.as_ref()), slurmd.as_ref())
    }

    /// Reads the plugstack.conf that slurm.conf names, or the one next to it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn new(conf: &SlurmConf, slurmd: Option<&Slurmd>) -> Result<Self, FileError> {
        let beside = || conf.path().with_file_name("plugstack.conf");
        let mut read = Self { plugins: Vec::new(), plugin_dir: None, files: Vec::new() };
        read.collect(&conf.value("PlugStackConfig").map_or_else(beside, Into::into), 0)?;
        let slurmds = || slurmd?.plugin_dir().map(|path| path.display().to_string());
        read.plugin_dir = conf.value("PluginDir").map(str::to_owned).or_else(slurmds);
        Ok(read)
    }

    /// Returns this plugin's line.
    pub(super) fn ours(&self) -> Option<&Plugin> {
        self.plugins.iter().find(|plugin| plugin.is(OURS))
    }

    /// Returns whether pyxis comes before this plugin.
    pub(super) fn pyxis_is_earlier(&self) -> bool {
        let place = |name: &str| self.plugins.iter().position(|plugin| plugin.is(name));
        matches!((place(PYXIS), place(OURS)), (Some(pyxis), Some(ours)) if pyxis < ours)
    }

    /// Returns this plugin's file, if it exists.
    pub(super) fn plugin_file(&self) -> Option<PathBuf> {
        self.places()?.into_iter().find(|place| place.exists())
    }

    /// Returns the path where this plugin's file is missing. Slurm silently ignores a missing `optional` plugin.
    pub(super) fn missing_file(&self) -> Option<PathBuf> {
        let is_known = self.plugin_dir.is_some() || self.ours()?.path.is_absolute();
        if !is_known || self.plugin_file().is_some() { None } else { self.places()?.into_iter().next() }
    }

    fn places(&self) -> Option<Vec<PathBuf>> {
        let path = &self.ours()?.path;
        let below = |directory: &str| Path::new(directory).join(path);
        Some(match &self.plugin_dir {
            _ if path.is_absolute() => vec![path.clone()],
            Some(directories) => directories.split(':').map(below).collect(),
            None => PLUGIN_DIRS.into_iter().map(below).collect(),
        })
    }

    fn collect(&mut self, file: &Path, depth: u32) -> Result<(), FileError> {
        let text = read(file)?;
        self.files.push(file.to_owned());
        self.add(file, &text, &mut |this, pattern| {
            let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern);
            let included = if depth < DEEPEST { matching(&pattern) } else { Vec::new() };
            included.iter().try_for_each(|file| this.collect(file, depth + 1))
        })
    }

    /// Adds the lines of a file, and what it includes.
    fn add(
        &mut self,
        file: &Path,
        text: &str,
        include: &mut dyn FnMut(&mut Self, &str) -> Result<(), FileError>,
    ) -> Result<(), FileError> {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("include"), Some(pattern)) => include(self, pattern)?,
                (Some("required" | "optional"), Some(path)) => {
                    let arguments = words.map(str::to_owned).collect();
                    self.plugins.push(Plugin { file: file.to_owned(), path: path.into(), arguments });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Parses a text. Returns also the patterns of its include lines.
    #[cfg(feature = "fuzzing")]
    pub(super) fn of_text(text: &str) -> (Self, Vec<String>) {
        let (mut read, mut included) = (Self { plugins: Vec::new(), plugin_dir: None, files: Vec::new() }, Vec::new());
        let _ = read.add(Path::new("plugstack.conf"), text, &mut |_, pattern| {
            included.push(pattern.to_owned());
            Ok(())
        });
        (read, included)
    }

    /// Returns the path of the site configuration in this plugin's line.
    pub(super) fn config_path(&self) -> Option<PathBuf> {
        self.ours()?.arguments.iter().find_map(|argument| argument.strip_prefix("config=")).map(Into::into)
    }
}

impl Plugin {
    fn is(&self, name: &str) -> bool {
        self.path.file_name().is_some_and(|file| file == name)
    }
}

/// Returns the files that match a pattern with `*` and `?`, sorted. Hidden files match only a pattern that begins with
/// a dot.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::new()];
    for part in pattern {
        let text = part.to_string_lossy();
        if !text.contains(['*', '?']) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let fits =
            |name: &str| (!name.starts_with('.') || text.starts_with('.')) && fits(text.as_bytes(), name.as_bytes());
        found = found
            .iter()
            .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten())
            .filter(|entry| fits(&entry.file_name().to_string_lossy()))
            .map(|entry| entry.path())
            .collect();
        found.sort();
    }
    found.retain(|path| path.is_file());
    found
}

/// Whether a pattern with `*` and `?` matches a name.
pub(super) fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut pattern, mut name) = (pattern, name);
    // What follows the last star, and the name from where it was tried. An earlier star need not take more.
    let mut star = None;
    loop {
        (pattern, name) = match (pattern.split_first(), name.split_first()) {
            (Some((b'*', rest)), _) => {
                star = Some((rest, name));
                (rest, name)
            }
            (Some((c, rest)), Some((d, left))) if *c == b'?' || c == d => (rest, left),
            (None, None) => return true,
            _ => match star {
                Some((rest, [_, left @ ..])) => {
                    star = Some((rest, left));
                    (rest, left)
                }
                _ => return false,
            },
        };
    }
}

fn read(path: &Path) -> Result<String, FileError> {
    fs::read_limited(path, LONGEST).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{create_dir, write};

    #[test]
    fn includes_are_followed_in_order() {
        let directory = gcp_wif_core::testing::directory();
        write(directory.join("slurm.conf"), "ClusterName=x # plugstackconfig=/no\nPluginDir=/nowhere:/nor-here\n")
            .unwrap();
        write(directory.join("plugstack.conf"), "# optional spank_gcp_wif.so\ninclude plugstack.conf.d/*\n").unwrap();
        create_dir(directory.join("plugstack.conf.d")).unwrap();
        let file = |name: &str, text: &str| write(directory.join("plugstack.conf.d").join(name), text).unwrap();
        file("pyxis.conf", "required /usr/lib/slurm/spank_pyxis.so sbatch_support=1\n");
        file("10-gcp-wif.conf", "optional\tspank_gcp_wif.so  config=/etc/x.json # ours\n");
        file(".hidden", "required spank_pyxis.so\n");
        let read = || Plugstack::new(&SlurmConf::read(&directory.join("slurm.conf")), None).unwrap();
        let plugstack = read();
        assert_eq!(plugstack.plugins.len(), 2);
        assert_eq!(plugstack.config_path(), Some("/etc/x.json".into()));
        assert!(!plugstack.pyxis_is_earlier());
        assert_eq!(plugstack.missing_file(), Some("/nowhere/spank_gcp_wif.so".into()));
        file("05-pyxis.conf", "optional spank_pyxis.so\n");
        assert!(read().pyxis_is_earlier());
    }

    #[test]
    fn slurm_conf_can_name_another_file_and_cyclic_includes_end() {
        let directory = gcp_wif_core::testing::directory();
        let other = directory.join("other.conf");
        write(directory.join("slurm.conf"), format!("plugstackconfig = {}\n", other.display())).unwrap();
        write(&other, format!("include {0}\noptional {0}/spank_gcp_wif.so\n", other.display())).unwrap();
        let plugstack = Plugstack::new(&SlurmConf::read(&directory.join("slurm.conf")), None).unwrap();
        assert!(plugstack.ours().is_some() && plugstack.missing_file().is_some());
        std::fs::remove_file(&other).unwrap();
        assert!(Plugstack::new(&SlurmConf::read(&directory.join("slurm.conf")), None).unwrap_err().is_absent());
    }

    #[test]
    fn patterns_match_names() {
        for (pattern, name, expected) in [
            ("*", "a.conf", true),
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf~", false),
            ("1?-*.c*f", "10-gcp-wif.conf", true),
            ("?", "", false),
            ("", "", true),
            ("*a*b", "aabab", true),
            ("*ab*", "aab", true),
            ("a*b", "ab-", false),
            (&"*a".repeat(100), &"a".repeat(99), false),
            (&"*a".repeat(100), &"a".repeat(200), true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
