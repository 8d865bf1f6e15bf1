use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

const SET: [(&str, &str); 5] =
    [("HOME", "/home/alice"), ("XDG", "/xdg"), ("EMPTY", ""), ("B", "a  b "), ("GLOB", "/*")];

fn expanded(value: &str) -> Result<String, Unexpanded> {
    let variable = |name: &str| match name {
        "OWN" => Err(Unexpanded::NeedsShell),
        _ => Ok(SET.iter().find(|(set, _)| *set == name).map(|(_, value)| (*value).to_owned())),
    };
    expand(value, &variable)
}

#[test]
fn paths_are_expanded() {
    for (value, expected) in [
        ("/etc/enroot", "/etc/enroot"),
        ("${HOME}/.enroot", "/home/alice/.enroot"),
        ("$HOME/.enroot", "/home/alice/.enroot"),
        ("\"$HOME/.enroot\"", "/home/alice/.enroot"),
        ("~/.enroot", "/home/alice/.enroot"),
        ("~", "/home/alice"),
        ("\"~/.enroot\"", "~/.enroot"),
        ("/a~", "/a~"),
        ("${XDG}/e", "/xdg/e"),
        ("${XDG:-/etc/x}/e", "/xdg/e"),
        ("${XDG:-$NONE}/e", "/xdg/e"),
        ("${NONE:-/etc/x}/e", "/etc/x/e"),
        ("${EMPTY:-/etc/x}/e", "/etc/x/e"),
        ("${EMPTY}/e", "/e"),
        ("${NONE:-}/e", "/e"),
        ("${NONE:-~/.config}/e", "/home/alice/.config/e"),
        ("\"${NONE:-~/.config}/e\"", "~/.config/e"),
        ("${NONE:-${HOME}/.config}/e", "/home/alice/.config/e"),
        ("\"${NONE:-${EMPTY:-${XDG}}}/e\"", "/xdg/e"),
        ("${NONE:-\"a  }b\"}", "a  }b"),
        ("\"${NONE:-{a}b}\"", "{ab}"),
        ("\"${NONE:-'a'}\"", "'a'"),
        ("'${HOME}'", "${HOME}"),
        ("\\$HOME\\ \\ ~", "$HOME  ~"),
        ("\"\\$HOME \\a \\\" \\` {*;\"", "$HOME \\a \" ` {*;"),
        ("/a   b\tc ", "/a b c"),
        ("/$B/", "/a b /"),
        ("\"/$B/\"", "/a  b /"),
        ("\"$GLOB\"", "/*"),
        ("${XDG:-$GLOB}", "/xdg"),
        ("$EMPTY /a $EMPTY", "/a"),
        ("'' /a ''", " /a "),
        ("/a#b=c,d!e%f^g@h:i.j+k-l_m]", "/a#b=c,d!e%f^g@h:i.j+k-l_m]"),
        ("/é", "/é"),
    ] {
        assert_eq!(expanded(value).as_deref(), Ok(expected), "{value}");
    }
}

#[test]
fn a_variable_that_is_not_set_leaves_no_value() {
    for value in ["$NONE", "${NONE}/e", "\"/a/$NONE\"", "${EMPTY:-$NONE}", "${NONE:-${NONE}}", "$home"] {
        assert_eq!(expanded(value), Err(Unexpanded::Unset), "{value}");
    }
}

#[test]
fn values_that_need_a_shell_are_refused() {
    let values = r##"
        $(id)  "$(id)"  `id`  "`id`"  $((1+1))  $[1+1]  <(id)  /a >b  /a|b  /a&  /a;b  (a)
        /a/*  /a/?  /a/[ab]  /{a,b}  /{1..3}  /a}  $GLOB  ${NONE:-$GLOB}  ${NONE:-*}  /a #b  #
        ${HOME%/*}  ${HOME#/}  ${HOME/a/b}  ${HOME:1}  ${HOME:1:2}  ${HOME:+a}  ${HOME:=a}  ${HOME:?a}  ${HOME-a}
        ${HOME^}  ${HOME@Q}  ${#HOME}  ${!HOME}  ${HOME[0]}  ${}  ${  ${HOME  ${HOME:-  ${HOME:-a
        ${HOME:-$(id)}  ${NONE:-`id`}  "${NONE:-"a"}"  $OWN  ${OWN:-a}
        $  /a$  "$"  $$  $?  $!  $#  $@  $*  $-  $0  $1  ${1}  $'a'  $"a"
        ~bob  ~+  ~-  ~"/a"  ~$HOME  ${NONE:-~bob}  ${NONE:-~ a}  'a  "a  a\  "a\"##;
    let values = values.lines().flat_map(|line| line.trim().split("  ")).filter(|value| !value.is_empty());
    for value in values.chain(["/a\nid"]) {
        assert_eq!(expanded(value), Err(Unexpanded::NeedsShell), "{value}");
    }
}

/// Compares the expansion of all values of up to four of these parts with bash's.
#[test]
fn every_expansion_equals_bashs() {
    const PARTS: &str = "/a|~| |\"|'|\\|$HOME|${B}|${NONE:-|${XDG:-|${EMPTY:-|}|$EMPTY|#|=|:|-x|{|*";
    let mut values = vec![String::new()];
    let mut checked = Vec::new();
    for _ in 0..4 {
        values = values.iter().flat_map(|value| PARTS.split('|').map(move |part| format!("{value}{part}"))).collect();
        checked.extend(values.iter().filter_map(|value| Some((value.clone(), expanded(value).ok()?))));
    }
    assert!(checked.len() > 10_000, "{}", checked.len());
    let input: String = checked.iter().map(|(value, _)| format!("{value}\n")).collect();
    let mut bash = Command::new("/bin/bash")
        .args(["--norc", "--noprofile", "-c", "set -u; while IFS= read -r value; do eval echo \"$value\"; done"])
        .env_clear()
        .envs(SET)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = bash.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = String::from_utf8(bash.wait_with_output().unwrap().stdout).unwrap();
    writer.join().unwrap().unwrap();
    let mut lines = output.lines();
    for (value, expansion) in checked {
        assert_eq!(lines.next(), Some(expansion.as_str()), "{value}");
    }
}
