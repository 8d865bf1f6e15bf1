//! A compute node, seen from outside.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{CommandLine, User};
use super::wait_until;

const LIMIT: Duration = Duration::from_secs(60);

/// One node of a cluster. Its paths can be read, changed and broken at any time.
#[derive(Clone, Debug)]
pub struct Node {
    cluster: PathBuf,
    dir: PathBuf,
    number: u8,
}

impl Node {
    pub(super) fn new(cluster: &Path, number: u8) -> Self {
        let dir = cluster.join(format!("node{number}"));
        Self { cluster: cluster.to_owned(), dir, number }
    }

    /// The name that Slurm knows: n1 or n2.
    pub fn name(&self) -> String {
        format!("n{}", self.number)
    }

    /// The site configuration, `/etc/slurm/gcp-wif.json` on the node.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("etc-slurm/gcp-wif.json")
    }

    /// Replaces the site configuration by a file that root owns, mode 0644.
    pub fn write_config(&self, json: &str) {
        let draft = self.dir.join("etc-slurm/.gcp-wif.json");
        fs::write(&draft, json).expect("the configuration can be written");
        set_mode(&draft, 0o644);
        fs::rename(&draft, self.config_path()).expect("the configuration can be renamed");
    }

    /// Where subject tokens are, `/var/run/secrets/tokens` on the node.
    pub fn tokens_dir(&self) -> PathBuf {
        self.dir.join("tokens")
    }

    /// The node's `/run`, a tmpfs of 64 MB. It disappears when the cluster ends.
    pub fn run_dir(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// What the plugin keeps for a job, `/run/gcp-wif/jobs/ID` on the node.
    pub fn job_dir(&self, job: &str) -> PathBuf {
        self.run_dir().join("gcp-wif/jobs").join(job)
    }

    /// slurmd's own log, with the lines of its steps.
    pub fn log(&self) -> String {
        let path = self.cluster.join("log").join(format!("{}.log", self.name()));
        String::from_utf8_lossy(&fs::read(path).expect("slurmd has a log")).into_owned()
    }

    /// A user in the node's view, outside of any job: alice, bob, carol or root.
    pub fn as_user(&self, name: &str) -> User {
        User::new(&self.cluster, Some(self.number), name)
    }

    /// A command as root in the node's view.
    pub fn command<W: AsRef<str>>(&self, words: impl IntoIterator<Item = W>) -> CommandLine {
        self.as_user("root").command(words)
    }

    /// Restarts slurmd, and waits until the new one listens. Jobs on the node continue.
    #[track_caller]
    pub fn restart_slurmd(&self) {
        let stop = r#"pid=$(cat "$0.pid") && kill "$pid" && while kill -0 "$pid"; do sleep 0.03; done"#;
        let start = r#"exec setsid slurmd -N "${0##*/}" </dev/null >>"$0.err" 2>&1"#;
        let log = self.cluster.join("log").join(self.name()).display().to_string();
        self.command(["bash", "-c", &format!("{{ {stop}; }} 2>/dev/null\n{start}"), &log]).limit(LIMIT).run().ok();
        let conf = fs::read_to_string(self.cluster.join("slurm.conf")).expect("the cluster has a slurm.conf");
        let node = conf.lines().find(|line| line.starts_with(&format!("NodeName={} ", self.name())));
        let port = node.and_then(|line| line.split_once(" Port=")?.1.split(' ').next()?.parse().ok());
        let port: u16 = port.expect("slurm.conf has the node's port");
        wait_until(LIMIT, || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }
}

/// Sets the permission bits of a file.
pub fn set_mode(path: impl AsRef<Path>, mode: u32) {
    let path = path.as_ref();
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .unwrap_or_else(|error| panic!("chmod {}: {error}", path.display()));
}

/// Gives a file to a user and the group of the same number.
pub fn set_owner(path: impl AsRef<Path>, id: u32) {
    let path = path.as_ref();
    chown(path, Some(id), Some(id)).unwrap_or_else(|error| panic!("chown {}: {error}", path.display()));
}
