//! Checks the table of defences against the code, the tests and docs/security.md. `ci/defences` removes each defence in
//! turn and runs its tests.

#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(unreachable_pub, reason = "the command and its test include the same modules")]

#[allow(dead_code, reason = "only the command uses the rest")]
mod outcome;
mod table;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use outcome::Outcome;

const PAGE: &str = "docs/security.md";
/// The tables of the page whose last column names tests.
const TABLES: [&str; 2] =
    ["| attack | known from | repelled by | tests |\n", "| what happens | what holds | tests |\n"];
const FROM: &str = "<!-- tests/defences, from here -->\n";
const TO: &str = "<!-- to here -->\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    fs::read_to_string(root().join(PAGE)).unwrap()
}

/// Returns the first column and the tests of each row of the page's tables.
fn rows(page: &str) -> Vec<(String, Vec<String>)> {
    let mut rows = Vec::new();
    for head in TABLES {
        let table = page.split_once(head).unwrap_or_else(|| panic!("{PAGE} has no table {head}")).1;
        for line in table.lines().skip(1).map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |")) {
            let (rest, tests) = line.rsplit_once(" | ").unwrap();
            let tests = tests.split(", ").map(|name| name.trim_matches('`').to_owned()).collect();
            rows.push((rest.split(" | ").next().unwrap().to_owned(), tests));
        }
    }
    rows
}

/// Returns the file of a test module.
fn module(name: &str) -> PathBuf {
    root().join("tests/slurm").join(name.replace("::", "/") + ".rs")
}

/// Returns whether a test with this name exists.
fn is_test(name: &str) -> bool {
    name.rsplit_once("::").is_some_and(|(of, test)| {
        fs::read_to_string(module(of)).is_ok_and(|source| source.contains(&format!("fn {test}(")))
    })
}

#[test]
fn each_test_that_the_page_names_exists() {
    let rows = rows(&page());
    for (row, tests) in &rows {
        for name in tests {
            assert!(is_test(name) || module(name).exists(), "{row}: there is no test {name}");
        }
    }
    assert!(rows.len() > 45, "{}", rows.len());
}

#[test]
fn each_row_of_the_page_has_a_defence() {
    let must_fail: BTreeSet<&str> =
        table::all().into_iter().flat_map(|defence| defence.must_fail.iter().copied()).collect();
    for (row, tests) in rows(&page()) {
        let is_of =
            |test: &str, name: &str| test == name || test.strip_prefix(name).is_some_and(|rest| rest.starts_with("::"));
        assert!(
            tests.iter().any(|name| must_fail.iter().any(|test| is_of(test, name))),
            "{row}: no defence in tests/defences/table names one of its tests"
        );
    }
}

#[test]
fn each_edit_applies_to_the_code() {
    let (mut names, mut outdated) = (BTreeSet::new(), Vec::new());
    for defence in table::all() {
        assert!(names.insert(defence.name), "two defences are called {}", defence.name);
        assert!(!defence.edits.is_empty() && !defence.must_fail.is_empty(), "{}", defence.name);
        for edit in defence.edits {
            let text = fs::read_to_string(root().join(edit.file)).unwrap_or_default();
            if text.matches(edit.was).count() != 1 {
                outdated.push(format!(
                    "{}: {} must contain this text exactly once: {:?}",
                    defence.name, edit.file, edit.was
                ));
            }
            assert_ne!(edit.was, edit.becomes, "{}", defence.name);
        }
        for test in defence.must_fail {
            assert!(is_test(test), "{}: there is no test {test}", defence.name);
        }
    }
    assert!(outdated.is_empty(), "outdated in tests/defences/table:\n{}", outdated.join("\n"));
}

#[test]
fn the_page_lists_all_defences() {
    let page = page();
    let (before, rest) = page.split_once(FROM).unwrap();
    let (current, after) = rest.split_once(TO).unwrap();
    let mut table = "| name | defence | tests that fail without it |\n|---|---|---|\n".to_owned();
    for defence in table::all() {
        let tests: Vec<String> = defence.must_fail.iter().map(|test| format!("`{test}`")).collect();
        table.push_str(&format!("| `{}` | {} | {} |\n", defence.name, defence.property, tests.join(", ")));
    }
    if std::env::var_os("BLESS").is_some() {
        fs::write(root().join(PAGE), format!("{before}{FROM}{table}{TO}{after}")).unwrap();
    } else {
        assert_eq!(current, table, "BLESS=1 cargo test --test defences writes the table");
    }
}

#[test]
fn only_a_failed_assertion_of_the_test_counts_as_a_failure() {
    let output = "test a::fails ... FAILED\ntest a::passes ... ok\ntest a::boots ... FAILED\n\nfailures:\n\n\
        ---- a::fails stdout ----\n\nthread 'a::fails' (7) panicked at tests/slurm/a.rs:5:9:\nleft is not right\nmore\n\
        ---- a::boots stdout ----\n\nthread 'a::boots' (8) panicked at tests/cluster/mod.rs:1:2:\nno cluster:\nslurmd\n";
    assert_eq!(outcome::of("a::fails", output), Outcome::Failed("tests/slurm/a.rs:5:9 left is not right".to_owned()));
    assert_eq!(outcome::of("a::passes", output), Outcome::Passed);
    assert!(matches!(outcome::of("a::boots", output), Outcome::Error(_)));
    assert!(matches!(outcome::of("a::is_not_there", output), Outcome::Error(_)));
}
