//! Checks at the end of every test: idle nodes, and no secret anywhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Cluster, Node};

/// What every handle begins with.
const HANDLE: &str = "gcpwif_";

impl Cluster {
    /// Panics unless both nodes become idle and no job is left in the queue within 60 seconds.
    /// A node that is drained or down, or a held job, fails at once.
    #[track_caller]
    pub fn assert_healthy(&self) {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let nodes = self.report(&["sinfo", "-h", "-N", "-p", "debug", "-o", "%N %T %E"]);
            let jobs = self.report(&["squeue", "-h", "-o", "%i %u %T %r"]);
            let idle = nodes.lines().filter(|line| line.split(' ').nth(1) == Some("idle")).count();
            if idle == 2 && jobs.is_empty() {
                return;
            }
            let bad = ["drain", "down", "fail"].iter().any(|word| nodes.contains(word));
            let held = jobs.to_lowercase().contains("held");
            let late = Instant::now() >= end;
            assert!(!(bad || held || late), "not healthy\nnodes:\n{nodes}jobs:\n{jobs}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Panics if one of the secrets, or a job's handle, is in a log, the agent's included, in Slurm's
    /// state or spool directories, or in an argument of any process. The message has the secret's
    /// first 12 characters only. Handles are those that jobs have now, and all of their form.
    #[track_caller]
    pub fn assert_nowhere<S: AsRef<str>>(&self, secrets: &[S]) {
        let mut files = Vec::new();
        for name in ["log", "state", "spool", "munge"] {
            collect_files(&self.dir().join(name), &mut files);
        }
        files.extend(["slurm.conf", "plugstack.conf"].map(|name| self.dir().join(name)));
        files.extend(self.nodes().iter().flat_map(logs_of_agents));
        files.extend(self.command_lines());
        let handles: Vec<String> = self.nodes().iter().flat_map(handles).collect();
        // Many secrets share a prefix, so this searches a text once for each prefix instead of once for each secret.
        let mut groups: BTreeMap<&[u8], Vec<&str>> = BTreeMap::new();
        for secret in secrets.iter().map(AsRef::as_ref).chain(handles.iter().map(String::as_str)) {
            assert!(!secret.is_empty(), "an empty secret is everywhere");
            let bytes = secret.as_bytes();
            groups.entry(&bytes[..bytes.len().min(5)]).or_default().push(secret);
        }
        for file in files {
            // Sockets and files that are gone by now cannot be read.
            let Ok(bytes) = fs::read(&file) else { continue };
            assert!(
                !places(&bytes, HANDLE.as_bytes()).any(|at| is_handle(&bytes[at..])),
                "{} holds a handle",
                file.display()
            );
            for (beginning, group) in &groups {
                let held = |at: usize| group.iter().find(|secret| bytes[at..].starts_with(secret.as_bytes()));
                if let Some(secret) = places(&bytes, beginning).find_map(held) {
                    let start: String = secret.chars().take(12).collect();
                    panic!("{} holds the secret {start}...", file.display());
                }
            }
        }
    }

    /// The `cmdline` files of every process in the cluster, by way of its own /proc.
    fn command_lines(&self) -> Vec<PathBuf> {
        let init = fs::read_to_string(self.dir().join("init")).unwrap_or_default();
        if init.is_empty() {
            return Vec::new();
        }
        let proc = Path::new("/proc").join(init.trim_end()).join("root/proc");
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().join("cmdline")).filter(|path| path.exists()).collect()
    }

    #[track_caller]
    fn report(&self, words: &[&str]) -> String {
        self.as_user("root").command(words).run().ok().stdout
    }
}

/// The logs in each directory of a node's /run: wherever the runtime directory is or was.
fn logs_of_agents(node: &Node) -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect_files(&node.run_dir(), &mut files);
    files.retain(|file| file.extension().is_some_and(|extension| extension == "log" || extension == "prom"));
    files
}

/// The handles that jobs of a node have now.
fn handles(node: &Node) -> Vec<String> {
    let mut files = Vec::new();
    collect_files(&node.run_dir(), &mut files);
    files.retain(|file| file.file_name().is_some_and(|name| name == "handle"));
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.filter(|handle| !handle.is_empty()).collect()
}

/// Whether a text begins with a handle: its fixed beginning, then 32 bytes in base64url.
fn is_handle(text: &[u8]) -> bool {
    let rest = text.strip_prefix(HANDLE.as_bytes()).unwrap_or_default();
    let is_base64url = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    rest.iter().take_while(is_base64url).count() >= 43
}

fn collect_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect_files(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

/// Where a word begins in a text.
fn places<'a>(text: &'a [u8], word: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    // Looks for the first byte before it compares: logs at level debug5 are long.
    let starts = text.iter().enumerate().filter(|(_, byte)| **byte == word[0]);
    starts.map(|(at, _)| at).filter(|at| text[*at..].starts_with(word))
}
