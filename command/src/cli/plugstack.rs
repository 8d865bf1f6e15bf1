//! What Slurm's configuration says of plugins: plugstack.conf with what it includes, as `spank(8)` has it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use gcp_wif_core::world::fs::{self, FileError};

/// Where slurm.conf is: of the node, or the copy that slurmd keeps where Slurm runs without configuration files.
const SLURM_CONF: [&str; 2] = ["/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf"];
/// Where Slurm looks for plugins if slurm.conf does not say: it is compiled in, and these are the packages' places.
const PLUGIN_DIRS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/slurm-wlm",
    "/usr/lib/aarch64-linux-gnu/slurm-wlm",
    "/usr/lib64/slurm",
    "/usr/lib/slurm",
];
const LONGEST: u64 = 1 << 20;
/// Includes within includes; more is a circle.
const DEEPEST: u32 = 8;

const OURS: &str = "spank_gcp_wif.so";
const PYXIS: &str = "spank_pyxis.so";

/// plugstack.conf.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plugstack {
    plugins: Vec<Plugin>,
    /// Where Slurm looks for plugins that are named without a path, if slurm.conf says.
    plugin_dir: Option<String>,
}

/// A plugin's line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plugin {
    /// The file that the line is in.
    pub(super) file: PathBuf,
    path: PathBuf,
    arguments: Vec<String>,
}

impl Plugstack {
    /// Reads the node's.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn of_node() -> Result<Self, FileError> {
        let asked = std::env::var_os("SLURM_CONF").map(PathBuf::from);
        let usual = SLURM_CONF.map(PathBuf::from);
        let conf = asked.or_else(|| usual.iter().find(|path| path.exists()).cloned());
        Self::of_slurm_conf(&conf.unwrap_or_else(|| PathBuf::from(SLURM_CONF[0])))
    }

    fn of_slurm_conf(conf: &Path) -> Result<Self, FileError> {
        let text = read(conf).unwrap_or_default();
        let plugstack =
            value(&text, "PlugStackConfig").map_or_else(|| conf.with_file_name("plugstack.conf"), Into::into);
        let mut plugins = Vec::new();
        collect(&plugstack, 0, &mut plugins)?;
        Ok(Self { plugins, plugin_dir: value(&text, "PluginDir").map(str::to_owned) })
    }

    /// This plugin's line.
    pub(super) fn ours(&self) -> Option<&Plugin> {
        self.plugins.iter().find(|plugin| plugin.is(OURS))
    }

    /// Whether pyxis comes before this plugin.
    pub(super) fn pyxis_is_earlier(&self) -> bool {
        let place = |name: &str| self.plugins.iter().position(|plugin| plugin.is(name));
        matches!((place(PYXIS), place(OURS)), (Some(pyxis), Some(ours)) if pyxis < ours)
    }

    /// This plugin's own file.
    pub(super) fn plugin_file(&self) -> Option<PathBuf> {
        self.places()?.into_iter().find(|place| place.exists())
    }

    /// Where this plugin's own file ought to be and is not. Slurm passes over an `optional` one in silence.
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

    /// The site configuration that this plugin's line names.
    pub(super) fn config_path(&self) -> Option<PathBuf> {
        self.ours()?.arguments.iter().find_map(|argument| argument.strip_prefix("config=")).map(Into::into)
    }
}

impl Plugin {
    fn is(&self, name: &str) -> bool {
        self.path.file_name().is_some_and(|file| file == name)
    }
}

fn collect(file: &Path, depth: u32, plugins: &mut Vec<Plugin>) -> Result<(), FileError> {
    for line in read(file)?.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        match (words.next().as_deref(), words.next()) {
            (Some("include"), Some(pattern)) if depth < DEEPEST => {
                let pattern = file.parent().unwrap_or(Path::new("/")).join(pattern);
                for included in matching(&pattern) {
                    collect(&included, depth + 1, plugins)?;
                }
            }
            (Some("required" | "optional"), Some(path)) => {
                plugins.push(Plugin { file: file.to_owned(), path: path.into(), arguments: words.collect() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The files that a pattern with `*` and `?` matches, in order; hidden ones need to be named.
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

fn fits(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, first) => first.is_none(),
        (Some((b'*', rest)), first) => fits(rest, name) || first.is_some_and(|(_, left)| fits(pattern, left)),
        (Some((c, rest)), Some((d, left))) => (*c == b'?' || c == d) && fits(rest, left),
        (Some(_), None) => false,
    }
}

/// A key's value in slurm.conf, whose keys know no case.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut pairs = lines.filter_map(|line| line.split_once('='));
    pairs.find_map(|(name, value)| name.trim().eq_ignore_ascii_case(key).then(|| value.trim()))
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
        let read = || Plugstack::of_slurm_conf(&directory.join("slurm.conf")).unwrap();
        let plugstack = read();
        assert_eq!(plugstack.plugins.len(), 2);
        assert_eq!(plugstack.config_path(), Some("/etc/x.json".into()));
        assert!(!plugstack.pyxis_is_earlier());
        assert_eq!(plugstack.missing_file(), Some("/nowhere/spank_gcp_wif.so".into()));
        file("05-pyxis.conf", "optional spank_pyxis.so\n");
        assert!(read().pyxis_is_earlier());
    }

    #[test]
    fn slurm_conf_may_name_another_one_and_a_circle_ends() {
        let directory = gcp_wif_core::testing::directory();
        let other = directory.join("other.conf");
        write(directory.join("slurm.conf"), format!("plugstackconfig = {}\n", other.display())).unwrap();
        write(&other, format!("include {0}\noptional {0}/spank_gcp_wif.so\n", other.display())).unwrap();
        let plugstack = Plugstack::of_slurm_conf(&directory.join("slurm.conf")).unwrap();
        assert!(plugstack.ours().is_some() && plugstack.missing_file().is_some());
        std::fs::remove_file(&other).unwrap();
        assert!(Plugstack::of_slurm_conf(&directory.join("slurm.conf")).unwrap_err().is_absent());
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "a.conf", true),
            ("*.conf", "a.conf", true),
            ("*.conf", "a.conf~", false),
            ("1?-*.c*f", "10-gcp-wif.conf", true),
            ("?", "", false),
            ("", "", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }
}
