//! A projected volume as the kubelet lays it out: the file is a symlink through `..data`, which
//! a rotation replaces in one rename.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::iam::rfc3339;
use super::state::random_digits;

/// The name of the file in the volume.
const FILE: &str = "token";

/// A directory that holds a subject token. It is not removed on drop: the test owns it.
#[derive(Debug)]
pub struct ProjectedVolume {
    directory: PathBuf,
    mode: u32,
}

impl ProjectedVolume {
    /// Lays a token out in a directory, which it creates if necessary. Mode 0600, the kubelet's for a
    /// pod that runs as root; 0644 is its other one, and 0400 the one of `defaultMode: 0400`.
    pub fn new(directory: impl AsRef<Path>, token: &str) -> Self {
        Self::with_mode(directory, token, 0o600)
    }

    pub fn with_mode(directory: impl AsRef<Path>, token: &str, mode: u32) -> Self {
        let directory = directory.as_ref().to_owned();
        fs::create_dir_all(&directory).expect("the volume's directory");
        let volume = Self { directory, mode };
        volume.rotate(token);
        symlink(Path::new("..data").join(FILE), volume.token()).expect("the file's link");
        volume
    }

    /// The path that a credential configuration names.
    pub fn token(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Replaces the token; a reader sees the old one or the new one.
    pub fn rotate(&self, token: &str) {
        let name = timestamp();
        let fresh = self.directory.join(&name);
        DirBuilder::new().mode(0o755).create(&fresh).expect("the directory of a version");
        let path = fresh.join(FILE);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(self.mode).open(&path).expect("the token's file");
        file.write_all(token.as_bytes()).expect("the token");
        fs::set_permissions(&path, Permissions::from_mode(self.mode)).expect("the token's mode");
        let (data, temporary) = (self.directory.join("..data"), self.directory.join("..data_tmp"));
        let old = fs::read_link(&data).ok();
        symlink(&name, &temporary).expect("the new version's link");
        fs::rename(&temporary, &data).expect("the new version in force");
        if let Some(old) = old {
            fs::remove_dir_all(self.directory.join(old)).expect("the old version gone");
        }
    }
}

/// `..2026_11_23_14_17_05.1234567890`, the kubelet's name for a version.
fn timestamp() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = rfc3339(since.as_secs() as i64).replace(['-', ':', 'T'], "_");
    format!("..{}.{}", time.trim_end_matches('Z'), random_digits(10))
}
