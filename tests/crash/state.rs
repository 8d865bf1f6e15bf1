//! The state of a directory tree: names, owners, modes, access lists and contents. Values that differ between two runs
//! of the same job, such as tokens and times, are replaced, so that the states of two runs are equal.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::google::Google;

/// The description of each file, by its path.
pub type State = BTreeMap<PathBuf, String>;

/// Returns the state of a directory tree.
pub fn state(directory: &Path, google: &Google) -> State {
    let mut state = State::new();
    for (path, below) in walk(directory) {
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let content = if kind.is_file() {
            content(&path, google)
        } else if kind.is_symlink() {
            fs::read_link(&path).unwrap().display().to_string()
        } else {
            String::new()
        };
        // `until` has the deadline of a lock's holder, which each holder writes anew.
        let is_until = path.file_name().is_some_and(|name| name == "until");
        if !kind.is_socket() && !is_until {
            let (uid, gid, mode, list) = (metadata.uid(), metadata.gid(), metadata.mode(), access_list(&path));
            state.insert(below, format!("{uid}:{gid} {mode:o} {list} {content}"));
        }
    }
    state
}

/// Returns the inode number and change time of each file of a directory tree. Every change of a file changes them.
pub fn fingerprint(directory: &Path) -> BTreeMap<PathBuf, String> {
    let print = |path: &Path| {
        let metadata = path.symlink_metadata().unwrap();
        format!("{} {}.{}", metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    walk(directory).into_iter().map(|(path, below)| (below, print(&path))).collect()
}

/// Returns the difference between two states, one line for each file.
pub fn difference(before: &State, after: &State) -> Vec<String> {
    let paths = before.keys().chain(after.keys().filter(|path| !before.contains_key(*path)));
    let differs = paths.filter(|path| before.get(*path) != after.get(*path));
    let shown = |state: &State, path: &PathBuf| state.get(path).map_or("-", String::as_str).to_owned();
    differs
        .map(|path| format!("{}: {} instead of {}", path.display(), shown(after, path), shown(before, path)))
        .collect()
}

/// Returns the path of each file below a directory, also relative to it.
pub fn walk(directory: &Path) -> Vec<(PathBuf, PathBuf)> {
    let (mut found, mut next) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(path) = next.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                next.push(entry.path());
            }
            found.push((entry.path(), entry.path().strip_prefix(directory).unwrap().to_owned()));
        }
    }
    found
}

fn access_list(path: &Path) -> String {
    let mut list = [0; 256];
    let length = rustix::fs::lgetxattr(path, "system.posix_acl_access", &mut list).unwrap_or(0);
    list[..length].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn content(path: &Path, google: &Google) -> String {
    let text = String::from_utf8(fs::read(path).unwrap()).unwrap_or_else(|_| panic!("{}", path.display()));
    match path.file_name().unwrap().to_str().unwrap() {
        // These files are for all jobs of the node, and their content depends on the faults. Only check that each line
        // is complete.
        "metrics.prom" => text.lines().all(|line| line.starts_with('#') || line.contains(' ')).to_string(),
        "audit.log" => text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()).to_string(),
        _ => {
            let text = match serde_json::from_str::<Value>(&text) {
                Ok(Value::Object(mut object)) => {
                    // Process IDs, and the random ID of the run.
                    for key in ["worker", "seen", "run"] {
                        object.remove(key);
                    }
                    Value::from(object).to_string()
                }
                _ => text,
            };
            replace_numbers(&replace_tokens(&text, google))
        }
    }
}

/// Replaces each token in a text by the name of its account.
fn replace_tokens(text: &str, google: &Google) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(at) = ["ya29.", "gcpwif_"].iter().filter_map(|word| rest.find(word)).min() {
        let (before, token) = rest.split_at(at);
        let token = &token[..token.find(|c| !is_token(c)).unwrap_or(token.len())];
        replaced.push_str(before);
        match google.state.token(token) {
            Some(known) => replaced.push_str(&format!("<token of {}>", known.identity.name())),
            None => replaced.push_str("<handle>"),
        }
        rest = &rest[at + token.len()..];
    }
    replaced + rest
}

/// Replaces each number in a text by `#`.
fn replace_numbers(text: &str) -> String {
    let mut replaced = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' if replaced.ends_with('#') => {}
            '0'..='9' => replaced.push('#'),
            c => replaced.push(c),
        }
    }
    replaced
}
