//! Writes which crates are linked into a program of the packages, as CycloneDX, for ci/package.
//!
//! ```text
//! sbom PACKAGE TARGET NAME VERSION TIME SHA256 FILE
//! ```
//!
//! `NAME` and `VERSION` are the Debian or RPM package's, `TIME` is RFC 3339, `SHA256` that of the program. What is linked
//! is what `cargo tree` says for cargo's package and target, without macros and what build scripts use.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, Result};
use std::process::Command;

use serde_json::{Value, json};

/// What `cargo tree` says of a crate: its package URL names it.
#[derive(Debug)]
struct Crate {
    name: String,
    version: String,
    license: String,
    depends_on: BTreeSet<String>,
}

fn package_url(name: &str, version: &str) -> String {
    format!("pkg:cargo/{name}@{version}")
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if !output.status.success() {
        return Err(Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    String::from_utf8(output.stdout).map_err(Error::other)
}

/// The crates of a tree, and the package URL of its root. A line is `DEPTH|NAME vVERSION ...|LICENSE`, and `(*)` where the
/// crate's own dependencies have been listed before.
fn crates(tree: &str) -> Option<(String, BTreeMap<String, Crate>)> {
    let (mut found, mut above) = (BTreeMap::<String, Crate>::new(), Vec::<String>::new());
    for line in tree.lines() {
        let mut parts = line.split('|');
        let depth: usize = parts.next()?.parse().ok()?;
        let mut words = parts.next()?.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        let license = parts.next()?.trim_end_matches(" (*)");
        let url = package_url(name, version);
        above.truncate(depth);
        if let Some(user) = above.last() {
            found.get_mut(user)?.depends_on.insert(url.clone());
        }
        above.push(url.clone());
        found.entry(url).or_insert_with(|| Crate {
            name: name.to_owned(),
            version: version.to_owned(),
            license: license.to_owned(),
            depends_on: BTreeSet::new(),
        });
    }
    Some((above.into_iter().next()?, found))
}

/// The SHA-256 of each crate that comes from crates.io, by its package URL.
fn checksums(lock: &str) -> BTreeMap<String, &str> {
    lock.split("[[package]]")
        .filter_map(|package| {
            let value = |key: &str| {
                let line = package.lines().find_map(|line| line.strip_prefix(key))?;
                line.strip_prefix(" = \"")?.strip_suffix('"')
            };
            Some((package_url(value("name")?, value("version")?), value("checksum")?))
        })
        .collect()
}

fn component(url: &str, part: &Crate, checksum: Option<&&str>) -> Value {
    let mut component = json!({
        "type": "library",
        "bom-ref": url,
        "name": part.name,
        "version": part.version,
        "scope": "required",
        "licenses": [{"expression": part.license}],
        "purl": url,
    });
    if let (Some(fields), Some(checksum)) = (component.as_object_mut(), checksum) {
        fields.insert("hashes".to_owned(), json!([{"alg": "SHA-256", "content": checksum}]));
    }
    component
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, package, target, name, version, time, sha256, file] = &arguments[..] else {
        return Err(Error::other("usage: sbom PACKAGE TARGET NAME VERSION TIME SHA256 FILE"));
    };
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree = ["tree", "--locked", "--package", package, "--target", target, "--edges", "normal,no-proc-macro"];
    let tree = output(&cargo, &[&tree[..], &["--prefix", "depth", "--format", "|{p}|{l}"]].concat())?;
    let (root, mut found) = crates(&tree).ok_or_else(|| Error::other("cargo tree has another format"))?;
    let lock = std::fs::read_to_string("Cargo.lock")?;
    let checksums = checksums(&lock);
    let rust = output("rustc", &["--version"])?;
    let rust = rust.split(' ').nth(1).ok_or_else(|| Error::other(rust.clone()))?;

    let described = found.remove(&root).ok_or_else(|| Error::other(root.clone()))?;
    let standard = format!("pkg:generic/rust-std@{rust}");
    let mut components: Vec<Value> = found.iter().map(|(url, part)| component(url, part, checksums.get(url))).collect();
    components.push(json!({
        "type": "library",
        "bom-ref": standard,
        "name": "rust-std",
        "version": rust,
        "scope": "required",
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
        "purl": standard,
    }));
    let linked: Vec<&String> = described.depends_on.iter().chain([&standard]).collect();
    let mut dependencies = vec![json!({"ref": root, "dependsOn": linked})];
    dependencies.extend(found.iter().map(|(url, part)| json!({"ref": url, "dependsOn": part.depends_on})));
    let bom = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": time,
            "lifecycles": [{"phase": "build"}],
            "component": {
                "type": if package == name { "application" } else { "library" },
                "bom-ref": root,
                "name": name,
                "version": version,
                "licenses": [{"expression": described.license}],
                "hashes": [{"alg": "SHA-256", "content": sha256}],
            },
        },
        "components": components,
        "dependencies": dependencies,
    });
    std::fs::write(file, serde_json::to_string_pretty(&bom)? + "\n")
}
