//! The minimum Rust version that Cargo.toml names. It is the version with which CI builds everything.

use std::process::Command;

use serde_json::Value;

use crate::sbom::cargo;
use crate::skip;

/// A version in its parts: `1.88` is `1.88.0`.
fn parts(version: &str) -> [u32; 3] {
    let mut parts = version.split('.').map(|part| part.parse().unwrap());
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

#[test]
fn the_minimum_rust_version_is_what_ci_builds_with_and_no_linked_crate_needs_a_newer_one() {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--locked", "--format-version", "1"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let (mut needed, mut named) = (Vec::new(), Vec::new());
    for package in ["spank-gcp-wif", "gcp-wif"] {
        let tree = ["tree", "--locked", "--package", package, "--edges", "normal,build", "--prefix", "none"];
        for line in cargo(&[&tree[..], &["--format", "{p}"]].concat()).lines() {
            let mut words = line.split(' ');
            let (name, version) = (words.next().unwrap(), words.next().unwrap().trim_start_matches('v'));
            let found = packages.iter().find(|found| found["name"] == name && found["version"] == version).unwrap();
            let Some(rust) = found["rust_version"].as_str() else { continue };
            let list = if found["source"].is_null() { &mut named } else { &mut needed };
            list.push((parts(rust), name.to_owned()));
        }
    }
    named.dedup_by_key(|(rust, _)| *rust);
    let newest = needed.iter().max().unwrap();
    assert!(named.len() == 1 && needed.len() > 30, "{named:?}");
    assert!(named[0].0 >= newest.0, "{} needs a newer Rust than Cargo.toml's rust-version", newest.1);
    let rustc = Command::new("rustc").arg("--version").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    if parts(rustc.split(' ').nth(1).unwrap())[..2] != named[0].0[..2] {
        skip(&format!("a build with the minimum Rust version: this is {}", rustc.trim()));
    }
}
