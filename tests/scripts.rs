//! Every shell script of the tree passes shellcheck, wherever it is.
//!
//! - Files: those whose first line names a shell, and the parts that others take in, which name one for shellcheck.
//! - The packages' scripts, as ci/package puts them together, and those in the .spec file.
//! - Scripts in other files: the programs of `bash -c` in the scripts, the commands of the manifests' containers, and the
//!   blocks of commands in the documents.
//!
//! Each exception in a script has a reason beside it. `.shellcheckrc` has those of all scripts.

#![forbid(unsafe_code)]
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]
#![allow(dead_code, unreachable_pub, reason = "what is not tested is said as in tests/slurm")]

#[path = "slurm/skipped.rs"]
mod skipped;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use skipped::{is_installed, skip};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files of the tree that are text, with their paths from its top.
fn texts() -> Vec<(PathBuf, String)> {
    let (mut found, mut directories) = (Vec::new(), vec![root().to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let is_of_the_tree = entry.file_name() != ".git" && entry.file_name() != "target";
            if kind.is_dir() && is_of_the_tree {
                directories.push(path);
            } else if kind.is_file()
                && is_of_the_tree
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// The shell that a file is for: what its first line says, or what shellcheck is told of a part of other scripts.
fn shell(text: &str) -> Option<&'static str> {
    let first = text.lines().next()?;
    let told = || {
        let mut head = text.lines().take_while(|line| line.starts_with('#'));
        head.find_map(|line| line.strip_prefix("# shellcheck shell="))
    };
    let name = match first.strip_prefix("#!") {
        Some(line) => line.rsplit(['/', ' ']).find(|word| !word.starts_with('-'))?,
        None => told()?.split(' ').next()?,
    };
    ["bash", "sh"].into_iter().find(|shell| *shell == name)
}

fn files() -> Vec<(PathBuf, String)> {
    texts().into_iter().filter(|(_, text)| shell(text).is_some()).collect()
}

/// What shellcheck says of a text, without the lines that say where.
fn findings(shell: &str, text: &str) -> String {
    let mut process = Command::new("shellcheck")
        .args(["--shell", shell, "--format", "gcc", "-"])
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    process.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() != told.contains("[SC"), "{}: {told}", output.status);
    told
}

/// Fails with all that shellcheck says of these scripts.
#[track_caller]
fn check(scripts: &[(String, &str, String)]) {
    if !is_installed("shellcheck") {
        return skip("no shellcheck");
    }
    let mut told = String::new();
    for (name, shell, text) in scripts {
        for line in findings(shell, text).lines() {
            told += &format!("{name}{}\n", line.strip_prefix('-').unwrap_or(line));
        }
    }
    assert!(told.is_empty(), "\n{told}");
}

#[test]
fn each_script_is_clean() {
    let files = files();
    for known in [".ci/run", "ci/test", "deploy/google/plan.sh", "deploy/packages/debian/command.postinst"] {
        assert!(files.iter().any(|(path, _)| path == Path::new(known)), "{known} is not found");
    }
    let scripts: Vec<_> =
        files.into_iter().map(|(path, text)| (path.display().to_string(), shell(&text).unwrap(), text)).collect();
    check(&scripts);
}

/// The parts of the packages' scripts in their places, as ci/package puts them there.
fn with_parts(text: &str) -> String {
    let part = |name: &str| fs::read_to_string(root().join("deploy/packages").join(name)).unwrap();
    let text = text.replace("#DROP_IN#\n", &part("drop-in.sh")).replace("#AGENT#\n", &part("agent.sh"));
    // They are the head of no file now.
    text.replace("# shellcheck shell=sh\n", "")
}

/// The scripts in a .spec file.
fn scriptlets(spec: &str) -> Vec<(&str, String)> {
    let mut found = Vec::<(&str, String)>::new();
    let mut is_script = false;
    for line in spec.lines().filter(|line| !["%if", "%else", "%endif"].iter().any(|word| line.starts_with(word))) {
        if let Some(section) = line.strip_prefix('%') {
            is_script = ["install", "post", "postun", "pre", "preun"].contains(&section);
            if is_script {
                found.push((section, String::new()));
            }
        } else if is_script {
            found.last_mut().unwrap().1 += &format!("{line}\n");
        }
    }
    found
}

#[test]
fn each_script_of_the_packages_is_clean() {
    let mut scripts = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| path.starts_with("deploy/packages/debian")) {
        scripts.push((path.display().to_string(), "sh", with_parts(&text)));
    }
    let spec = with_parts(&fs::read_to_string(root().join("deploy/packages/spec")).unwrap());
    for (section, text) in scriptlets(&spec) {
        // A macro is a path.
        let text = text.replace("%{", "/").replace('}', if section == "install" { "" } else { "}" });
        scripts.push((format!("deploy/packages/spec, %{section}"), "sh", text));
    }
    assert!(scripts.iter().filter(|(name, ..)| name.contains("spec")).count() >= 5, "{scripts:?}");
    assert!(scripts.iter().filter(|(_, _, text)| text.contains("install_drop_in()")).count() >= 3, "{scripts:?}");
    check(&scripts);
}

#[test]
fn each_program_of_another_shell_is_clean() {
    let mut scripts = Vec::new();
    for (path, text) in files() {
        // A string in single quotes ends with the next one.
        for program in text.split("bash -c '\n").skip(1).filter_map(|rest| rest.split('\'').next()) {
            scripts.push((format!("{}, bash -c", path.display()), "bash", program.to_owned()));
        }
    }
    assert!(!scripts.is_empty());
    check(&scripts);
}

/// The shell's programs in a manifest: blocks of lines below `command: [/bin/sh, ...]`.
fn in_manifest(text: &str) -> Vec<String> {
    let mut programs = Vec::new();
    for rest in text.split("command: [/bin/sh, ").skip(1) {
        let mut lines = rest.lines().skip_while(|line| line.trim() != "- |").skip(1).peekable();
        let depth = lines.peek().unwrap().len() - lines.peek().unwrap().trim_start().len();
        let inside = |line: &&str| line.len() - line.trim_start().len() >= depth;
        programs.push(lines.take_while(inside).map(|line| format!("{}\n", &line[depth..])).collect());
    }
    programs
}

#[test]
fn each_command_of_a_container_is_clean() {
    let mut scripts = Vec::new();
    for (path, text) in texts() {
        if path.extension().is_some_and(|extension| extension == "yaml") {
            for program in in_manifest(&text) {
                scripts.push((path.display().to_string(), "sh", program));
            }
        }
    }
    assert!(scripts.iter().all(|(_, _, program)| program.starts_with("umask")), "{scripts:?}");
    assert!(scripts.len() >= 2, "{scripts:?}");
    check(&scripts);
}

#[test]
fn the_commands_of_each_document_are_clean() {
    let mut scripts = Vec::new();
    for (path, text) in texts() {
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        // A reader runs them in the same shell.
        let (mut commands, mut inside) = (String::new(), false);
        for line in text.lines() {
            if line.starts_with("```") {
                inside = line.starts_with("```sh");
            } else if inside {
                commands += &format!("{line}\n");
            }
        }
        if !commands.is_empty() {
            scripts.push((path.display().to_string(), "bash", commands));
        }
    }
    assert!(scripts.len() >= 5, "{scripts:?}");
    check(&scripts);
}

#[test]
fn each_exception_has_a_reason() {
    let mut count = 0;
    for (path, text) in files() {
        let lines: Vec<_> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some((_, rest)) = line.split_once("# shellcheck ").filter(|(_, rest)| rest.contains("disable=")) else {
                continue;
            };
            count += 1;
            let before = number.checked_sub(1).map_or("", |number| lines[number].trim_start());
            let is_told = rest.contains(" # ") || before.starts_with("# ") && !before.starts_with("# shellcheck");
            assert!(is_told, "{}:{}: {line}", path.display(), number + 1);
        }
    }
    assert!(count > 0);
}

/// The commands that a line pipes into and that may end before they have read all of it.
fn early_readers(line: &str) -> Vec<&str> {
    // What follows `||` reads no pipe.
    let pipes = line.split("||").flat_map(|list| list.split('|').skip(1)).map(str::trim_start);
    pipes
        .filter(|command| {
            command.starts_with("head ")
                || command.starts_with("grep -") && {
                    let options = command.split(' ').skip(1).take_while(|word| word.starts_with('-'));
                    options.into_iter().any(|option| option.contains(['q', 'm']))
                }
        })
        .collect()
}

#[test]
fn no_pipe_fails_because_its_reader_ends_early() {
    // The writer gets SIGPIPE if it is late, which pipefail makes the status of the whole.
    let mut told = String::new();
    for (path, text) in files().into_iter().filter(|(_, text)| text.contains("pipefail")) {
        for (number, line) in text.lines().enumerate() {
            for command in early_readers(line) {
                told += &format!("{}:{}: {command}\n", path.display(), number + 1);
            }
        }
    }
    assert!(told.is_empty(), "\n{told}");
    assert_eq!(early_readers("a | grep -vq b || grep -q c d"), ["grep -vq b "]);
    assert_eq!(early_readers("a | grep -oE q | head -n 1"), ["head -n 1"]);
}

#[test]
fn each_command_of_the_cluster_exists() {
    let script = fs::read_to_string(root().join("ci/cluster")).unwrap();
    let usage: Vec<_> = script.lines().filter_map(|line| line.strip_prefix("#   ci/cluster ")).collect();
    let known: Vec<_> = usage.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(known, ["up", "down", "run", "node"]);
    let (mut count, mut told) = (0, String::new());
    for (path, text) in files() {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
        for (number, line) in lines {
            for command in line.split("ci/cluster ").skip(1).filter_map(|rest| rest.split(' ').next()) {
                count += 1;
                if !known.contains(&command) {
                    told += &format!("{}:{}: ci/cluster {command}\n", path.display(), number + 1);
                }
            }
        }
    }
    assert!(count > 5 && told.is_empty(), "{count} commands\n{told}");
}

#[test]
fn a_flaw_is_found_wherever_it_is() {
    if !is_installed("shellcheck") {
        return skip("no shellcheck");
    }
    for (shell, text) in [("sh", "echo $1\n"), ("bash", "rm -rf $dir/*\n"), ("sh", "[[ -e x ]]\n")] {
        assert!(findings(shell, text).contains("[SC"), "{text}");
    }
    assert_eq!(shell("#!/usr/bin/env bash\n"), Some("bash"));
    assert_eq!(shell("#!/bin/sh -e\n"), Some("sh"));
    assert_eq!(shell("# Sourced.\n# shellcheck shell=bash disable=SC2034\n"), Some("bash"));
    assert_eq!(shell("#!/usr/bin/python3\n"), None);
    let manifest = "command: [/bin/sh, -euc]\nargs:\n  - |\n    a\n    b\nname: c\n";
    assert_eq!(in_manifest(manifest), ["a\nb\n"]);
    let spec = "%prep\nno\n%post\nyes\n%if x\nand\n%else\n%preun\nthis\n%files\nno\n";
    assert_eq!(scriptlets(spec), [("post", "yes\nand\n".to_owned()), ("preun", "this\n".to_owned())]);
}
