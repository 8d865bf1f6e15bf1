//! The agent under a service manager, and after an upgrade.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::callers::{Door, assert_answered};
use super::processes::{kill_agent, processes};
use super::{LIMIT, site};
use crate::cluster::{Background, Node, command_path, set_mode, wait_until};
use crate::site::Site;
use crate::skipped::skip;

/// A service manager in one line: it restarts the agent whenever the main process ends.
const MANAGER: &str = "trap 'kill $!; wait; exit' TERM; while :; do \
    \"$1\" agent --config /etc/slurm/gcp-wif.json --foreground & wait $!; echo ended $?; sleep 0.3; done";
/// Longer than a hook waits for a service.
const ALONE: Duration = Duration::from_secs(30);

fn manager(node: &Node) -> Background {
    node.command(["bash", "-c", MANAGER, "manager", command_path()]).spawn()
}

fn service(node: &Node) -> Background {
    service_of(node, command_path())
}

fn service_of(node: &Node, command: &str) -> Background {
    node.command([command, "agent", "--config", "/etc/slurm/gcp-wif.json", "--foreground"]).spawn()
}

fn mark(node: &Node) -> PathBuf {
    node.run_dir().join("gcp-wif/agent.service")
}

fn ids(node: &Node) -> Vec<String> {
    processes(node).into_iter().map(|process| process.id).collect()
}

fn watching(node: &Node) -> Option<String> {
    processes(node).into_iter().find(|process| !process.serves).map(|process| process.id)
}

/// The agent's two processes, as soon as none of these is among them.
fn replaced(node: &Node, old: &[String]) -> Vec<String> {
    let new = || Some(ids(node)).filter(|ids| ids.len() == 2 && ids.iter().all(|id| !old.contains(id)));
    wait_until(LIMIT, || new().is_some());
    ids(node)
}

fn is_service(node: &Node, id: &str) -> bool {
    let line = format!("tr '\\0' ' ' </proc/{id}/cmdline");
    node.as_user("root").shell(&line).run().stdout.contains("--foreground")
}

/// Waits until a service's agent serves, and returns its two processes.
fn serves(node: &Node) -> Vec<String> {
    wait_until(LIMIT, || {
        let ids = ids(node);
        ids.len() == 2
            && ids.iter().all(|id| is_service(node, id))
            && node.run_dir().join("gcp-wif/agent.sock").exists()
    });
    ids(node)
}

const TOKEN: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// A client of alice's that asks repeatedly, and ends at the first request without an answer.
struct Client {
    stop: PathBuf,
    run: Background,
}

impl Client {
    fn start(site: &Site, node: &Node, door: &Door) -> Self {
        let request = format!(
            "curl -sS --fail -m 60 -o /dev/null -H 'Metadata-Flavor: Google' http://127.0.0.1:{}{TOKEN}",
            door.port
        );
        Self::with(&request, site, node)
    }

    /// A client whose requests take a second to arrive, so that one is always on its way.
    fn slow(site: &Site, node: &Node, door: &Door) -> Self {
        let request = format!(
            "{{ exec 3<>/dev/tcp/127.0.0.1/{port}
             printf 'GET {TOKEN} HTTP/1.1\\r\\nHost: 127.0.0.1:{port}\\r\\nMetadata-Flavor: Google\\r\\n' >&3
             sleep 1
             printf 'Connection: close\\r\\n\\r\\n' >&3
             grep -q '^HTTP/1.1 200 OK' <&3 || {{ echo no answer >&2; false; }}; }}",
            port = door.port
        );
        Self::with(&request, site, node)
    }

    fn with(request: &str, site: &Site, node: &Node) -> Self {
        let stop = site.cluster.home("alice").join("stop");
        let _ = fs::remove_file(&stop);
        let line = format!("while ! test -e stop; do {request} || exit 1; echo; done");
        let run = node.as_user("alice").shell(&line).spawn();
        let client = Self { stop, run };
        client.goes_on();
        client
    }

    /// Waits for some more answers.
    fn goes_on(&self) {
        let before = self.run.stdout().len();
        wait_until(LIMIT, || self.run.stdout().len() > before + 2 || !self.run.stderr().is_empty());
        assert_eq!(self.run.stderr(), "");
    }

    fn end(self) {
        self.goes_on();
        fs::write(self.stop, "").unwrap();
        self.run.wait(LIMIT).ok();
    }
}

#[test]
fn a_service_takes_over_from_the_agent_that_a_hook_has_started() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let first = replaced(&node, &[]);
    let client = Client::start(&site, &node, &Door::of(&node, &id));
    let service = service(&node);
    replaced(&node, &first);
    serves(&node);
    client.end();
    // The service ends on request, and with it the mark that tells hooks about it.
    assert!(mark(&node).exists());
    service.signal("TERM");
    let run = service.wait(LIMIT).ok();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    assert!(ids(&node).is_empty() && !mark(&node).exists());
    // The next step does not wait for it.
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    assert_answered(&Door::of(&node, &id).token(&node, "alice", ""));
    assert!(replaced(&node, &[]).iter().all(|id| !is_service(&node, id)));
    site.cancel(job);
    site.finish();
}

#[test]
fn a_service_that_is_killed_is_back_and_hooks_wait_for_it() {
    let site = site(json!({}), None);
    let node = site.cluster.node(1);
    let manager = manager(&node);
    let first = serves(&node);
    let (job, id) = site.running_job();
    let door = Door::of(&node, &id);
    assert_eq!(serves(&node), first);
    // The main process alone: the other one serves until the service is back.
    let client = Client::start(&site, &node, &door);
    node.command(["kill", "-9", &watching(&node).unwrap()]).run().ok();
    let second = replaced(&node, &first);
    client.end();
    assert_eq!(serves(&node), second);
    // Both at once. No hook starts another agent.
    let words = ["kill", "-9"].into_iter().chain(second.iter().map(String::as_str));
    node.command(words).run().ok();
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    assert_answered(&door.token(&node, "alice", ""));
    let third = serves(&node);
    assert!(third.iter().all(|id| !second.contains(id)));
    manager.signal("TERM");
    manager.wait(LIMIT);
    assert!(ids(&node).is_empty());
    site.cancel(job);
    site.finish();
}

#[test]
fn s6_keeps_the_agent() {
    let site = site(json!({}), None);
    let node = site.cluster.node(1);
    let directory = site.cluster.dir().join("s6/gcp-wif-agent");
    fs::create_dir_all(&directory).unwrap();
    // The package's unit, with the command under test.
    let run = include_str!("../../../deploy/packages/s6/gcp-wif-agent/run").replace("/usr/bin/gcp-wif", command_path());
    fs::write(directory.join("run"), run.replace("agent --", "agent --config /etc/slurm/gcp-wif.json --")).unwrap();
    set_mode(directory.join("run"), 0o755);
    let scan = directory.parent().unwrap().display().to_string();
    if node.command(["sh", "-c", "command -v s6-svscan"]).run().status != 0 {
        skip("no s6");
        return site.finish();
    }
    let manager = node.command(["s6-svscan", &scan]).spawn();
    let first = serves(&node);
    let (job, id) = site.running_job();
    let door = Door::of(&node, &id);
    let client = Client::start(&site, &node, &door);
    node.command(["kill", "-9", &watching(&node).unwrap()]).run().ok();
    let second = replaced(&node, &first);
    client.end();
    let words = ["kill", "-9"].into_iter().chain(second.iter().map(String::as_str));
    node.command(words).run().ok();
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    assert_answered(&door.token(&node, "alice", ""));
    assert!(serves(&node).iter().all(|id| !second.contains(id)));
    node.command(["s6-svscanctl", "-t", &scan]).run().ok();
    manager.wait(LIMIT);
    wait_until(LIMIT, || ids(&node).is_empty() && !mark(&node).exists());
    site.cancel(job);
    site.finish();
}

#[test]
fn the_unit_of_systemd_keeps_the_agent() {
    // Short enough for a refresh, which writes files that belong to the user.
    let site = site(json!({}), Some(20));
    let node = site.cluster.node(1);
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slurm/agent/systemd.sh");
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/packages/gcp-wif-agent.service");
    let namespaces = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "--mount-proc", "--kill-child"];
    let mut manager = node.command(namespaces.into_iter().chain([here, unit, command_path()])).spawn();
    wait_until(LIMIT, || !manager.is_running() || ids(&node).len() == 2);
    if !manager.is_running() {
        skip(&format!("systemd does not start here: {}", manager.stderr()));
        return site.finish();
    }
    let first = serves(&node);
    let (job, id) = site.running_job();
    let door = Door::of(&node, &id);
    let client = Client::start(&site, &node, &door);
    node.command(["kill", "-9", &watching(&node).unwrap()]).run().ok();
    let second = replaced(&node, &first);
    client.end();
    serves(&node);
    let words = ["kill", "-9"].into_iter().chain(second.iter().map(String::as_str));
    node.command(words).run().ok();
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    assert_answered(&door.token(&node, "alice", ""));
    assert!(serves(&node).iter().all(|id| !second.contains(id)));
    let token = || fs::read_to_string(node.job_dir(&id).join("access_token")).unwrap();
    let before = token();
    wait_until(LIMIT, || token() != before);
    // Its log would show what the unit does not permit.
    let log = fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap();
    assert!(!log.contains(" error "), "{log}");
    site.cancel(job);
    drop(manager);
    kill_agent(&node);
    fs::remove_file(mark(&node)).unwrap();
    site.finish();
}

#[test]
fn a_service_that_does_not_come_back_costs_no_job_its_credentials() {
    let site = site(json!({}), None);
    let node = site.cluster.node(1);
    let service = service(&node);
    serves(&node);
    let (job, id) = site.running_job();
    kill_agent(&node);
    assert_eq!(service.wait(LIMIT).status, 128 + 9);
    assert!(mark(&node).exists());
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).limit(ALONE).run().ok();
    assert_answered(&Door::of(&node, &id).token(&node, "alice", ""));
    // The next step does not wait.
    assert!(!mark(&node).exists());
    site.cancel(job);
    site.finish();
}

#[test]
fn a_serving_process_whose_service_does_not_come_back_continues() {
    let site = site(json!({}), None);
    let node = site.cluster.node(1);
    let service = service(&node);
    let first = serves(&node);
    let (job, id) = site.running_job();
    let client = Client::slow(&site, &node, &Door::of(&node, &id));
    node.command(["kill", "-9", &watching(&node).unwrap()]).run().ok();
    drop(service);
    wait_until(LIMIT, || processes(&node).len() == 2 && watching(&node).is_some_and(|id| !first.contains(&id)));
    client.end();
    assert!(ids(&node).iter().all(|id| !is_service(&node, id)));
    site.cancel(job);
    site.finish();
}

#[test]
fn a_service_waits_for_a_configuration_and_ends_at_once_when_told() {
    let site = site(json!({}), None);
    let node = site.cluster.node(1);
    node.write_config("{");
    let service = service(&node);
    wait_until(LIMIT, || service.stderr().contains("gcp-wif: configuration: /etc/slurm/gcp-wif.json"));
    service.signal("TERM");
    service.wait(LIMIT).ok();
    site.configure(json!({}));
    site.finish();
}

/// Replaces the site's command by a program, as a package does.
fn put(command: &PathBuf, mode: u32) {
    let new = command.with_extension("new");
    fs::copy(command_path(), &new).unwrap();
    set_mode(&new, mode);
    fs::rename(new, command).unwrap();
}

#[test]
fn an_agent_whose_program_changed_restarts_as_the_new_one() {
    let site = site(json!({}), None);
    let command = site.cluster.dir().join("gcp-wif");
    put(&command, 0o755);
    site.configure(json!({"delivery": "agent", "command": command}));
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let first = replaced(&node, &[]);
    let client = Client::start(&site, &node, &Door::of(&node, &id));
    let step = || site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    // A program that others can change, and a file that is not a program.
    put(&command, 0o777);
    step();
    fs::write(&command, "#!/bin/sh\nexit 1\n").unwrap();
    set_mode(&command, 0o755);
    step();
    let log = || fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap();
    wait_until(LIMIT, || {
        log().contains(
            "cannot be started, the agent continues: with --help it ends with exit \
             status: 1",
        )
    });
    wait_until(LIMIT, || processes(&node).len() == 2);
    assert!(watching(&node).is_some_and(|watching| first.contains(&watching)));
    let before = replaced(&node, &[]);
    put(&command, 0o755);
    step();
    let second = replaced(&node, &before);
    client.goes_on();

    // The same under a service manager; the agent keeps its process.
    let service = service_of(&node, &command.display().to_string());
    replaced(&node, &second);
    let third = serves(&node);
    let first = watching(&node).unwrap();
    put(&command, 0o755);
    step();
    let is_new = || processes(&node).iter().any(|process| process.serves && !third.contains(&process.id));
    wait_until(LIMIT, || is_new() && processes(&node).len() == 2);
    assert_eq!(watching(&node), Some(first.clone()));
    let exe = node.command(["readlink", &format!("/proc/{first}/exe")]).run().ok().stdout;
    assert_eq!(exe.trim_end(), command.display().to_string());
    client.end();
    service.signal("TERM");
    service.wait(LIMIT).ok();
    site.cancel(job);
    site.finish();
}
