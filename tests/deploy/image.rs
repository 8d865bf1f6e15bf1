//! The image with the plugin and the command, built as in deploy/image/Containerfile.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{plugin_path, set_mode};
use crate::manifests::checkout;
use crate::skipped::{is_installed, skip};

/// Where the image has the line of plugstack.conf.
pub const DROP_IN: &str = "/opt/gcp-wif/plugstack.conf.d/10-gcp-wif.conf";

/// The line itself.
pub fn drop_in() -> String {
    fs::read_to_string(checkout().join("deploy/image/10-gcp-wif.conf")).unwrap()
}

/// Makes the image's root directory: busybox in place of the base image, and the files that it copies.
#[track_caller]
pub fn make(root: &Path) {
    let text = fs::read_to_string(checkout().join("deploy/image/Containerfile")).unwrap();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["FROM", base] if base.contains("/busybox:") => make_busybox(root),
            ["COPY", mode, from, to] => {
                let mode = mode.strip_prefix("--chmod=").and_then(|mode| u32::from_str_radix(mode, 8).ok());
                let to = root.join(to.trim_start_matches('/'));
                fs::create_dir_all(to.parent().unwrap()).unwrap();
                fs::copy(source(from), &to).unwrap_or_else(|error| panic!("{line}: {error}"));
                set_mode(to, mode.unwrap_or_else(|| panic!("{line}: no mode")));
            }
            _ => panic!("this instruction is new to the test: {line}"),
        }
    }
}

/// A file of the build. cargo's files come from this test's target directory.
fn source(path: &str) -> PathBuf {
    path.strip_prefix("target/release/")
        .map_or_else(|| checkout().join(path), |name| plugin_path().with_file_name(name))
}

/// Builds the image with buildah, and prints its content. Its base is a local image of busybox, so it needs no network.
const BUILD: &str = r#"
cp -a "$1/deploy/image" context/deploy/
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >policy.json
run() { buildah --storage-driver vfs --root "$PWD/root" --runroot "$PWD/runroot" "$@"; }
trap 'run rm --all >/dev/null; run rmi --all --force >/dev/null' EXIT
base=$(run from scratch)
mkdir "$(run mount "$base")/bin"
cp /bin/busybox "$(run mount "$base")/bin/"
from=$(sed -n 's/^FROM //p' context/deploy/image/Containerfile)
run commit --quiet --signature-policy policy.json "$base" "$from" >&2
run build --quiet --signature-policy policy.json --isolation chroot --pull-never --tag built \
  --file context/deploy/image/Containerfile context >&2
cd "$(run mount "$(run from --pull-never --signature-policy policy.json built)")"
find opt \( -type d -printf '%p %m %U\n' \) -o -printf '%p %m %U %s\n' | sort
"#;

/// The same of a root directory.
const LIST: &str = "cd \"$1\" && find opt \\( -type d -printf '%p %m %U\\n' \\) -o -printf '%p %m %U %s\\n' | sort";

#[test]
fn a_real_build_makes_the_image_of_these_tests() {
    if !is_installed("buildah") {
        skip("buildah is not installed: a real build of the image");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let release = directory.path().join("context/target/release");
    fs::create_dir_all(&release).unwrap();
    fs::create_dir_all(directory.path().join("context/deploy")).unwrap();
    fs::copy(checkout().join("deploy/health-check"), directory.path().join("context/deploy/health-check")).unwrap();
    for name in ["libspank_gcp_wif.so", "gcp-wif"] {
        fs::copy(plugin_path().with_file_name(name), release.join(name)).unwrap();
    }
    let bash = |script: &str, argument: &Path| {
        let words = ["-euo", "pipefail", "-c", script, "-"];
        let run = Command::new("bash").args(words).arg(argument).current_dir(directory.path()).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8_lossy(&run.stdout).into_owned()
    };
    let root = directory.path().join("made");
    make(&root);
    let made = bash(LIST, &root);
    assert!(made.contains("opt/gcp-wif/gcp-wif 755 0 "), "{made}");
    assert_eq!(bash(BUILD, checkout()), made);
}

fn make_busybox(root: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "run", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox is installed: ci/install containers");
    let applets = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8_lossy(&applets).lines().filter(|applet| *applet != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}
