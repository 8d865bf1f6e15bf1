//! Access to a node's agent through its ports, its files and its processes: who has it, and who does not.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use super::processes::{kill_agent, processes};
use super::{LIMIT, site};
use crate::cluster::{BOB, Background, Node, Run, wait_until};
use crate::google::SERVICE_ACCOUNT;
use crate::site::{OTHER_ACCOUNT, Site};

/// The agent's ports: those that only root can take, if there are any, and those that everyone can take.
const PORTS: [&str; 4] = ["1", "664", "20000", "29499"];
/// A user that no cluster of these tests knows, because all clusters share the loopback interface.
pub const NOBODY: [&str; 6] = ["setpriv", "--reuid=61999", "--regid=61999", "--clear-groups", "--reset-env", "--"];
const FLAVOR: &str = "-H 'Metadata-Flavor: Google'";

/// A job's first port.
pub struct Door {
    pub port: u64,
    pub handle: String,
}

impl Door {
    pub fn of(node: &Node, job: &str) -> Self {
        let path = node.run_dir().join("gcp-wif/records").join(job).join("record");
        let record: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let port = &record["issued"][0]["port"];
        Self { port: port["number"].as_u64().unwrap(), handle: port["handle"].as_str().unwrap().to_owned() }
    }

    /// The agent's answer to a request for something of the default service account, head and body.
    fn ask(&self, node: &Node, user: &str, what: &str, options: &str) -> String {
        self.ask_with(node, user, "curl", what, options).stdout
    }

    fn ask_with(&self, node: &Node, user: &str, curl: &str, what: &str, options: &str) -> Run {
        let path = format!("computeMetadata/v1/instance/service-accounts/default/{what}");
        node.as_user(user).shell(&format!("{curl} -sS -i -m 60 {options} http://127.0.0.1:{}/{path}", self.port)).run()
    }

    pub fn token(&self, node: &Node, user: &str, options: &str) -> String {
        self.ask(node, user, "token", &format!("{FLAVOR} {options}"))
    }

    /// Exchanges the handle.
    pub fn exchange(&self, node: &Node, user: &str) -> String {
        let grant = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange";
        let (port, handle) = (self.port, &self.handle);
        let line =
            format!("curl -sS -i -m 60 -d {grant} --data-urlencode subject_token={handle} 127.0.0.1:{port}/v1/token");
        node.as_user(user).shell(&line).run().stdout
    }
}

#[track_caller]
pub fn assert_answered(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"access_token\":\"ya29."), "{answer}");
    assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
}

#[track_caller]
fn assert_refused(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("ya29"), "{answer}");
    assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
}

#[test]
fn another_user_is_not_answered() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let door = Door::of(&node, &id);

    assert_answered(&door.token(&node, "alice", ""));
    assert_answered(&door.exchange(&node, "alice"));
    // Root can become any user.
    assert_answered(&door.token(&node, "root", ""));
    for user in ["bob", "carol"] {
        assert_refused(&door.token(&node, user, ""));
        assert_refused(&door.exchange(&node, user));
    }

    // Inside a user namespace, everyone can be any user.
    let inside = |user: &str, who: &str| {
        door.ask_with(&node, user, &format!("unshare --user {who} curl"), "token", FLAVOR).ok().stdout
    };
    assert_answered(&inside("alice", "--map-root-user"));
    for who in ["--map-root-user", "--map-user=61001 --map-group=61001"] {
        assert_refused(&inside("bob", who));
    }

    // Pages and proxies.
    for header in [
        "X-Forwarded-For: 127.0.0.1",
        "Host: evil.example",
        "Origin: http://localhost:8888",
        "Referer: http://localhost:8888/lab",
        "Sec-Fetch-Site: same-origin",
    ] {
        assert_refused(&door.token(&node, "alice", &format!("-H '{header}'")));
    }
    let preflight = "-X OPTIONS -H 'Origin: http://evil.example' -H 'Access-Control-Request-Headers: metadata-flavor'";
    assert_refused(&door.ask(&node, "alice", "token", preflight));
    assert_refused(&door.ask(&node, "alice", "token", ""));

    // The agent listens on no other loopback address. An IPv6-only program would use this one.
    for (address, reached) in
        [("127.0.0.2", "no"), ("127.255.255.254", "no"), ("::1", "no"), ("::ffff:127.0.0.1", "yes")]
    {
        let ask = format!(
            "import socket\ntry: c = socket.create_connection(('{address}', {}))\nexcept OSError: print('no')\nelse:\n \
             c.sendall(b'GET /computeMetadata/v1/instance/service-accounts/default/token HTTP/1.1\\r\\n\
             Host: metadata.google.internal\\r\\nMetadata-Flavor: Google\\r\\nConnection: close\\r\\n\\r\\n')\n \
             print('yes' if b'ya29.' in c.makefile('rb').read() else 'refused')",
            door.port
        );
        assert_eq!(
            node.as_user("alice").command(["python3", "-c", &ask]).run().ok().stdout.trim(),
            reached,
            "{address}"
        );
    }
    site.cancel(job);
    site.finish();
}

#[test]
fn a_user_who_tries_every_port_gets_nothing() {
    let site = site(json!({"log_level": "debug"}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let door = Door::of(&node, &id);
    let words = ["python3", "-", &door.handle].into_iter().chain(PORTS);
    let run = node.command(NOBODY.into_iter().chain(words)).stdin(include_str!("../../clients/stranger.py")).run().ok();
    let mut ours = 0;
    for line in run.stdout.lines() {
        // Other tests' agents are among them.
        assert!(!line.contains(" HTTP/1.1 200") && line.ends_with(" none"), "{line}");
        ours += usize::from(line == format!("{} HTTP/1.1 403 Fo none", door.port));
    }
    assert_eq!(ours, 3, "{}", run.stdout);
    let log = fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap();
    assert!(log.contains(&format!(" debug gcp-wif: agent: port {} is served\n", door.port)), "{log}");
    site.cancel(job);
    site.finish();
}

#[test]
fn files_and_processes_are_closed_to_users() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    // The agent dies, so that the log has a line about it.
    let serving = processes(&node).into_iter().find(|process| process.serves).unwrap();
    node.command(["kill", "-KILL", &serving.id]).run().ok();
    wait_until(LIMIT, || processes(&node).iter().any(|process| process.serves && process.id != serving.id));
    assert_answered(&Door::of(&node, &id).token(&node, "alice", ""));
    wait_until(LIMIT, || processes(&node).len() == 2);
    let agent: Vec<String> = processes(&node).into_iter().map(|process| process.id).collect();
    // The job's own processes, and the slurmstepd that started them.
    let list = format!("pgrep -u alice; pgrep -f '^slurmstepd: .{id}[.]'");
    let jobs = node.command(["bash", "-c", &list]).run().ok().stdout;
    assert!(jobs.lines().count() >= 2, "{jobs}");
    // Everyone may read the metrics, because they name no user.
    let find = ["find", "/run/gcp-wif", "-not", "-name", "metrics.prom"];
    let all = node.command(find).run().ok().stdout;
    for name in [
        "agent.sock",
        "agent.log",
        "agent.lock",
        "jobs",
        "records",
        &format!("records/{id}/record"),
        &format!("jobs/{id}/handle"),
    ] {
        assert!(all.lines().any(|path| path == format!("/run/gcp-wif/{name}")), "{all}");
    }

    let spy = include_str!("../../clients/spy.py");
    let look = |user: &str, ids: &[&str], paths: &str| {
        let words = ["python3", "-c", spy].into_iter().chain(ids.iter().copied());
        node.as_user(user).command(words).stdin(paths).run().ok().stdout
    };
    let everything: Vec<&str> = agent.iter().map(String::as_str).chain(jobs.lines()).collect();
    assert_eq!(look("bob", &everything, &all), "done\n");
    // The agent also holds other users' tokens.
    let agent: Vec<&str> = agent.iter().map(String::as_str).collect();
    let own = format!("/run/gcp-wif/jobs/{id}");
    let others: String = all.lines().filter(|path| !path.starts_with(&own)).map(|path| format!("{path}\n")).collect();
    assert_eq!(look("alice", &agent, &others), "done\n");

    assert_eq!(processes(&node).len(), 2);
    site.cancel(job);
    site.finish();
}

#[test]
fn each_of_a_users_jobs_has_its_own_identity_and_port() {
    let site = site(json!({"rules": [{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]}), None);
    let node = site.cluster.node(1);
    let start = |option: &str| {
        let line = "echo $SLURM_JOB_ID; env; curl -sS -H 'Metadata-Flavor: Google' \
                    http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/email; echo; sleep 300";
        site.cluster.as_user("alice").command(["srun", "-w", "n1", option, "bash", "-c", line]).spawn()
    };
    let jobs = [start("--gcp-wif"), start(&format!("--gcp-wif-service-account={OTHER_ACCOUNT}"))];
    for (job, account) in jobs.iter().zip([SERVICE_ACCOUNT, OTHER_ACCOUNT]) {
        wait_until(LIMIT, || job.stdout().ends_with(&format!("\n{account}\n")));
    }
    let doors = jobs.each_ref().map(|job| Door::of(&node, job.stdout().lines().next().unwrap()));
    assert_ne!(doors[0].port, doors[1].port);
    for (door, account) in doors.iter().zip([SERVICE_ACCOUNT, OTHER_ACCOUNT]) {
        // One of alice's processes outside of any job, such as a shell that came in by ssh.
        assert!(door.ask(&node, "alice", "email", FLAVOR).ends_with(account));
    }
    // One job's handle is useless at the other job's port.
    let mixed = Door { port: doors[0].port, handle: doors[1].handle.clone() };
    assert!(mixed.exchange(&node, "alice").contains("invalid_grant"));

    let without = site.cluster.as_user("alice").command(["srun", "-w", "n1", "env"]).run().ok().stdout;
    let told = |word: &str| without.lines().any(|line| line.contains(word));
    for word in ["GCE_METADATA", "GOOGLE_", "GCP_WIF", "CLOUDSDK", "ya29."] {
        assert!(!told(word), "{word}: {without}");
    }
    for door in &doors {
        // Slurm's own variables also contain ports, which may begin with the same digits.
        let address = format!("127.0.0.1:{}", door.port);
        let named = without.lines().any(|line| line.split(['=', ',', '/']).any(|part| part == address));
        assert!(!told(&door.handle) && !named, "{without}");
    }
    let [first, second] = jobs;
    drop(second);
    site.cancel(first);
    site.finish();
}

#[test]
fn a_dead_agents_port_stays_reserved_or_is_useless() {
    let site = site(json!({}), Some(8));
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let door = Door::of(&node, &id);
    let port = door.port.to_string();
    wait_until(LIMIT, || processes(&node).len() == 2);

    // The serving process dies and nobody restarts it, because the watcher, which has the socket, is stopped.
    let (serving, watching): (Vec<_>, Vec<_>) = processes(&node).into_iter().partition(|process| process.serves);
    node.command(["kill", "-STOP", &watching[0].id]).run().ok();
    node.command(["kill", "-KILL", &serving[0].id]).run().ok();
    let run = squat(&node, door.port, Duration::ZERO).wait(LIMIT);
    assert_eq!((run.status, run.stdout.as_str(), run.stderr.trim()), (1, "", "EADDRINUSE"));
    node.command(["kill", "-CONT", &watching[0].id]).run().ok();
    assert_answered(&door.token(&node, "alice", ""));

    // Both die, which only root can cause, and bob is faster than the next step.
    wait_until(LIMIT, || processes(&node).len() == 2);
    kill_agent(&node);
    let squatter = squat(&node, door.port, 2 * LIMIT);
    wait_until(2 * LIMIT, || squatter.stdout().starts_with("taken\n"));
    // Bob now learns the handle, but gets no token for it.
    assert!(door.exchange(&node, "alice").contains("of-bob"));
    wait_until(LIMIT, || squatter.stdout().contains(&door.handle));

    // The next step starts an agent. It cannot get the port, says so once, and still keeps alice's files fresh.
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    let token = || fs::read_to_string(node.job_dir(&id).join("access_token")).unwrap();
    for _ in 0..2 {
        let before = token();
        wait_until(LIMIT, || token() != before);
    }
    drop(squatter);
    // For a minute, the kernel may still have one of bob's connections at that port (TIME_WAIT), and so reserve it.
    wait_until(2 * LIMIT, || door.token(&node, "alice", "").starts_with("HTTP/1.1 200 "));
    assert_refused(&door.token(&node, "bob", ""));
    assert_refused(&door.exchange(&node, "bob"));
    let log = fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap();
    assert_eq!(log.matches(&format!(" warn gcp-wif: agent: port {port} of 127.0.0.1 is taken")).count(), 1, "{log}");
    assert!(log.contains(" info gcp-wif: refresh ") && !log.contains(" debug "), "{log}");
    site.cancel(job);
    site.finish();
}

#[test]
fn a_step_does_not_begin_with_another_users_port() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let before = Door::of(&node, &id);
    kill_agent(&node);
    let squatter = squat(&node, before.port, 2 * LIMIT);
    wait_until(2 * LIMIT, || squatter.stdout().starts_with("taken\n"));

    let line = "curl -sS --fail -H 'Metadata-Flavor: Google' \
                http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/email";
    let words = ["srun", "--overlap", &format!("--jobid={id}"), "--gcp-wif", "bash", "-c", line];
    assert_eq!(site.cluster.as_user("alice").command(words).run().ok().stdout, SERVICE_ACCOUNT);
    // Processes that were already running find the new port and a new handle in the job's file.
    let door = Door::of(&node, &id);
    assert!(door.port != before.port && door.handle != before.handle);
    let credentials = fs::read_to_string(node.job_dir(&id).join("credentials.json")).unwrap();
    assert!(credentials.contains(&format!("127.0.0.1:{}/v1/token", door.port)), "{credentials}");
    assert_answered(&door.exchange(&node, "alice"));
    // Another test, which tries every port, may have connected meanwhile.
    let seen = squatter.stdout();
    assert!(!seen.contains(&before.handle) && !seen.contains(&door.handle), "{seen}");
    drop(squatter);
    site.cancel(job);
    site.finish();
}

/// Bob takes a port and answers on it. The test lets bob take a privileged port, as a site might.
fn squat(node: &Node, port: u64, limit: Duration) -> Background {
    let script = include_str!("../../clients/squatter.py");
    let bob = [&format!("--reuid={BOB}"), &format!("--regid={BOB}"), "--clear-groups"];
    let any_port = ["--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service"];
    let words = ["setpriv"].into_iter().chain(bob).chain(any_port).chain(["--", "python3", "-"]);
    node.command(words).arg(port.to_string()).arg(limit.as_secs().to_string()).stdin(script).spawn()
}

#[test]
fn many_connections_keep_no_job_from_its_token() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let (others, other_id) = running_job_of_bobs(&site);
    let node = site.cluster.node(1);
    let (door, bobs) = (Door::of(&node, &id), Door::of(&node, &other_id));
    let agent = || processes(&node).into_iter().map(|process| (process.id, process.serves)).collect::<Vec<_>>();
    let before = agent();
    let descriptors = || processes(&node).iter().map(|process| process.descriptors).max().unwrap();
    // Also returns the most descriptors that the agent had while the connections were opened.
    let crowd = |user: &str, count: &str| {
        let words = ["python3", "-", &door.port.to_string(), count];
        let run = node.as_user(user).command(words).stdin(include_str!("../../clients/crowd.py")).spawn();
        let mut most = 0;
        wait_until(LIMIT, || {
            let is_open = run.stdout() == "open\n";
            most = most.max(descriptors());
            is_open
        });
        (run, most)
    };

    // Other users: the agent closes their connections at once.
    let (strangers, most) = crowd("bob", "3000");
    assert_answered(&door.token(&node, "alice", ""));
    let most = most.max(descriptors());
    assert!(most < 100, "{most} descriptors");
    drop(strangers);

    // The job's own user: the share of each user is limited, so that others keep theirs.
    let (own, most) = crowd("alice", "700");
    assert_answered(&bobs.token(&node, "bob", ""));
    let most = most.max(descriptors());
    assert!(most < 600, "{most} descriptors");
    // The agent closes silent connections, so that alice is served again.
    assert_answered(&door.token(&node, "alice", ""));
    drop(own);
    assert_eq!(agent(), before);
    drop(others);
    site.cancel(job);
    site.finish();
}

fn running_job_of_bobs(site: &Site) -> (Background, String) {
    let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", "echo $SLURM_JOB_ID; sleep 300"];
    let job = site.cluster.as_user("bob").command(words).spawn();
    wait_until(LIMIT, || job.stdout().ends_with('\n'));
    let id = job.stdout().trim().to_owned();
    (job, id)
}
