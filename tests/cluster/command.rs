//! Commands in a cluster, with a limit on how long they take.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::script;

/// A user in the view of the submit host or of a node.
#[derive(Clone, Debug)]
pub struct User {
    cluster: PathBuf,
    node: Option<u8>,
    name: String,
}

impl User {
    pub(super) fn new(cluster: &Path, node: Option<u8>, name: &str) -> Self {
        Self { cluster: cluster.to_owned(), node, name: name.to_owned() }
    }

    /// A command of this user, in the home directory, with a clean environment.
    pub fn command<W: AsRef<str>>(&self, words: impl IntoIterator<Item = W>) -> CommandLine {
        CommandLine {
            user: self.clone(),
            words: words.into_iter().map(|word| word.as_ref().to_owned()).collect(),
            options: Vec::new(),
            stdin: Vec::new(),
            limit: Duration::from_secs(120),
        }
    }

    /// A line for bash.
    pub fn shell(&self, line: &str) -> CommandLine {
        self.command(["bash", "-c", line])
    }
}

/// A command that is about to run.
#[derive(Clone, Debug)]
#[must_use = "a command does nothing until run() or spawn()"]
pub struct CommandLine {
    user: User,
    words: Vec<String>,
    options: Vec<String>,
    stdin: Vec<u8>,
    limit: Duration,
}

impl CommandLine {
    /// Appends a word.
    pub fn arg(mut self, word: impl Into<String>) -> Self {
        self.words.push(word.into());
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.options.extend(["--env".to_owned(), format!("{name}={value}")]);
        self
    }

    /// Feeds the command this text.
    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.stdin = text.into();
        self
    }

    /// Sets the command's time limit, instead of 120 seconds.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs to the end. Panics at the limit.
    #[track_caller]
    pub fn run(self) -> Run {
        let limit = self.limit;
        self.spawn().wait(limit)
    }

    /// Starts and does not wait.
    pub fn spawn(self) -> Background {
        let mut command = match self.user.node {
            None => script(&self.user.cluster, "run"),
            Some(number) => {
                let mut command = script(&self.user.cluster, "node");
                command.arg(number.to_string());
                command
            }
        };
        command.args(["--user", &self.user.name]).args(&self.options).arg("--").args(&self.words);
        let title = format!("{}: {}", self.user.name, self.words.join(" "));
        Background::start(command, title, self.stdin)
    }
}

/// How a command ended and what it printed.
#[derive(Clone, Debug)]
pub struct Run {
    /// Exit status; 128 and the signal's number if a signal ended the command.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it printed on stderr, without srun's lines about a job that waits: right after another job, Slurm may let one
    /// wait at any time.
    pub stderr: String,
    title: String,
}

fn without_waits(stderr: &str) -> String {
    let ends = [" queued and waiting for resources\n", " has been allocated resources\n"];
    let waits = |line: &&str| line.starts_with("srun: job ") && ends.iter().any(|end| line.ends_with(end));
    stderr.split_inclusive('\n').filter(|line| !waits(line)).collect()
}

impl Run {
    /// Panics, with the whole output, unless the exit status is this one.
    #[track_caller]
    pub fn expect_status(self, status: i32) -> Self {
        assert!(
            self.status == status,
            "{}\nstatus {} instead of {status}\n-- stdout\n{}\n-- stderr\n{}",
            self.title,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Panics, with the whole output, unless the command succeeded.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.expect_status(0)
    }
}

/// A command that runs while the test continues; ended when dropped.
#[derive(Debug)]
pub struct Background {
    child: Child,
    title: String,
    stdout: Stream,
    stderr: Stream,
}

impl Background {
    fn start(mut command: Command, title: String, input: Vec<u8>) -> Self {
        // Its own process group, so that it can be killed together with what it started: the
        // processes in the cluster's PID namespace stay in that group.
        let mut child = command
            .process_group(0)
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ci/cluster runs");
        if let Some(mut stdin) = child.stdin.take() {
            // It is not an error if a command does not read its input.
            thread::spawn(move || stdin.write_all(&input));
        }
        let stdout = Stream::start(child.stdout.take().expect("stdout is a pipe"));
        let stderr = Stream::start(child.stderr.take().expect("stderr is a pipe"));
        Self { child, title, stdout, stderr }
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has printed on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none()
    }

    /// Waits for the end. Panics at the limit.
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Run {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.exit_status() {
                break status;
            }
            if Instant::now() >= end {
                self.end();
                panic!(
                    "{}\nnot done after {limit:?}\n-- stdout\n{}\n-- stderr\n{}",
                    self.title,
                    self.stdout(),
                    self.stderr()
                );
            }
            thread::sleep(Duration::from_millis(5));
        };
        // A process that the command left behind may hold the pipes, so this does not wait long.
        let end = Instant::now() + Duration::from_secs(2);
        while !(self.stdout.is_done() && self.stderr.is_done()) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        Run {
            status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
            stdout: self.stdout(),
            stderr: without_waits(&self.stderr()),
            title: self.title.clone(),
        }
    }

    /// Sends a signal, such as `INT`, to the command alone.
    pub fn signal(&self, name: &str) {
        // The child is nsenter, which waits for the command. It must survive to report the status.
        let id = self.child.id().to_string();
        let _ = Command::new("pkill").args(["--signal", name, "--parent", &id]).status();
    }

    /// Ends the command, gently first: srun then cancels its job, instead of leaving it behind.
    fn end(&mut self) {
        self.signal("TERM");
        let end = Instant::now() + Duration::from_secs(3);
        while self.is_running() {
            if Instant::now() >= end {
                // Not kill(1): the one of Debian forky takes no group after `--`.
                let _ = killpg(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGKILL);
                let _ = self.child.wait();
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the child can be waited for")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if self.is_running() {
            self.end();
        }
    }
}

/// Collects what comes out of a pipe.
#[derive(Debug)]
struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn start(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                sink.lock().expect("no reader panics").extend_from_slice(&chunk[..count]);
            }
        });
        Self { bytes, reader }
    }

    fn is_done(&self) -> bool {
        self.reader.is_finished()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no reader panics")).into_owned()
    }
}
