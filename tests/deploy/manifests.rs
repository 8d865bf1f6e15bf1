//! A copy of deploy/ with a site's values.
#![forbid(unsafe_code)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::skipped::{is_installed, skip};

/// The products that run Slurm in Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Sunk,
    Slinky,
}

impl Kind {
    pub const BOTH: [Self; 2] = [Self::Sunk, Self::Slinky];

    /// Its folder in deploy/.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Sunk => "sunk",
            Self::Slinky => "slinky",
        }
    }
}

/// The checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Python with the libraries for manifests; none, with a note, if `ci/install deploy` did not run.
fn python(test: &str) -> Option<PathBuf> {
    let python = checkout().join("target/deploy/bin/python");
    let is_there = python.exists();
    if !is_there {
        skip(&format!("kubernetes-validate and PyYAML are not installed (ci/install deploy): {test}"));
    }
    is_there.then_some(python)
}

/// A filled-in copy of deploy/.
pub struct Manifests {
    directory: TempDir,
    python: PathBuf,
}

impl Manifests {
    /// Copies deploy/ and runs the command that site.sed names, with these values instead of those in it. None, which
    /// is said, where manifests cannot be read.
    #[track_caller]
    pub fn fill(test: &str, values: &[(&str, &str)]) -> Option<Self> {
        let python = python(test)?;
        if !is_installed("kubectl") {
            skip(&format!("kubectl is not installed: {test}"));
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory can be made");
        let copied = Command::new("cp").arg("-a").arg(checkout().join("deploy")).arg(directory.path()).status();
        assert!(copied.is_ok_and(|status| status.success()), "deploy/ is not copied");
        let path = directory.path().join("deploy/site.sed");
        let text = fs::read_to_string(&path).unwrap();
        let command = text.lines().find_map(|line| line.strip_prefix("#   ")).expect("site.sed says how to use it");
        let mut script = String::new();
        for line in text.lines() {
            let own = values.iter().find(|(name, _)| line.starts_with(&format!("s|<{name}>|")));
            let line = own.map_or_else(|| line.to_owned(), |(name, value)| format!("s|<{name}>|{value}|g"));
            script.push_str(&line);
            script.push('\n');
        }
        fs::write(&path, script).unwrap();
        let run = Command::new("bash").args(["-c", command]).current_dir(directory.path()).output().unwrap();
        assert!(run.status.success(), "{command}: {}", String::from_utf8_lossy(&run.stderr));
        Some(Self { directory, python })
    }

    /// A file of a folder.
    pub fn path(&self, kind: Kind, name: &str) -> PathBuf {
        self.directory.path().join("deploy").join(kind.folder()).join(name)
    }

    /// Replaces a text in a file of a folder.
    #[track_caller]
    pub fn replace(&self, kind: Kind, name: &str, old: &str, new: &str) {
        let path = self.path(kind, name);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(old), "{name} has no {old}");
        fs::write(path, text.replace(old, new)).unwrap();
    }

    /// The Helm values.
    #[track_caller]
    pub fn values(&self, kind: Kind) -> Value {
        self.yaml(&fs::read_to_string(self.path(kind, "values.yaml")).unwrap()).remove(0)
    }

    /// What `kubectl kustomize` makes.
    #[track_caller]
    pub fn objects(&self, kind: Kind) -> Vec<Value> {
        let run = Command::new("kubectl").arg("kustomize").arg(self.path(kind, "")).output().expect("kubectl runs");
        assert!(run.status.success(), "kubectl kustomize: {}", String::from_utf8_lossy(&run.stderr));
        self.yaml(&String::from_utf8_lossy(&run.stdout))
    }

    /// The pods of compute nodes and login nodes that the values make.
    #[track_caller]
    pub fn pods(&self, kind: Kind) -> [Value; 2] {
        let values = self.values(kind);
        match kind {
            Kind::Sunk => ["compute", "login"].map(|role| {
                let own = &values[role];
                let template = format!("sunk-{role}.yaml");
                self.pod(&template, &own["volumeMounts"], own, &own["pyxis"]["podSecurityContext"])
            }),
            Kind::Slinky => [("nodesets", "slurmd", "slinky-nodeset"), ("loginsets", "login", "slinky-loginset")].map(
                |(sets, container, template)| {
                    let own = &values[sets]["slinky"];
                    let spec = &own["podSpec"];
                    let template = format!("{template}.yaml");
                    self.pod(&template, &own[container]["volumeMounts"], spec, &spec["securityContext"])
                },
            ),
        }
    }

    /// A pod of a template, with what the values add.
    #[track_caller]
    fn pod(&self, template: &str, mounts: &Value, spec: &Value, security: &Value) -> Value {
        let path = checkout().join("tests/deploy/pods").join(template);
        let mut pod = self.yaml(&fs::read_to_string(path).unwrap()).remove(0);
        append(&mut pod["spec"]["containers"][0]["volumeMounts"], mounts);
        append(&mut pod["spec"]["volumes"], &spec["volumes"]);
        if spec["initContainers"].is_array() {
            append(&mut pod["spec"]["initContainers"], &spec["initContainers"]);
        }
        if security.is_object() {
            pod["spec"]["securityContext"] = security.clone();
        }
        pod
    }

    /// Checks objects against the schemas of a version of Kubernetes.
    #[track_caller]
    pub fn check(&self, version: &str, objects: &[Value]) {
        let (is_right, out) = self.run(&["check", version], &json!(objects).to_string());
        assert!(is_right, "Kubernetes {version}: {out}");
    }

    /// The documents of a text.
    #[track_caller]
    pub fn yaml(&self, text: &str) -> Vec<Value> {
        let (is_right, out) = self.run(&["json"], text);
        assert!(is_right, "{out}");
        serde_json::from_str(&out).unwrap()
    }

    fn run(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new(&self.python)
            .arg(checkout().join("tests/deploy/manifests.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python runs");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let out = child.wait_with_output().expect("python ends");
        let _ = writer.join();
        let text = if out.status.success() { out.stdout } else { out.stderr };
        (out.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

#[track_caller]
fn append(list: &mut Value, more: &Value) {
    let more = more.as_array().expect("the values have a list");
    list.as_array_mut().expect("the template has a list").extend(more.iter().cloned());
}

/// The items of a list; none where there is no list.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The item of a list with this name.
pub fn named<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    list(value).iter().find(|item| item["name"] == name)
}

/// A text in a value.
#[track_caller]
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}
