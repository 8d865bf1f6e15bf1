//! The oldest Rust that Cargo.toml names.
//!
//! clippy denies what the standard library has only since a newer one. What the dependencies need, they say themselves.

use serde_json::Value;

use crate::sbom::cargo;

/// A version in its parts: `1.88` is `1.88.0`.
fn parts(version: &str) -> [u32; 3] {
    let mut parts = version.split('.').map(|part| part.parse().unwrap());
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

#[test]
fn the_oldest_rust_is_the_one_that_a_linked_crate_needs() {
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
    assert_eq!(named[0].0, newest.0, "{} needs another Rust than Cargo.toml's rust-version", newest.1);
}
