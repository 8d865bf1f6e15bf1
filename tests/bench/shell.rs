//! A user's shell on the submit host that times commands from the inside, because entering the cluster's namespaces
//! takes longer than the commands.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::cluster::Cluster;

const LOOP: &str = r#"
while IFS= read -r line; do
  begun=$EPOCHREALTIME
  eval "$line" >/dev/null 2>errors </dev/null
  status=$? ended=$EPOCHREALTIME
  echo "$status ${begun/./} ${ended/./}"
done"#;

pub struct Shell {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    errors: std::path::PathBuf,
}

impl Shell {
    /// Starts alice's shell in her home directory.
    pub fn start(cluster: &Cluster) -> Self {
        let mut child = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("ci/cluster"))
            .arg("run")
            .arg(cluster.dir())
            .args(["--user", "alice", "--", "bash", "-c", LOOP])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ci/cluster runs");
        let stdin = child.stdin.take().expect("stdin is a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Self { child, stdin, stdout, errors: cluster.home("alice").join("errors") }
    }

    /// How many milliseconds a line of shell takes. Panics if the line fails, because its time would be misleading.
    pub fn time(&mut self, line: &str) -> f64 {
        writeln!(self.stdin, "{line}").expect("the shell listens");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("the shell answers");
        let numbers: Vec<i64> = answer.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [status, begun, ended] = numbers[..] else { panic!("{line}: the shell says {answer:?}") };
        let errors = || std::fs::read_to_string(&self.errors).unwrap_or_default();
        assert!(status == 0, "{line}: status {status}: {}", errors());
        (ended - begun) as f64 / 1000.0
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
