//! Checks the source code against the structure that `core/src/lib.rs` describes.
//!
//! Reads every `use` line and every path in the code. Leaves test code out: `#[cfg(test)]` modules, files named
//! `tests.rs` or below `tests/`, and `core/src/testing.rs`.
//!
//! - **Floors.** A file of the core imports from its own floor and from those below, and names none of the crates that
//!   belong to the faces. In the command, `agent` imports nothing of `cli`, and of `cli` only `cli/agent.rs` starts it.
//! - **Circles.** Files of a folder import each other in one direction. A file and the folder of its name are one thing
//!   to those outside (`fs.rs` and `fs/*`), and the files in the folder may import from the file that they belong to.
//! - **Files.** `core/src/world` opens files; the others that do are listed with their reasons.
//! - **Size.** A file has at most 400 lines.
//! - **The page.** What the page's table of questions names is there.
//! - **Unsafe code.** Only the plugin's face and `core/src/world/sys` have any; each other file of the core and of the
//!   command forbids it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "floors/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::{COMMAND, CORE, Mention, PLUGIN, Source, has_unsafe_code, rust_files};

/// The core's floors, from the lowest one. Floors of one line do not import from each other.
const FLOORS: [&[&str]; 6] = [&["words"], &["world"], &["exchange"], &["policy", "tokens"], &["plan"], &["job"]];

/// Crates that belong to the faces.
const FOREIGN: [&str; 5] = ["clap", "hyper", "hyper_util", "slurm_spank", "tokio"];

/// The files outside of the world that open files or examine them.
const OPENERS: [(&str, &str); 11] = [
    ("command/src/agent/journal.rs", "the agent's own log"),
    ("command/src/pages.rs", "writes the manual pages, for ci/package"),
    ("command/src/agent/run.rs", "the agent's own socket: its mode, and its end"),
    ("command/src/agent/service.rs", "the socket of an agent that a service manager keeps, and its end"),
    ("command/src/agent/watch.rs", "the agent's own lock, which is held for as long as it lives"),
    ("command/src/cli/plugstack.rs", "Slurm's include lines are patterns, for which directories are listed"),
    ("command/src/cli/running.rs", "looks at the age of the agent's lock"),
    ("command/src/cli/status.rs", "lists a user's own job's directory, and looks at the age of its files"),
    ("command/src/cli/doctor/agent.rs", "looks at whether the agent's program can be run"),
    ("command/src/cli/doctor/runtime.rs", "looks at the runtime directory, which the world would make"),
    ("command/src/cli/doctor/subject_token.rs", "looks at who could read the subject token, through all of its links"),
];

const LONGEST: usize = 400;

/// What a path leads to.
enum Target<'a> {
    File(&'a Source),
    /// A folder of this project, so it could be any file in it.
    Folder,
    /// Another crate, or a name that the file itself has.
    Elsewhere,
}

struct House {
    sources: Vec<Source>,
}

impl House {
    fn new<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        Self { sources: files.into_iter().filter_map(|(path, text)| Source::new(path, text)).collect() }
    }

    fn target(&self, source: &Source, mention: &Mention) -> Target<'_> {
        let ours = |package, module: &[String]| {
            self.sources.iter().any(|source| source.package == package && source.module.starts_with(module))
        };
        let (first, mut rest) = mention.segments.split_first().unwrap();
        let (package, mut module) = match first.as_str() {
            "crate" => (source.package, Vec::new()),
            "gcp_wif_core" => (CORE, Vec::new()),
            "self" => (source.package, mention.module.clone()),
            "super" => {
                let mut module = mention.module.clone();
                module.pop();
                while rest.first().is_some_and(|next| next == "super") {
                    (rest, _) = (&rest[1..], module.pop());
                }
                (source.package, module)
            }
            child => (source.package, [mention.module.as_slice(), &[child.to_owned()]].concat()),
        };
        if !["crate", "gcp_wif_core", "self", "super"].contains(&first.as_str()) && !ours(package, &module) {
            return Target::Elsewhere;
        }
        for segment in rest {
            module.push(segment.clone());
            if !ours(package, &module) {
                module.pop();
                break;
            }
        }
        let file = |module: &[String]| self.sources.iter().find(|s| s.package == package && s.module == module);
        match file(&module) {
            Some(target) if target.package != CORE || !target.module.is_empty() => Target::File(target),
            None if ours(package, &module) => Target::Folder,
            // A module within the file, or a name of its own.
            None if module.starts_with(&source.module) => Target::Elsewhere,
            _ => Target::Folder,
        }
    }

    /// Every violation, with file and line.
    fn disorder(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut edges = Edges::new();
        for source in &self.sources {
            for mention in source.mentions.iter().filter(|mention| mention.segments.len() > 1) {
                let place = format!("{}:{}: {}", source.path, mention.line, mention.segments.join("::"));
                found.extend(misnamed(source, mention).map(|why| format!("{place} {why}")));
                match self.target(source, mention) {
                    Target::Elsewhere => {}
                    Target::Folder => found.push(format!("{place} names no file; import from the file itself")),
                    Target::File(target) => {
                        if let Some(why) = upwards(source, target) {
                            found.push(format!("{place} {why}"));
                        } else if source.package == target.package
                            && let Some((from, to)) = siblings(&source.module, &target.module)
                        {
                            edges.entry([(source.package, from), (source.package, to)]).or_insert(place);
                        }
                    }
                }
            }
        }
        let circles = edges.iter().filter(|([from, to], _)| reaches(&edges, *to, *from));
        found.extend(circles.map(|(_, place)| format!("{place} is part of a circle")));
        found
    }
}

/// The floor of a file of the core, counted from below.
fn floor(module: &[String]) -> Option<usize> {
    FLOORS.iter().position(|floor| module.first().is_some_and(|name| floor.contains(&name.as_str())))
}

/// Why one file may not import from another, if that is so.
fn upwards(source: &Source, target: &Source) -> Option<&'static str> {
    let is_in =
        |source: &Source, package, part| source.package == package && source.module.first().is_some_and(|m| m == part);
    if source.package == CORE && floor(&target.module) > floor(&source.module) {
        Some("looks up: see the floors in core/src/lib.rs")
    } else if target.package == CORE && floor(&target.module).is_none() {
        Some("is on no floor")
    } else if is_in(source, COMMAND, "agent") && is_in(target, COMMAND, "cli") {
        Some("lets the agent know the command line")
    } else if is_in(source, COMMAND, "cli")
        && is_in(target, COMMAND, "agent")
        && source.path != "command/src/cli/agent.rs"
    {
        Some("lets the command line know the agent, which only cli/agent.rs may")
    } else {
        None
    }
}

/// Why a path may not be in this file, if that is so.
fn misnamed(source: &Source, mention: &Mention) -> Option<&'static str> {
    if source.package == CORE && FOREIGN.contains(&mention.segments[0].as_str()) {
        return Some("belongs to the faces");
    }
    let is_opener = OPENERS.iter().any(|(path, _)| *path == source.path);
    let is_worlds = source.package == CORE && source.module.first().is_some_and(|floor| floor == "world");
    (opens_files(mention) && !is_opener && !is_worlds)
        .then_some("is for core/src/world alone, the only opener of files")
}

fn opens_files(mention: &Mention) -> bool {
    let words: Vec<&str> = mention.segments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["std" | "tokio", "fs", ..] | [.., "OpenOptions", _] | [.., "File", "open" | "create" | "options"] => true,
        [.., "fs", name] => name.starts_with("open"),
        _ => false,
    }
}

/// The two things of one folder that an import connects; none within one of them.
fn siblings<'a>(from: &'a [String], to: &'a [String]) -> Option<(&'a [String], &'a [String])> {
    let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
    Some((from.get(..=common)?, to.get(..=common)?))
}

/// A file with its folder, by package and module.
type Thing<'a> = (&'a str, &'a [String]);
/// Where one thing first imports from another.
type Edges<'a> = BTreeMap<[Thing<'a>; 2], String>;

fn reaches<'a>(edges: &Edges<'a>, from: Thing<'a>, to: Thing<'a>) -> bool {
    let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
    while let Some(here) = next.pop() {
        if here == to {
            return true;
        }
        if seen.insert(here) {
            next.extend(edges.keys().filter(|[a, _]| *a == here).map(|[_, b]| *b));
        }
    }
    false
}

#[test]
fn no_import_looks_up_goes_in_a_circle_or_opens_a_file_elsewhere() {
    let files = rust_files();
    let house = House::new(files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    let of_core = house.sources.iter().filter(|source| source.package == CORE).count();
    assert!(of_core > 40 && house.sources.len() > 70, "{of_core} of {} files are the core's", house.sources.len());
    let disorder = house.disorder();
    assert!(disorder.is_empty(), "\n{}", disorder.join("\n"));
    for (path, reason) in OPENERS {
        let source = house.sources.iter().find(|source| source.path == path);
        let is_one = source.is_some_and(|source| source.mentions.iter().any(opens_files));
        assert!(is_one, "{path} opens no file; take it from the list ({reason})");
    }
}

#[test]
fn files_are_short_and_forbid_unsafe_code() {
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        assert!(lines <= LONGEST, "{path} has {lines} lines; {LONGEST} are enough");
        let is_in = |folder: &str| Path::new(&path).starts_with(folder);
        let may_be_unsafe = is_in(PLUGIN) || is_in("core/src/world/sys") || path == "core/src/world/sys.rs";
        assert!(may_be_unsafe || !has_unsafe_code(text.parse().unwrap()), "{path} has unsafe code");
        // A file of tests is a part of one that forbids it, and lib.rs is above one that does not.
        let is_a_part = Source::new(&path, &text).is_none() || path == "core/src/lib.rs";
        if (is_in(CORE) || is_in(COMMAND)) && !may_be_unsafe && !is_a_part {
            assert!(text.contains("\n#![forbid(unsafe_code)]\n"), "{path} does not forbid unsafe code");
        }
    }
}

#[test]
fn the_answers_of_the_page_exist() {
    let files: BTreeMap<String, String> = rust_files().into_iter().collect();
    let answers: Vec<Vec<&str>> =
        files["core/src/lib.rs"].lines().filter(|line| line.starts_with("//! | ")).map(quoted).collect();
    assert!(answers.len() > 10, "{answers:?}");
    for answer in answers.iter().filter(|answer| !answer.is_empty()) {
        let (file, functions) = answer.split_first().unwrap();
        let text = files.get(*file).unwrap_or_else(|| panic!("there is no {file}"));
        for function in functions {
            let is_there = ["(", "<"].iter().any(|next| text.contains(&format!("fn {function}{next}")));
            assert!(is_there, "{file} has no function {function}");
        }
        assert!(!functions.is_empty(), "which function of {file}?");
    }
}

/// The text between backquotes.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

#[test]
fn violations_are_found() {
    let lower = ("core/src/words/names.rs", "pub struct Name;");
    let upper = ("core/src/plan/record.rs", "pub struct Record; #[cfg(test)] mod tests { use crate::job::wake; }");
    let (top, root) = (("core/src/job/wake.rs", ""), ("core/src/lib.rs", "pub mod words { pub mod names; }"));
    let disorder = |path: &str, text: &str| House::new([root, lower, upper, top, (path, text)]).disorder();
    for (path, text, expected) in [
        ("core/src/world/a.rs", "use crate::words::names::Name;", ""),
        (
            "core/src/world/a.rs",
            "use crate::plan::record::Record;",
            "core/src/world/a.rs:1: crate::plan::record::Record looks up",
        ),
        (
            "core/src/world/a.rs",
            "\nuse crate::{words::names, plan::{record as r}};",
            "a.rs:2: crate::plan::record looks up",
        ),
        ("core/src/world/a.rs", "fn f() { g(&[crate::job::wake::wake()]); }", "crate::job::wake::wake looks up"),
        ("core/src/world/a.rs", "fn f() { format!(\"{}\", super::super::job::wake::X); }", "looks up"),
        ("core/src/world/a.rs", "mod inner { use super::super::super::job::wake; }", "looks up"),
        ("core/src/world/a.rs", "#[cfg(test)] mod tests { use crate::job::wake; } use crate::words::names;", ""),
        ("core/src/world/a.rs", "#[cfg(test)] mod tests; use crate::job::wake;", "looks up"),
        ("core/src/world/a.rs", "// crate::job::wake\n/// [`crate::job::wake`]\npub struct A;", ""),
        ("core/src/world/a.rs", "use crate::words;", "crate::words names no file"),
        ("core/src/testing.rs", "use crate::job::wake;", ""),
        ("core/src/job/a/tests.rs", "use std::fs;", ""),
        ("core/src/job/a.rs", "use tokio::net::TcpStream;", "belongs to the faces"),
        ("core/src/job/a.rs", "fn f() { std::fs::read(\"x\"); }", "the only opener"),
        ("core/src/job/a.rs", "use rustix::{fs::{OFlags, openat}, io};", "rustix::fs::openat is for"),
        ("core/src/world/a.rs", "use std::fs::File;", ""),
        ("command/src/agent/journal.rs", "use std::fs::File;", ""),
        ("command/src/agent/a.rs", "use gcp_wif_core::job::wake::wake;", ""),
        ("command/src/agent/a.rs", "use gcp_wif_core::nowhere;", "gcp_wif_core::nowhere names no file"),
    ] {
        let found = disorder(path, text);
        let is_right =
            if expected.is_empty() { found.is_empty() } else { found.len() == 1 && found[0].contains(expected) };
        assert!(is_right, "{path}: {text}: {found:?}");
    }
}

#[test]
fn circles_are_found_and_a_file_with_its_folder_is_none() {
    let disorder = |files: &[(&'static str, &'static str)]| House::new(files.iter().copied()).disorder();
    let (parent, child) = (("core/src/world/fs.rs", "mod held; pub use held::X;"), "core/src/world/fs/held.rs");
    assert_eq!(disorder(&[parent, (child, "use super::Error;")]), Vec::<String>::new());
    let found = disorder(&[
        ("core/src/job/a.rs", "use super::b::B;"),
        ("core/src/job/b.rs", "use crate::job::c::deep::C;"),
        ("core/src/job/c.rs", "mod deep;"),
        ("core/src/job/c/deep.rs", "\nuse crate::job::a::A;"),
        ("core/src/job/d.rs", "use super::a::A;"),
    ]);
    let circle = [
        "core/src/job/a.rs:1: super::b::B is part of a circle",
        "core/src/job/b.rs:1: crate::job::c::deep::C is part of a circle",
        "core/src/job/c/deep.rs:2: crate::job::a::A is part of a circle",
    ];
    assert_eq!(found, circle);
    let policy = ("core/src/policy/grant.rs", "use crate::tokens::T;");
    assert_eq!(disorder(&[policy, ("core/src/tokens.rs", "")]), Vec::<String>::new());
    assert_eq!(disorder(&[policy, ("core/src/tokens.rs", "use crate::policy::grant::G;")]).len(), 2);
    let face = |path: &'static str, other| {
        disorder(&[(path, other), ("command/src/agent.rs", ""), ("command/src/cli.rs", "")])
    };
    assert_eq!(face("command/src/cli/agent.rs", "use crate::agent::x;"), Vec::<String>::new());
    assert!(face("command/src/cli/env.rs", "use crate::agent::x;")[0].contains("which only cli/agent.rs may"));
    assert!(face("command/src/agent/run.rs", "use crate::cli::x;")[0].contains("lets the agent know"));
}
