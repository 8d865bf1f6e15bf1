//! A worktree in which defences are taken out, and what is built and run there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;
use serde_json::Value;

use super::outcome::{self, Outcome};
use super::table::Defence;

/// The test that needs a plugin of its own.
const PANICS: &str = "failures::node::a_bug_in_every_hook_drains_no_node_and_passes_no_explicit_request";
/// What is built for the tests on a real Slurm.
const BUILD: [&str; 3] = ["build", "--locked", "--quiet"];

/// The worktree.
pub struct Tree {
    root: PathBuf,
    target: PathBuf,
    /// The program of the tests on a real Slurm.
    tests: PathBuf,
    /// Held for as long as this process runs: two of them would take out each other's defences.
    _lock: File,
}

impl Tree {
    /// Makes one of what is committed here, and of changes to it that are not.
    pub fn new() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let directory = here.join("target/defences");
        fs::create_dir_all(&directory).expect("target can be written");
        let lock = File::create(directory.join("lock")).expect("the lock can be opened");
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("the lock can be had");
        let root = directory.join("tree");
        let git = |words: &[&str]| {
            let output = Command::new("git").arg("-C").arg(here).args(words).output().expect("git runs");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let path = root.display().to_string();
        git(&["worktree", "remove", "--force", &path]);
        let (_, changed) = git(&["stash", "create"]);
        let commit = if changed.is_empty() { "HEAD" } else { &changed };
        let (is_made, _) = git(&["worktree", "add", "--detach", "--force", &path, commit]);
        assert!(is_made, "git makes no worktree in {path}");
        Self { root, target: directory.join("build"), tests: PathBuf::new(), _lock: lock }
    }

    /// Builds everything that these tests need.
    pub fn build(&mut self, tests: &[&str]) -> Result<(), String> {
        self.build_tests()?;
        self.build_plugin(tests)
    }

    /// The program of the tests. It does not depend on the plugin, so that it is built once.
    fn build_tests(&mut self) -> Result<(), String> {
        let words = ["test", "--locked", "--no-run", "--test", "slurm"];
        let told = self.cargo(words.into_iter().chain(["--message-format", "json-render-diagnostics"]))?;
        let programs = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_ours = |message: &Value| message["target"]["name"] == "slurm";
        let path = programs.filter(is_ours).find_map(|message| message["executable"].as_str().map(PathBuf::from));
        self.tests = path.ok_or("cargo names no program of the tests")?;
        Ok(())
    }

    /// Plugin and command; for one test the plugin with a bug in every hook as well.
    fn build_plugin(&self, tests: &[&str]) -> Result<(), String> {
        let plugin = self.built("libspank_gcp_wif.so");
        if tests.contains(&PANICS) {
            self.cargo(["build", "--locked", "--quiet", "--package", "spank-gcp-wif", "--features", "panics"])?;
            fs::rename(&plugin, self.built("panics.so")).map_err(|error| error.to_string())?;
        }
        self.cargo(BUILD).map(drop)
    }

    fn built(&self, name: &str) -> PathBuf {
        self.target.join("debug").join(name)
    }

    fn cargo<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Result<String, String> {
        let mut cargo = Command::new("cargo");
        // Quick to build again.
        cargo.env("CARGO_TARGET_DIR", &self.target).env("CARGO_INCREMENTAL", "1");
        let output = cargo.args(words).current_dir(&self.root).stdin(Stdio::null()).output().expect("cargo runs");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let told = String::from_utf8_lossy(&output.stderr);
            let errors: Vec<&str> = told.lines().filter(|line| line.starts_with("error")).collect();
            Err(format!("it does not build: {}", errors.join(" ")))
        }
    }

    /// Runs these tests.
    pub fn run<'a>(&self, tests: &[&'a str]) -> Vec<(&'a str, Outcome)> {
        let skipped = self.target.join("skipped");
        let _ = fs::remove_file(&skipped);
        let mut command = Command::new(&self.tests);
        command.args(tests).arg("--exact").current_dir(&self.root).stdin(Stdio::null());
        command.env("GCP_WIF_PLUGIN", self.built("libspank_gcp_wif.so")).env("GCP_WIF_COMMAND", self.built("gcp-wif"));
        command.env("GCP_WIF_SKIPPED", &skipped);
        if std::env::var_os("RUST_TEST_THREADS").is_none() {
            command.env("RUST_TEST_THREADS", "4");
        }
        let output = command.output().expect("the tests run");
        let told = String::from_utf8_lossy(&output.stdout);
        let skipped = fs::read_to_string(&skipped).unwrap_or_default();
        let outcome = |test: &str| match outcome::of(test, &told) {
            Outcome::Green if !skipped.is_empty() && tests.len() == 1 => Outcome::Error(skipped.trim().to_owned()),
            outcome => outcome,
        };
        tests.iter().map(|test| (*test, outcome(test))).collect()
    }

    /// Runs a defence's tests without it, and puts it back.
    pub fn without(&mut self, defence: &Defence) -> Result<Vec<(&'static str, Outcome)>, String> {
        let mut before = Vec::new();
        for edit in defence.edits {
            let path = self.root.join(edit.file);
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", edit.file))?;
            if text.matches(edit.was).count() != 1 {
                before
                    .iter()
                    .rev()
                    .for_each(|(path, text)| fs::write(path, text).expect("the worktree can be written"));
                return Err(format!("it does not apply: {}", edit.file));
            }
            fs::write(&path, text.replacen(edit.was, edit.becomes, 1)).expect("the worktree can be written");
            before.push((path, text));
        }
        let is_of_tests = defence.edits.iter().any(|edit| edit.file.starts_with("tests/"));
        let built = if is_of_tests { self.build_tests() } else { self.build_plugin(defence.red) };
        let outcomes = built.map(|()| self.run(defence.red));
        before.iter().rev().for_each(|(path, text)| fs::write(path, text).expect("the worktree can be written"));
        if is_of_tests {
            self.build_tests()?;
        }
        outcomes
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let here = env!("CARGO_MANIFEST_DIR");
        let remove = ["-C", here, "worktree", "remove", "--force"];
        let _ = Command::new("git").args(remove).arg(&self.root).output();
    }
}
