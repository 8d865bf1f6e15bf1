//! The image that brings plugin and command, as deploy/image/Containerfile says.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{plugin_path, set_mode};
use crate::manifests::checkout;

/// Where the image has the line of plugstack.conf.
pub const DROP_IN: &str = "/opt/gcp-wif/plugstack.conf.d/10-gcp-wif.conf";

/// The line itself.
pub fn drop_in() -> String {
    fs::read_to_string(checkout().join("deploy/image/10-gcp-wif.conf")).unwrap()
}

/// Makes the image's root directory: busybox for the image that it is made from, and what it copies.
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

/// A file of the build. What cargo makes is where this test has it from.
fn source(path: &str) -> PathBuf {
    path.strip_prefix("target/release/")
        .map_or_else(|| checkout().join(path), |name| plugin_path().with_file_name(name))
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
