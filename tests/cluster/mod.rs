//! A throwaway Slurm for integration tests: one controller, two nodes, three users.
//!
//! ```text
//! mod.rs      Settings, Cluster: boot, users, logs, end
//! node.rs     a node's files, read and broken from outside
//! command.rs  commands on the submit host or a node: CommandLine, Run, Background
//! jobs.rs     batch jobs: submit, wait, read the output
//! health.rs   whether every node is idle, and whether a secret leaked
//! ```
//!
//! Each [`Cluster`] is its own Slurm in its own directory (`ci/cluster` describes it), so tests may
//! run side by side. It ends when it is dropped, and by itself when the test process dies.
//! Set `GCP_WIF_KEEP` to keep the directory.

#![allow(dead_code, reason = "no test uses every part of the harness")]
#![allow(unreachable_pub, unused_imports, reason = "each test crate is its own root")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test ends with a panic, and prints"
)]

mod command;
mod health;
mod jobs;
mod node;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use command::{Background, CommandLine, Run, User};
pub use jobs::JobState;
pub use node::{Node, set_mode, set_owner};

/// User and group id of alice, who is also in group `ml` (61100).
pub const ALICE: u32 = 61001;
/// User and group id of bob.
pub const BOB: u32 = 61002;
/// User and group id of carol.
pub const CAROL: u32 = 61003;

/// Whether Slurm loads the plugin, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plugin {
    /// A Slurm without the plugin.
    Absent,
    /// `optional spank_gcp_wif.so`, as the package installs it.
    #[default]
    Optional,
    /// `required spank_gcp_wif.so`.
    Required,
}

/// How a cluster is made.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Whether Slurm loads the plugin, and how.
    pub plugin: Plugin,
    /// The plugin's arguments, such as `config=/path`.
    pub arguments: String,
    /// Lines for slurm.conf; each replaces the default line with the same key.
    pub conf: Vec<String>,
    /// Lines of plugstack.conf before the plugin's.
    pub before: Vec<String>,
    /// Lines of plugstack.conf after the plugin's.
    pub after: Vec<String>,
    /// A plugin instead of [`plugin_path`].
    pub path: Option<PathBuf>,
    /// Processors of each node, as Slurm counts them.
    pub cpus: Option<u32>,
}

impl Settings {
    /// A cluster with the plugin loaded in this way.
    pub fn with(plugin: Plugin) -> Self {
        Self { plugin, ..Self::default() }
    }

    /// Adds a line to slurm.conf.
    pub fn conf(mut self, line: &str) -> Self {
        self.conf.push(line.to_owned());
        self
    }
}

/// A running Slurm with nodes n1 and n2, ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
}

impl Cluster {
    /// Boots a cluster and waits until both nodes are idle. Panics with the logs if that fails.
    #[track_caller]
    pub fn start(settings: Settings) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let dir = std::env::temp_dir().join(format!("gw-{process}-{count}"));
        // An earlier run with the same pid may have kept its directory.
        let _ = fs::remove_dir_all(&dir);
        let cluster = Self { dir };

        let mut up = cluster.script("up");
        up.args(["--owner", &process.to_string(), "--plugstack", &cluster.plugstack(&settings)]);
        for line in &settings.conf {
            up.args(["--conf", line]);
        }
        if let Some(cpus) = settings.cpus {
            up.args(["--cpus", &cpus.to_string()]);
        }
        let output = up.stdin(Stdio::null()).output().expect("ci/cluster runs");
        if !output.status.success() {
            panic!("no cluster:\n{}", tail(&String::from_utf8_lossy(&output.stderr), 200));
        }
        cluster
    }

    /// The directory that holds all of the cluster.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Node 1 or 2, named n1 or n2.
    pub fn node(&self, number: u8) -> Node {
        Node::new(&self.dir, number)
    }

    /// Both nodes.
    pub fn nodes(&self) -> [Node; 2] {
        [self.node(1), self.node(2)]
    }

    /// A user on the submit host: alice, bob, carol or root.
    pub fn as_user(&self, name: &str) -> User {
        User::new(&self.dir, None, name)
    }

    /// The home directory of a user, the same on the submit host and on every node.
    pub fn home(&self, user: &str) -> PathBuf {
        self.dir.join("home").join(user)
    }

    /// Writes the site configuration of every node.
    pub fn write_config(&self, json: &str) {
        for node in self.nodes() {
            node.write_config(json);
        }
    }

    /// All logs, each below a line that names it.
    pub fn logs(&self) -> String {
        self.each_log(|log| log.lines().collect())
    }

    /// Ends the cluster, keeping its files: for a test that looks at what is left.
    pub fn stop(&self) {
        let output = self.script("down").output().expect("ci/cluster runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn script(&self, command: &str) -> Command {
        script(&self.dir, command)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.tails());
        }
        // Must not panic, because that would abort a test that is already failing.
        if let Ok(output) = self.script("down").output()
            && !output.status.success()
        {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        if std::env::var_os("GCP_WIF_KEEP").is_some() {
            eprintln!("kept {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Cluster {
    /// plugstack.conf with the plugin, a copy that a rebuild does not disturb.
    fn plugstack(&self, settings: &Settings) -> String {
        let mut lines = settings.before.clone();
        let requirement = match settings.plugin {
            Plugin::Absent => None,
            Plugin::Optional => Some("optional"),
            Plugin::Required => Some("required"),
        };
        if let Some(requirement) = requirement {
            let copy = self.dir.join("lib/spank_gcp_wif.so");
            fs::create_dir_all(self.dir.join("lib")).expect("the cluster's directory can be made");
            fs::copy(settings.path.clone().unwrap_or_else(plugin_path), &copy).expect("the plugin can be copied");
            set_mode(&copy, 0o644);
            lines.push(format!("{requirement} {} {}", copy.display(), settings.arguments).trim_end().to_owned());
        }
        lines.extend(settings.after.iter().cloned());
        lines.join("\n")
    }

    /// The end of each log, without Slurm's lines about each of its reads and polls.
    fn tails(&self) -> String {
        let is_told = |line: &&str| !["debug3:", "debug4:", "debug5:"].iter().any(|level| line.contains(level));
        let mut text = self.each_log(|log| {
            let lines: Vec<&str> = log.lines().filter(is_told).collect();
            lines[lines.len().saturating_sub(60)..].to_vec()
        });
        for node in self.nodes() {
            let log = fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap_or_default();
            text.push_str(&format!("==== agent.log of {} ====\n{}", node.name(), tail(&log, 20)));
        }
        text
    }

    /// These lines of each log that is not empty, below a line that names it.
    fn each_log(&self, lines: impl Fn(&str) -> Vec<&str>) -> String {
        let mut text = String::new();
        for program in ["init", "munged", "slurmctld", "node1", "node2", "n1", "n2"] {
            for name in [format!("{program}.err"), format!("{program}.log")] {
                let log = fs::read(self.dir.join("log").join(&name)).unwrap_or_default();
                let log = String::from_utf8_lossy(&log);
                if !log.is_empty() {
                    text.push_str(&format!("==== {name} ====\n{}\n", lines(&log).join("\n")));
                }
            }
        }
        text
    }
}

/// Waits until the condition holds; panics at the limit.
#[track_caller]
pub fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < end, "the condition did not hold within {limit:?}");
        thread::sleep(Duration::from_millis(30));
    }
}

/// `ci/cluster COMMAND DIR`, with no input.
fn script(dir: &Path, command: &str) -> Command {
    let mut script = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/cluster"));
    script.arg(command).arg(dir).stdin(Stdio::null());
    script
}

/// The plugin under test: `GCP_WIF_PLUGIN`, else the release build, else the debug build.
pub fn plugin_path() -> PathBuf {
    if let Some(path) = std::env::var_os("GCP_WIF_PLUGIN") {
        return PathBuf::from(path);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| OsString::from("target"));
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join(target);
    ["release", "debug"]
        .map(|profile| target.join(profile).join("libspank_gcp_wif.so"))
        .into_iter()
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("no plugin in {}: cargo build --release", target.display()))
}

/// The companion command under test: `GCP_WIF_COMMAND`, else the one beside the plugin.
pub fn command_path() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| {
        let set = std::env::var_os("GCP_WIF_COMMAND").map(PathBuf::from);
        let path = set.unwrap_or_else(|| plugin_path().with_file_name("gcp-wif"));
        assert!(path.exists(), "no {}: cargo build --release", path.display());
        path.display().to_string()
    });
    &PATH
}

/// The last lines of a text.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let mut tail = all[all.len().saturating_sub(lines)..].join("\n");
    tail.push('\n');
    tail
}
