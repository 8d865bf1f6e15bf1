//! ENROOT_CONFIG_PATH in the node's own enroot.conf. enroot lets bash expand its values; the plugin must not run a
//! shell.

use serde_json::json;

use super::{SHOW, only_line, write};
use crate::cluster::{Node, command_path};
use crate::registry::HOST;
use crate::site::{OBJECT, Site};

/// Gives a node an `/etc/enroot` with only this `enroot.conf`, over the machine's own `/etc`.
#[track_caller]
fn configure(node: &Node, text: &str) {
    let line = "set -e; cat >/run/enroot.conf; t=/run/etc; \
                if ! [ -e $t ]; then mkdir -p $t/upper $t/work $t/merged; \
                mount -t overlay overlay -o lowerdir=/etc,upperdir=$t/upper,workdir=$t/work $t/merged; \
                for path in passwd group slurm; do mount --bind /etc/$path $t/merged/$path; done; \
                mount --rbind $t/merged /etc; fi; \
                rm -rf /etc/enroot; mkdir /etc/enroot; cp /run/enroot.conf /etc/enroot/enroot.conf";
    node.command(["sh", "-c", line]).stdin(text).run().ok();
}

/// One of alice's configurations below her home, different from the others.
fn write_own(site: &Site, place: &str) {
    write(site, &format!("{place}/.credentials"), &format!("machine nvcr.io login $oauthtoken password in-{place}\n"));
    write(site, &format!("{place}/hooks.d/10-mine.sh"), "#!/bin/sh\n");
}

#[track_caller]
fn assert_in_force(shown: &str, place: &str, case: &str) {
    let line = format!("== .credentials\nmachine nvcr.io login $oauthtoken password in-{place}\nmachine ");
    assert!(shown.contains(&line), "{case}: {shown}");
    assert!(shown.contains(&format!("/{place}/hooks.d/10-mine.sh\n")), "{case}: {shown}");
    assert!(shown.contains(&format!("machine {HOST} login oauth2accesstoken password ya29.")), "{case}: {shown}");
}

#[test]
fn the_users_directory_is_found_where_enroot_conf_puts_it() {
    let site = Site::start();
    let node = site.cluster.node(1);
    for place in [".enroot", "xdg/e", ".config/e", "a b"] {
        write_own(&site, place);
    }
    let xdg = site.cluster.home("alice").join("xdg").display().to_string();
    let home = site.cluster.home("alice").display().to_string();
    for (value, variable, place) in [
        ("${HOME}/.enroot", None, ".enroot"),
        ("$HOME/.enroot", None, ".enroot"),
        ("~/.enroot", None, ".enroot"),
        ("\"${HOME}/.enroot\"", None, ".enroot"),
        ("${XDG_CONFIG_HOME}/e", Some(xdg.as_str()), "xdg/e"),
        ("\"${XDG_CONFIG_HOME:-/etc/x}/e\"", Some(&xdg), "xdg/e"),
        ("${XDG_CONFIG_HOME:-~/.config}/e", None, ".config/e"),
        ("${XDG_CONFIG_HOME:-${HOME}/.config}/e", None, ".config/e"),
        // A value of the user's is not expanded.
        ("\"${XDG_CONFIG_HOME}\"", Some("$(touch ran)`touch ran`"), ""),
        ("\"${XDG_CONFIG_HOME:-/etc/x}/a b\"", Some(&home), "a b"),
    ] {
        configure(&node, &format!("ENROOT_CONFIG_PATH {value}\n"));
        let mut command = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", SHOW]);
        if let Some(variable) = variable {
            command = command.env("XDG_CONFIG_HOME", variable);
        }
        let run = command.run();
        if place.is_empty() {
            assert!(only_line(&run.stderr).contains("is not an absolute path"), "{value}: {}", run.stderr);
        } else {
            assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{value}");
            assert_in_force(&run.stdout, place, value);
        }
    }
    assert!(!site.cluster.home("alice").join("ran").exists());
    site.finish();
}

#[test]
fn no_exported_function_runs_at_a_steps_start_or_leaves_a_process() {
    /// A number of seconds for which no other process sleeps.
    const SLEEP: &str = "31557";
    let site = Site::start();
    let node = site.cluster.node(1);
    write_own(&site, ".enroot");
    configure(&node, "ENROOT_CONFIG_PATH ${HOME}/.enroot\n");
    let body = format!(
        "() {{ /bin/touch ~/ran; for i in 1 2 3; do setsid sleep {SLEEP} <&- >&- 2>&- & done; \
         builtin \"${{FUNCNAME[0]}}\" \"$@\"; }}"
    );
    let functions = ["echo", "eval", "set", "command", "printf"].map(|name| format!("BASH_FUNC_{name}%%"));
    // The job's own processes do not count.
    let unset = functions.iter().flat_map(|name| ["-u", name]);
    let words = ["srun", "-w", "n1", "--gcp-wif", "env", "-u", "SHELLOPTS", "-u", "PS4"].into_iter().chain(unset);
    let mut command = site.cluster.as_user("alice").command(words.chain(["bash", "-c", SHOW]));
    for name in &functions {
        command = command.env(name, &body);
    }
    let run = command.env("SHELLOPTS", "xtrace").env("PS4", "$(/bin/touch ~/ran)").run().ok();
    assert_in_force(&run.stdout, ".enroot", "with functions");
    site.cluster.assert_healthy();
    let line = format!(
        "grep -lsz ^{SLEEP}$ /proc/[0-9]*/cmdline; [ ! -e {} ]",
        site.cluster.home("alice").join("ran").display()
    );
    let left = node.command(["bash", "-c", &line]).run();
    assert_eq!((left.status, left.stdout.as_str()), (0, ""), "a function ran, and left these processes");
    site.finish();
}

#[test]
fn what_only_a_shell_can_expand_stays_and_is_reported() {
    let site = Site::start();
    site.configure(json!({"registries": [HOST]}));
    let node = site.cluster.node(1);
    for (case, value) in [
        ("a command substitution", "/etc/enroot/users/$(id -u)"),
        ("another one", "/etc/enroot/users/`id -u`"),
        ("arithmetic", "/etc/enroot/users/$((60000+1001))"),
        ("a part of a variable", "${HOME%/*}/enroot"),
        ("a default with a command", "${XDG_CONFIG_HOME:-$(mktemp -d)}/enroot"),
        ("an assignment", "${XDG_CONFIG_HOME:=/etc/x}/enroot"),
        ("a pattern", "/etc/enroot/users/*"),
        ("alternatives", "/etc/enroot/{a,b}"),
        ("a further command", "/etc/enroot; touch ran"),
    ] {
        configure(&node, &format!("ENROOT_CONFIG_PATH {value}\n"));
        let line = format!("echo path=$ENROOT_CONFIG_PATH; {}", site.list());
        let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line];
        let run = site.cluster.as_user("alice").command(words).run().ok();
        assert!(run.stdout.starts_with("path=\n") && run.stdout.contains(OBJECT), "{case}: {}", run.stdout);
        let line = only_line(&run.stderr);
        for part in [
            "gcp-wif: files: ",
            "/etc/enroot/enroot.conf",
            value,
            "this step's containers get no \
             credentials",
        ] {
            assert!(line.contains(part), "{case}: no {part} in: {line}");
        }
    }
    let doctor = node.command([command_path(), "doctor"]).run();
    let is_told = |line: &str| line.starts_with("warning ") && line.contains("which only a shell can expand");
    assert!(doctor.stdout.lines().any(is_told), "{}", doctor.stdout);
    // A value of the job's own does not come from enroot.conf.
    write_own(&site, "mine");
    let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", SHOW];
    let own = site.cluster.home("alice").join("mine").display().to_string();
    let run = site.cluster.as_user("alice").command(words).env("ENROOT_CONFIG_PATH", &own).run().ok();
    assert_in_force(&run.stdout, "mine", "the job's own");
    assert_eq!(run.stderr, "");
    site.finish();
}
