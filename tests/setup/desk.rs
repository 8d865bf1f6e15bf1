//! An administrator's machine, in a separate directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::api::server::{Api, TOKEN};
use crate::api::world::World;
use crate::skipped::{is_installed, skip};

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// None if a signal ended it.
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The one line of a failure.
    #[track_caller]
    pub fn failure(self, status: i32) -> String {
        assert_eq!(self.status, Some(status), "{}\n{}", self.stdout, self.stderr);
        let line = self.stderr.trim_end().to_owned();
        assert!(line.starts_with("setup: ") && !line.contains('\n'), "{line}");
        line
    }
}

pub struct Desk {
    pub api: Api,
    pub directory: TempDir,
}

impl Desk {
    /// None, with a note, if gcloud is not installed.
    pub fn new() -> Option<Self> {
        if !is_installed("gcloud") {
            skip("gcloud is not installed: deploy/google/setup");
            return None;
        }
        Some(Self::without_gcloud(World::new()))
    }

    pub fn without_gcloud(world: World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let api = Api::start(world);
        for name in ["home", "tmp", "out", "bin"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        fs::write(directory.path().join("ca.pem"), api.ca_certificate()).unwrap();
        fs::write(directory.path().join("token"), TOKEN).unwrap();
        Self { api, directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What the script wrote.
    pub fn written(&self, name: &str) -> String {
        fs::read_to_string(self.path("out").join(name)).unwrap()
    }

    /// A command in the repository's root, with a gcloud that knows only this project.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(root()).stdin(Stdio::null());
        for name in ["IAM", "SERVICEUSAGE", "CLOUDRESOURCEMANAGER", "STORAGE", "ARTIFACTREGISTRY"] {
            command.env(format!("CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}"), self.api.url());
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("CURL_CA_BUNDLE", self.path("ca.pem"))
            .env("CLOUDSDK_CONFIG", self.path("home"))
            .env("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE", self.path("token"))
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "1")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "1");
        command
    }

    /// Runs the script for the project and the issuer of this desk.
    pub fn setup(&self, options: &[&str]) -> Run {
        let issuer = format!("--issuer={}", self.api.issuer());
        let output = format!("--output={}", self.path("out").display());
        let mut all = vec!["--project=my-project", &issuer, &output];
        all.extend(options);
        self.run(&all)
    }

    /// Runs the script with only these options.
    pub fn run(&self, options: &[&str]) -> Run {
        finish(self.command("deploy/google/setup").args(options))
    }

    /// A program that this desk's commands find first.
    pub fn install(&self, name: &str, text: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

pub fn finish(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares with a file below `tests/setup/golden`; `BLESS=1` writes it.
#[track_caller]
pub fn golden(name: &str, seen: &str) {
    let path = root().join("tests/setup/golden").join(name);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, seen).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    for (seen, expected) in seen.lines().zip(expected.lines()) {
        assert_eq!(seen, expected, "{} differs (left: seen, right: golden)", path.display());
    }
    assert_eq!(seen.lines().count(), expected.lines().count(), "{}\n{seen}", path.display());
}
