//! The list of what is linked into a program, which ci/package puts beside the packages.
//!
//! `cargo metadata` says it in another way than the `cargo tree` that the list is made from: all that the workspace might
//! need, with what each crate uses when.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use crate::shell::without_cargo;
use crate::{file, skip, text};

const PROGRAMS: [&str; 2] = ["gcp-wif", "spank-gcp-wif"];

/// Crates of macros and build scripts: known to cargo, in no program.
const UNLINKED: [&str; 6] = ["bindgen", "cc", "proc-macro2", "serde_derive", "syn", "byte-strings-proc_macros"];

/// `cargo metadata` counts these for a program that does not have them, because of features that tests, build scripts or
/// the other program switch on.
const OF_OTHERS: [&str; 3] = ["aho-corasick", "errno", "num_threads"];

fn target() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// Runs cargo as a shell does, and returns its output.
pub(super) fn cargo(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(file(""));
    let output = without_cargo(&mut command).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The list for a program, as ci/package makes it: its bytes.
fn made(package: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sbom");
    let (target, digest) = (target(), "0".repeat(64));
    // As ci/package does: what is built for that is there already, or will be used.
    let run = ["run", "--locked", "--quiet", "--example", "sbom", "--"];
    let what = [package, &target, package, "1.0", "2026-01-01T00:00:00Z", &digest, path.to_str().unwrap()];
    cargo(&[&run[..], &what].concat());
    std::fs::read_to_string(path).unwrap()
}

fn parsed(package: &str) -> &'static Value {
    static LISTS: OnceLock<BTreeMap<&str, Value>> = OnceLock::new();
    let made = |package| (package, serde_json::from_str(&made(package)).unwrap());
    &LISTS.get_or_init(|| PROGRAMS.map(made).into())[package]
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn string(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The package URLs of the components.
fn components(bom: &Value) -> BTreeSet<&str> {
    list(bom, "components").iter().map(|part| string(&part["purl"])).collect()
}

/// What `cargo metadata` says of the crates that a package is linked with: their package URLs.
fn linked(package: &str) -> BTreeSet<String> {
    let metadata = cargo(&["metadata", "--locked", "--format-version", "1", "--filter-platform", &target()]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let packages: BTreeMap<&str, &Value> =
        list(&metadata, "packages").iter().map(|package| (string(&package["id"]), package)).collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"], "nodes").iter().map(|node| (string(&node["id"]), node)).collect();
    let root = packages.iter().find(|(_, found)| found["name"] == package).unwrap().0;
    let (mut found, mut next) = (BTreeSet::new(), vec![*root]);
    while let Some(id) = next.pop() {
        let is_macro =
            list(packages[id], "targets").iter().any(|target| target["kind"].to_string().contains("proc-macro"));
        if is_macro || !found.insert(id) {
            continue;
        }
        for dependency in list(nodes[id], "deps") {
            if list(dependency, "dep_kinds").iter().any(|kind| kind["kind"].is_null()) {
                next.push(string(&dependency["pkg"]));
            }
        }
    }
    found.remove(root);
    let url = |id: &str| {
        let package = packages[id];
        format!("pkg:cargo/{}@{}", string(&package["name"]), string(&package["version"]))
    };
    found.into_iter().map(url).collect()
}

#[test]
fn the_list_of_what_is_linked_has_each_crate_and_no_other() {
    for package in PROGRAMS {
        let bom = parsed(package);
        let mut told = components(bom);
        let standard: Vec<&str> = told.iter().copied().filter(|url| url.starts_with("pkg:generic/rust-std@")).collect();
        assert!(standard.len() == 1 && told.remove(standard[0]), "{told:?}");
        let linked = linked(package);
        assert_eq!(told.iter().find(|url| !linked.contains(**url)), None, "{package}");
        let is_of_others = |url: &String| OF_OTHERS.iter().any(|name| url.starts_with(&format!("pkg:cargo/{name}@")));
        assert_eq!(linked.iter().find(|url| !told.contains(url.as_str()) && !is_of_others(url)), None, "{package}");
        assert!(told.len() > 30, "{told:?}");
        for name in UNLINKED {
            assert!(!told.iter().any(|url| url.starts_with(&format!("pkg:cargo/{name}@"))), "{name}");
        }
    }
}

#[test]
fn the_list_of_the_plugin_has_no_server_and_no_command_line() {
    let (plugin, command) = (parsed("spank-gcp-wif"), parsed("gcp-wif"));
    for name in ["clap", "hyper", "tokio"] {
        let url = format!("pkg:cargo/{name}@");
        let has = |bom| components(bom).iter().any(|found: &&str| found.starts_with(&url));
        assert!(has(command) && !has(plugin), "{name}");
    }
}

#[test]
fn each_crate_of_the_list_has_the_checksum_of_the_lock_file() {
    let lock = text("Cargo.lock");
    for package in PROGRAMS {
        for part in list(parsed(package), "components") {
            let (name, version) = (string(&part["name"]), string(&part["version"]));
            let entry = format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\n");
            let locked = lock.split_once(&entry).and_then(|(_, rest)| rest.split("\n\n").next());
            let checksum = locked.and_then(|rest| rest.split("checksum = \"").nth(1)?.split('"').next());
            assert_eq!(part["hashes"][0]["content"].as_str(), checksum, "{name}");
            let is_ours = name.starts_with("gcp-wif") || name == "rust-std";
            assert_eq!(checksum.is_none(), is_ours, "{name}");
        }
    }
}

#[test]
fn each_crate_of_the_list_is_needed_by_the_program() {
    for package in PROGRAMS {
        let bom = parsed(package);
        let needs: BTreeMap<&str, BTreeSet<&str>> = list(bom, "dependencies")
            .iter()
            .map(|one| (string(&one["ref"]), list(one, "dependsOn").iter().map(string).collect()))
            .collect();
        let (mut reached, mut next) = (BTreeSet::new(), vec![string(&bom["metadata"]["component"]["bom-ref"])]);
        while let Some(url) = next.pop() {
            next.extend(needs.get(url).into_iter().flatten().filter(|url| reached.insert(**url)));
        }
        assert_eq!(reached, components(bom), "{package}");
    }
}

#[test]
fn the_list_is_the_same_each_time_and_follows_the_schema() {
    const CHECK: &str = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(sys.stdin.read())
sys.exit(str(error) if error else 0)";
    let python = file("target/lints/bin/python");
    for package in PROGRAMS {
        let bom = made(package);
        assert_eq!(bom, made(package));
        if !python.exists() {
            skip("no CycloneDX schema: ci/install lints");
            continue;
        }
        let check = |text: &str| {
            let mut command = Command::new(&python);
            command.args(["-c", CHECK]).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut process = command.spawn().unwrap();
            std::io::Write::write_all(&mut process.stdin.take().unwrap(), text.as_bytes()).unwrap();
            process.wait_with_output().unwrap()
        };
        let output = check(&bom);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The check is one.
        assert!(!check(&bom.replace("\"library\"", "\"none\"")).status.success());
    }
}
