//! The documents as a whole: what they link to is there, their picture is that of its source, and each block of commands
//! is run by a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Every page for people: its path from the top of the tree, and its text.
pub fn pages() -> &'static [(PathBuf, String)] {
    static PAGES: OnceLock<Vec<(PathBuf, String)>> = OnceLock::new();
    PAGES.get_or_init(|| {
        let mut found = Vec::new();
        for directory in
            ["", "docs", "deploy", "deploy/google", "deploy/google/terraform", "deploy/slinky", "deploy/sunk"]
        {
            for entry in fs::read_dir(root().join(directory)).unwrap().flatten() {
                let path = Path::new(directory).join(entry.file_name());
                if path.extension().is_some_and(|extension| extension == "md") {
                    let text = fs::read_to_string(root().join(&path)).unwrap();
                    found.push((path, text));
                }
            }
        }
        found.sort();
        found
    })
}

/// The pages whose commands are run here. Those in deploy/ are run by the targets `deploy` and `setup`.
fn ours() -> impl Iterator<Item = &'static String> {
    pages().iter().filter(|(path, _)| !path.starts_with("deploy")).map(|(_, page)| page)
}

/// The lines of the blocks with these words behind the fence.
pub fn block(words: &str) -> Vec<&'static str> {
    let mut lines = Vec::new();
    for page in ours() {
        let mut inside = false;
        for line in page.lines() {
            match line.strip_prefix("```") {
                Some(fence) => inside = fence == words,
                None if inside => lines.push(line),
                None => {}
            }
        }
    }
    assert!(!lines.is_empty(), "no page has a block `{words}`");
    lines
}

#[test]
fn every_block_of_commands_is_run_by_a_test() {
    let run_by = [
        "sh batch",
        "sh cluster",
        "sh google",
        "sh here",
        "sh install",
        "sh itself",
        "sh live",
        "sh metadata",
        "sh monitoring",
        "sh node",
        "sh packages",
        "sh part",
        "sh pyxis",
    ];
    let lines = ours().flat_map(|page| page.lines());
    let blocks: BTreeSet<String> =
        lines.filter_map(|line| line.strip_prefix("```sh").map(|word| format!("sh{word}"))).collect();
    assert_eq!(blocks.iter().map(String::as_str).collect::<Vec<_>>(), run_by);
    let ours = block("sh itself");
    assert!(ours.iter().all(|line| *line == "ci/test"), "CI runs this one: {ours:?}");
    assert!(fs::read_to_string(root().join(".ci/run")).unwrap().ends_with("exec ci/test\n"));
    // A filter of which there are tests.
    assert_eq!(block("sh part"), ["cargo test --test slurm jobs::"]);
}

/// The anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_';
    heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for (path, page) in pages() {
        let prose: String = page.split("```").step_by(2).collect();
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, wanted) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
            let linked = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let linked = root().join(linked);
            assert!(linked.exists(), "{}: {target}", path.display());
            if let Some(wanted) = wanted {
                let text = fs::read_to_string(&linked).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let anchors: Vec<String> = headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect();
                assert!(anchors.iter().any(|anchor| anchor == wanted), "{}: {target}: {anchors:?}", path.display());
            }
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

#[test]
fn the_picture_is_that_of_its_source() {
    let source = fs::read_to_string(root().join("docs/picture.dot")).unwrap();
    let picture = fs::read_to_string(root().join("docs/picture.svg")).unwrap();
    // Graphviz names each edge in a title.
    let edge = |line: &str| {
        let (from, to) = line.split('[').next()?.trim_end_matches(';').split_once("->")?;
        Some(format!("<title>{}&#45;&gt;{}</title>", from.trim(), to.trim_end_matches(';').trim()))
    };
    let edges: BTreeSet<String> = source.lines().filter_map(edge).collect();
    let titles = picture.lines().filter(|line| line.starts_with("<title>") && line.contains("&#45;&gt;")).count();
    assert!(edges.len() > 8 && titles == edges.len(), "{} in the source, {titles} in the picture", edges.len());
    for edge in edges {
        assert!(
            picture.contains(&edge),
            "docs/picture.svg has no {edge}: dot -Tsvg docs/picture.dot -o docs/picture.svg"
        );
    }
    for label in source.split("label=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
        for line in label.split("\\n") {
            let told = line.replace('-', "&#45;").replace('\'', "&#39;");
            assert!(picture.contains(&format!(">{told}</text>")), "docs/picture.svg has no label {line}");
        }
    }
}

#[test]
fn the_newest_of_the_changes_is_this_version() {
    let changes = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let newest = changes.lines().find_map(|line| line.strip_prefix("## "));
    assert_eq!(newest, Some(env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_table_of_releases_is_what_was_made_and_run() {
    let path = root().join("README.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- ci/support table, from here -->\n").unwrap();
    let (told, after) = rest.split_once("<!-- to here -->").unwrap();
    let table = Command::new(root().join("ci/support")).arg("table").output().unwrap();
    assert!(table.status.success());
    let table = String::from_utf8(table.stdout).unwrap();
    if std::env::var_os("BLESS").is_some() {
        let mark = "<!-- ci/support table, from here -->\n";
        fs::write(path, format!("{before}{mark}{table}<!-- to here -->{after}")).unwrap();
    } else {
        assert_eq!(told, table, "BLESS=1 writes it");
    }
    assert!(table.contains("run"), "{table}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
