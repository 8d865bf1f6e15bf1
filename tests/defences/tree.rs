//! The git worktree in which defences are removed, with its builds and test runs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;
use serde_json::Value;

use super::outcome::{self, Outcome};
use super::table::Defence;

/// The test that needs a special build of the plugin.
const PANICS: &str = "failures::node::a_bug_in_every_hook_drains_no_node_and_passes_no_explicit_request";
/// The cargo command that builds plugin and command.
const BUILD: [&str; 3] = ["build", "--locked", "--quiet"];

/// The worktree.
pub struct Tree {
    root: PathBuf,
    target: PathBuf,
    /// The program with the tests on a real Slurm.
    tests: PathBuf,
    /// Held while this process runs, because two processes would interfere in the same worktree.
    _lock: File,
}

impl Tree {
    /// Creates a worktree with the newest commit and the uncommitted changes to tracked files.
    pub fn new() -> Self {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let directory = here.join("target/defences");
        fs::create_dir_all(&directory).expect("cannot create target/defences");
        let lock = File::create(directory.join("lock")).expect("cannot open the lock");
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("cannot take the lock");
        let root = directory.join("tree");
        let git = |words: &[&str]| {
            let output = Command::new("git").arg("-C").arg(here).args(words).output().expect("cannot run git");
            (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let path = root.display().to_string();
        git(&["worktree", "remove", "--force", &path]);
        let (_, changed) = git(&["stash", "create"]);
        let commit = if changed.is_empty() { "HEAD" } else { &changed };
        let (is_created, _) = git(&["worktree", "add", "--detach", "--force", &path, commit]);
        assert!(is_created, "git cannot create a worktree in {path}");
        Self { root, target: directory.join("build"), tests: PathBuf::new(), _lock: lock }
    }

    /// Builds the program of the tests, and the plugin and the command that these tests need.
    pub fn build(&mut self, tests: &[&str]) -> Result<(), String> {
        self.build_tests()?;
        self.build_plugin(tests)
    }

    /// Builds the program of the tests. It does not depend on the plugin, so one build is enough for all edits of the
    /// plugin.
    fn build_tests(&mut self) -> Result<(), String> {
        let words = ["test", "--locked", "--no-run", "--test", "slurm"];
        let text = self.cargo(words.into_iter().chain(["--message-format", "json-render-diagnostics"]))?;
        let programs = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let is_ours = |message: &Value| message["target"]["name"] == "slurm";
        let path = programs.filter(is_ours).find_map(|message| message["executable"].as_str().map(PathBuf::from));
        self.tests = path.ok_or("cargo does not report the program of the tests")?;
        Ok(())
    }

    /// Builds plugin and command. For one test, also builds a plugin whose hooks panic.
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
        // Each edit changes little, so incremental builds are faster.
        cargo.env("CARGO_TARGET_DIR", &self.target).env("CARGO_INCREMENTAL", "1");
        let output = cargo.args(words).current_dir(&self.root).stdin(Stdio::null()).output().expect("cannot run cargo");
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let text = String::from_utf8_lossy(&output.stderr);
            let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error")).collect();
            Err(format!("the build fails: {}", errors.join(" ")))
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
        let output = command.output().expect("cannot run the tests");
        let text = String::from_utf8_lossy(&output.stdout);
        let skipped = fs::read_to_string(&skipped).unwrap_or_default();
        let outcome = |test: &str| match outcome::of(test, &text) {
            Outcome::Passed if !skipped.is_empty() && tests.len() == 1 => Outcome::Error(skipped.trim().to_owned()),
            outcome => outcome,
        };
        tests.iter().map(|test| (*test, outcome(test))).collect()
    }

    /// Removes a defence, runs its tests, and restores the code.
    pub fn without(&mut self, defence: &Defence) -> Result<Vec<(&'static str, Outcome)>, String> {
        let mut before = Vec::new();
        for edit in defence.edits {
            let path = self.root.join(edit.file);
            let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", edit.file))?;
            if text.matches(edit.was).count() != 1 {
                before
                    .iter()
                    .rev()
                    .for_each(|(path, text)| fs::write(path, text).expect("cannot write to the worktree"));
                return Err(format!("the edit does not apply to {}", edit.file));
            }
            fs::write(&path, text.replacen(edit.was, edit.becomes, 1)).expect("cannot write to the worktree");
            before.push((path, text));
        }
        let is_of_tests = defence.edits.iter().any(|edit| edit.file.starts_with("tests/"));
        let built = if is_of_tests { self.build_tests() } else { self.build_plugin(defence.must_fail) };
        let outcomes = built.map(|()| self.run(defence.must_fail));
        before.iter().rev().for_each(|(path, text)| fs::write(path, text).expect("cannot write to the worktree"));
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
