//! What is kept on a node for all jobs of a user, with real processes: many at once, and killed at any moment.
//!
//! Each process is this binary again, with the one test below that acts as [`ROLE`] says.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test ends with a panic, and prints")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gcp_wif_core::exchange::AccessToken;
use gcp_wif_core::job::node::{Exchanged, Node};
use gcp_wif_core::job::obtain::{Looked, Need, Obtain};
use gcp_wif_core::job::processes::Proc;
use gcp_wif_core::job::worker::Worker;
use gcp_wif_core::plan::record::RunId;
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::config::Delivery;
use gcp_wif_core::policy::facts::JobFacts;
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::tokens::{Key, Token};
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::world::clock::{Clock, SystemClock};
use gcp_wif_core::world::fs::{RuntimeDirectory, TryLock};

/// What a process does: `UID PLACE`, or nothing in the process that runs the tests.
const ROLE: &str = "GCP_WIF_KEPT_ROLE";
/// As many as a node's jobs at once.
const PROCESSES: usize = 200;
/// How often a lock is taken while programs are started.
const LOCKS: usize = 20_000;
/// How often a process is killed.
const KILLS: usize = 60;
/// Length of a token's end, so that a file of it can be cut.
const LENGTH: usize = 4000;
const LIMIT: Duration = Duration::from_secs(60);

/// A place with a site configuration and a runtime directory.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        let credential = machine.0.path().join("credential.json");
        let text = r#"{"type": "external_account", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "token_url": "https://sts.googleapis.com/v1/token", "credential_source": {"file": "/t"}}"#;
        std::fs::write(&credential, text).unwrap();
        let site = format!(r#"{{"credential_configuration": "{}"}}"#, credential.display());
        std::fs::write(machine.0.path().join("site.json"), site).unwrap();
        machine
    }

    /// A process that obtains a token for a user, and prints it.
    fn process(&self, uid: u32) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "act", "--nocapture"])
            .env(ROLE, format!("{uid} {}", self.0.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// How often a Google was asked, by the lines that it leaves.
    fn asked(&self) -> usize {
        std::fs::read_to_string(self.0.path().join("asked")).unwrap_or_default().lines().count()
    }
}

/// The token that a process has printed.
fn told(process: Child) -> String {
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let token = text.lines().find_map(|line| Some(line.split_once("token=")?.1.to_owned()));
    token.unwrap_or_else(|| panic!("{text}"))
}

/// What the processes do. In the process that runs the tests it does nothing.
#[test]
fn act() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (uid, place) = role.split_once(' ').unwrap();
    println!("token={}", obtain(uid.parse().unwrap(), Path::new(place)));
}

fn obtain(uid: u32, place: &Path) -> String {
    let config_path = place.join("site.json");
    let site = Site::load(&config_path).unwrap();
    let facts = JobFacts { job: JobId(1), uid, gid: uid, user: None, groups: Vec::new(), placement: None };
    let key = Key::new(uid, &Grant::decide(&site, &facts, None).unwrap(), &site);
    let runtime = RuntimeDirectory::open(&place.join("run")).unwrap();
    let processes = Proc::new(PathBuf::new());
    let node = Node {
        config_path: &config_path,
        default_dir: place,
        exchanger: &Worker,
        clock: &SystemClock,
        processes: &processes,
    };
    let need = Need::Begin(Delivery::Agent);
    let obtain = Obtain { node: &node, runtime: &runtime, key: &key, run: RunId::new(), need };
    let answer = match obtain.look(LIMIT).unwrap() {
        Looked::Known(answer) => answer,
        Looked::Ask(lock) => obtain.ask(lock, LIMIT, |_| google(uid, place)),
        Looked::Busy => panic!("the lock was never free"),
    };
    answer.result.unwrap().token.secret().expose().to_owned()
}

/// A Google that takes a while, and leaves a line for each request.
fn google(uid: u32, place: &Path) -> Result<Exchanged, Failure> {
    use std::io::Write;
    let mut asked = std::fs::File::options().append(true).create(true).open(place.join("asked")).unwrap();
    asked.write_all(format!("{uid}\n").as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let text = format!("ya29.{uid}.{:?}.{}", RunId::new(), "x".repeat(LENGTH));
    let token = AccessToken { token: Secret::new(text), expires_at: SystemClock.now() + 3600 };
    Ok(Exchanged { name: "name".to_owned(), token: Token::new(token, SystemClock.moment()) })
}

#[test]
fn two_hundred_processes_at_once_are_one_request() {
    let machine = Machine::new();
    let processes: Vec<Child> = (0..PROCESSES).map(|_| machine.process(61001)).collect();
    let tokens: BTreeSet<String> = processes.into_iter().map(told).collect();
    assert_eq!((tokens.len(), machine.asked()), (1, 1));
}

#[test]
fn processes_of_two_users_never_have_the_same_token() {
    let machine = Machine::new();
    let users = [61001, 61002];
    let processes: Vec<(u32, Child)> = (0..20).flat_map(|_| users).map(|uid| (uid, machine.process(uid))).collect();
    for (uid, process) in processes {
        let token = told(process);
        assert!(token.starts_with(&format!("ya29.{uid}.")), "{uid} has {}", &token[..12]);
    }
    assert_eq!(machine.asked(), 2);
}

#[test]
fn whoever_is_killed_at_whatever_moment_leaves_a_whole_token_or_none() {
    let machine = Machine::new();
    let root = machine.0.path();
    let exists = |name: &str| {
        root.join("run/tokens")
            .read_dir()
            .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| entry.path().join(name).exists())))
    };
    let moments: [(&str, &dyn Fn() -> bool); 6] = [
        ("before anything", &|| true),
        ("the place is made", &|| exists("")),
        ("it has said until when", &|| exists(".until.new") || exists("until")),
        ("it has asked", &|| machine.asked() > 0),
        ("it writes", &|| exists(".token.new") || exists("token")),
        ("it has written", &|| exists("token")),
    ];
    for (name, is_now) in moments.into_iter().cycle().take(KILLS) {
        let _ = std::fs::remove_dir_all(root.join("run/tokens"));
        let _ = std::fs::remove_file(root.join("asked"));
        let mut process = machine.process(61001);
        while !is_now() && process.try_wait().unwrap().is_none() {}
        process.kill().unwrap();
        process.wait().unwrap();
        // Nobody waits for it, and nobody has half of what it wrote.
        let token = told(machine.process(61001));
        assert_eq!(token.rsplit('.').next().map(str::len), Some(LENGTH), "{name}");
        assert_eq!(told(machine.process(61001)), token, "{name}");
    }
}

#[test]
fn a_lock_that_is_released_is_free_though_another_thread_starts_programs() {
    let machine = Machine::new();
    let runtime = RuntimeDirectory::open(&machine.0.path().join("run")).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                Command::new("true").status().unwrap();
            }
        });
        let busy = (0..LOCKS).find(|_| match runtime.kept_place("a").unwrap().try_lock().unwrap() {
            TryLock::Locked(lock) => {
                lock.release();
                false
            }
            _ => true,
        });
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(busy, None);
    });
}
