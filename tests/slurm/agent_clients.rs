//! Clients that outlive their tokens: each goes on, in one job, past three expiries, because the node's agent has a new
//! token for it, at the token endpoint that `credentials.json` names and at the metadata endpoint.
//!
//! Each client reads a bucket of its own, by which Google's record tells it from the others.

#[allow(clippy::duplicate_mod, reason = "each of the two needs a few lines of it")]
#[path = "clients/internet.rs"]
mod internet;

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::internet::Internet;
use crate::cluster::{Background, CommandLine, Node, Run, set_mode, wait_until};
use crate::google::{Bucket, Endpoint, Recorded, SERVICE_ACCOUNT};
use crate::site::{OBJECT, OTHER_ACCOUNT, Site};
use crate::skipped::skip;

const COMMAND: &str = env!("CARGO_BIN_EXE_gcp-wif");
/// Seconds that an access token lives: less than any client's margin, so that each asks the agent again and again.
const LIFE: i64 = 5;
/// The same, and long enough for a refresh that is killed a few times.
const LONGER_LIFE: i64 = 16;
/// How many of the tokens that a client used must be dead in the end.
const EXPIRIES: usize = 3;
const LIMIT: Duration = Duration::from_secs(100);
/// The file in alice's home that ends the clients.
const STOP: &str = "stop";
/// How often the agent is killed, and how fast.
const KILLS: u32 = 8;
const PAUSE: Duration = Duration::from_secs(1);

/// How a client finds its credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By GOOGLE_APPLICATION_CREDENTIALS alone.
    File,
    /// By GCE_METADATA_HOST and its like alone.
    Metadata,
}

impl Way {
    /// The variables that lead elsewhere.
    const fn others(self) -> &'static [&'static str] {
        match self {
            Self::File => &["GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"],
            Self::Metadata => &["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"],
        }
    }
}

#[test]
fn python() {
    let world = World::start(LIFE);
    let file = world.python("python-file", Way::File);
    let metadata = world.python("python-metadata", Way::Metadata);
    let runs = world.outlive([file, metadata]);
    assert_eq!(runs, ["google.auth.identity_pool\n", "google.auth.compute_engine.credentials\n"]);
    world.finish();
}

#[test]
fn node() {
    let world = World::start(LIFE);
    let file = world.node("node-file", Way::File);
    let metadata = world.node("node-metadata", Way::Metadata);
    assert_eq!(world.outlive([file, metadata]), ["IdentityPoolClient\n", "Compute\n"]);
    world.finish();
}

#[test]
fn rclone() {
    let world = World::start(LIFE);
    // One process that keeps its credentials, as a mount does. 1.60 refuses a token_url that is not Google's.
    let line = format!(
        "port=$((33000 + RANDOM % 20000)); rclone rcd --rc-no-auth --rc-addr 127.0.0.1:$port & \
         ask() {{ rclone rc --url http://127.0.0.1:$port/ operations/list fs=:gcs:rclone-metadata remote=; }}; \
         for i in $(seq 50); do ask >/dev/null 2>&1 && break; sleep 0.1; done; \
         until [ -e {STOP} ]; do ask | grep -q {OBJECT} || exit 1; sleep 0.3; done; kill %1; wait; echo read"
    );
    let job = world
        .job(Way::Metadata, &["bash", "-c", &line])
        .env("RCLONE_CONFIG", "/dev/null")
        .env("RCLONE_GCS_ENV_AUTH", "true")
        .env("RCLONE_GCS_ENDPOINT", &format!("{}/storage/v1/", world.site.google.http_url()));
    assert_eq!(world.outlive([("rclone-metadata", job)]), ["read\n"]);
    world.finish();
}

#[test]
fn data_libraries() {
    let python = library("data/bin/python");
    if !python.exists() {
        return skip("pyarrow, gcsfs and tensorstore are not installed");
    }
    let world = World::start(LIFE);
    let url = world.site.google.http_url();
    let clients = [
        ("pyarrow", Way::File, "pyarrow-file"),
        ("pyarrow", Way::Metadata, "pyarrow-metadata"),
        ("gcsfs", Way::File, "gcsfs-file"),
        ("gcsfs", Way::Metadata, "gcsfs-metadata"),
        // Its HTTP driver knows no external_account files.
        ("tensorstore", Way::Metadata, "tensorstore-metadata"),
    ];
    let jobs = clients.map(|(client, way, bucket)| {
        let script = include_str!("../clients/data.py");
        let words = [&*python.display().to_string(), "-", client, &url, bucket, OBJECT, STOP];
        (bucket, world.behind_the_proxy(world.job(way, &words)).stdin(script))
    });
    assert_eq!(world.outlive(jobs), ["read\n"; 5]);
    world.finish();
}

#[test]
fn gcloud_of_two_jobs_with_one_configuration_directory() {
    let world = World::start(LIFE);
    if world.site.cluster.as_user("alice").shell("command -v gcloud").run().status != 0 {
        skip("gcloud is not installed");
        return world.finish();
    }
    let url = world.site.google.http_url();
    let job = |bucket: &str, options: &[&str]| {
        let line = format!(
            "until [ -e {STOP} ]; do token=$(gcloud auth print-access-token) || exit 1; \
               printf 'Authorization: Bearer %s' $token | curl -sS --fail-with-body -H @- -o /dev/null {url}/storage/v1/b/{bucket}/o || exit 1; \
             done; echo read"
        );
        let words: Vec<&str> = options.iter().copied().chain(["bash", "-c", &line]).collect();
        world
            .job(Way::File, &words)
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true")
    };
    let option = format!("--gcp-wif-service-account={OTHER_ACCOUNT}");
    let jobs = [("gcloud-first", job("gcloud-first", &[])), ("gcloud-other", job("gcloud-other", &[&option]))];
    assert_eq!(world.outlive(jobs), ["read\n"; 2]);
    world.finish();
}

#[test]
fn no_client_fails_while_the_agent_is_killed_again_and_again() {
    let world = World::start(LONGER_LIFE);
    let jobs = [
        world.python("python-file", Way::File),
        world.python("python-metadata", Way::Metadata),
        world.node("node-file", Way::File),
        world.node("node-metadata", Way::Metadata),
    ];
    let buckets = jobs.each_ref().map(|(bucket, _)| *bucket);
    let mut running = world.spawn(jobs);
    world.wait_for(&mut running, |world| buckets.iter().all(|bucket| !world.requests(bucket).is_empty()));
    let node = world.site.cluster.node(1);
    for _ in 0..KILLS {
        let end = Instant::now() + PAUSE;
        wait_until(LIMIT, || processes(&node).len() == 2);
        let serving = processes(&node).into_iter().find(|process| process.serves).unwrap();
        node.command(["kill", "-9", &serving.id]).run().ok();
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
    }
    let before = buckets.map(|bucket| world.requests(bucket).len());
    world.wait_for(&mut running, |world| {
        buckets.iter().zip(before).all(|(bucket, before)| world.requests(bucket).len() > before + 2)
    });
    world.stop(running);
    world.finish();
}

#[test]
fn memory_and_descriptors_for_one_job_and_for_two_hundred() {
    let world = World::start(3600);
    let (job, id) = world.site.running_job();
    let node = world.site.cluster.node(1);
    let one = settled(&node);
    // The record of a job is all that the agent knows of it.
    let records = node.run_dir().join("gcp-wif/records");
    let text = fs::read_to_string(records.join(&id).join("record")).unwrap();
    let mut record: Value = serde_json::from_str(&text).unwrap();
    // Below those that clusters and agents take.
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports: Vec<u16> = (3000..10_000).filter(is_free).take(199).collect();
    let first = 1_000_000;
    for number in first..first + 199_u64 {
        record["facts"]["job"] = number.into();
        record["issued"][0]["endpoint"]["port"] = ports[(number - first) as usize].into();
        let place = records.join(number.to_string());
        fs::create_dir(&place).unwrap();
        set_mode(&place, 0o700);
        fs::write(place.join("record"), record.to_string()).unwrap();
        set_mode(place.join("record"), 0o600);
    }
    let ask = |port: u16| {
        let line = format!(
            "curl -sS -H 'Metadata-Flavor: Google' http://127.0.0.1:{port}/computeMetadata/v1/instance/service-accounts/default/email"
        );
        node.as_user("alice").shell(&line).run().stdout
    };
    wait_until(LIMIT, || ask(ports[198]) == SERVICE_ACCOUNT);
    // Requests to all of them, as jobs do.
    let all = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" ");
    let line = format!(
        "for port in {all}; do curl -sS --fail -o /dev/null -H 'Metadata-Flavor: Google' \
                http://127.0.0.1:$port/computeMetadata/v1/instance/service-accounts/default/token || exit 1; done"
    );
    let run = node.as_user("alice").shell(&line).run();
    assert_eq!(
        run.status,
        0,
        "{}{}",
        run.stderr,
        fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap_or_default()
    );
    let many = settled(&node);
    for (what, (memory, descriptors)) in [("one job", one), ("200 endpoints", many)] {
        eprintln!("agent with {what}: {memory} kB resident, {descriptors} descriptors");
    }
    assert!(one.0 < 32_000 && many.0 < 48_000, "{one:?} {many:?}");
    assert!(one.1 < 60 && many.1 < 2 * 200 + 80, "{one:?} {many:?}");
    for number in first..first + 199_u64 {
        fs::remove_dir_all(records.join(number.to_string())).unwrap();
    }
    world.site.cancel(job);
    world.finish();
}

/// A site whose agent serves short-lived tokens, and the internet as its jobs know it.
struct World {
    site: Site,
    internet: Internet,
}

impl World {
    #[track_caller]
    fn start(life: i64) -> Self {
        let site = Site::start();
        let internet = Internet::start(&site.google);
        site.google.configure(|options| options.access_token_life = Some(life));
        for node in site.cluster.nodes() {
            set_mode(node.tokens_dir(), 0o700);
            let roots = node.config_path().with_file_name("ca.pem");
            fs::write(&roots, site.google.ca_certificate()).unwrap();
            set_mode(&roots, 0o644);
        }
        site.configure(json!({
            "delivery": "agent",
            "command": COMMAND,
            "project": "demo-project",
            "rules": [{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}],
        }));
        Self { site, internet }
    }

    /// A job of alice's on the first node, for a client that finds its credentials in one way.
    fn job(&self, way: Way, words: &[&str]) -> CommandLine {
        let (options, words): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with("--gcp-wif"));
        let unset = way.others().iter().flat_map(|name| ["-u", name]);
        let words =
            ["srun", "-w", "n1", "--gcp-wif"].into_iter().chain(options).chain(["env"]).chain(unset).chain(words);
        self.site.cluster.as_user("alice").command(words).limit(LIMIT)
    }

    /// google-auth looks up where an identity may be used, at a host name of Google's.
    fn behind_the_proxy(&self, job: CommandLine) -> CommandLine {
        job.env("HTTPS_PROXY", &self.internet.url()).env("REQUESTS_CA_BUNDLE", "/etc/slurm/ca.pem")
    }

    fn python<'a>(&self, bucket: &'a str, way: Way) -> (&'a str, CommandLine) {
        let (python, url) = (library("python/bin/python"), self.site.google.http_url());
        let job = self.job(way, &[&python.display().to_string(), "-", &url, bucket, STOP]);
        (bucket, self.behind_the_proxy(job).stdin(include_str!("../clients/loop.py")))
    }

    fn node<'a>(&self, bucket: &'a str, way: Way) -> (&'a str, CommandLine) {
        let (node, url) = (library("bin/node"), self.site.google.http_url());
        let job = self.job(way, &[&node.display().to_string(), "-", &url, bucket, STOP]);
        let modules = library("node_modules").display().to_string();
        (bucket, job.env("NODE_PATH", &modules).stdin(include_str!("../clients/loop.js")))
    }

    /// Starts clients, each with the bucket that it reads.
    fn spawn<const N: usize>(&self, jobs: [(&str, CommandLine); N]) -> [Background; N] {
        let readers = [SERVICE_ACCOUNT, OTHER_ACCOUNT];
        self.site.google.configure(|options| {
            options
                .buckets
                .extend(jobs.iter().map(|(bucket, _)| Bucket::new(bucket, &[(OBJECT, "hello\n")], &readers)));
        });
        jobs.map(|(_, job)| job.spawn())
    }

    /// Waits for Google to see something; a client that ends before it failed.
    #[track_caller]
    fn wait_for(&self, running: &mut [Background], condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition(self) {
            let ended = running.iter_mut().find_map(|job| (!job.is_running()).then_some(job));
            let told = ended.map(|job| format!("a client ended: {}{}", job.stdout(), job.stderr()));
            assert!(told.is_none(), "{}", told.unwrap_or_default());
            assert!(Instant::now() < end, "too slow: {:#?}", self.summary());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the clients; none of them failed.
    #[track_caller]
    fn stop<const N: usize>(&self, running: [Background; N]) -> [String; N] {
        let stop = self.site.cluster.home("alice").join(STOP);
        fs::write(stop, "").unwrap();
        running.map(|job| job.wait(LIMIT).ok()).map(|Run { stdout, .. }| stdout)
    }

    /// Runs clients until each has used a token after [`EXPIRIES`] others that are dead by then; what they print.
    #[track_caller]
    fn outlive<const N: usize>(&self, jobs: [(&str, CommandLine); N]) -> [String; N] {
        let buckets = jobs.each_ref().map(|(bucket, _)| *bucket);
        let mut running = self.spawn(jobs);
        self.wait_for(&mut running, |world| buckets.iter().all(|bucket| world.expiries(bucket) >= EXPIRIES));
        let printed = self.stop(running);
        for bucket in buckets {
            let account = if bucket.ends_with("-other") { OTHER_ACCOUNT } else { SERVICE_ACCOUNT };
            for request in self.requests(bucket) {
                // A cut connection has no status, and is the client's to end.
                assert!(matches!(request.status, Some(200 | 206)), "{bucket}: {:?} {}", request.status, request.target);
                let token = bearer(&request).and_then(|secret| self.site.google.state.token(secret));
                assert_eq!(token.map(|token| token.identity.name().to_owned()), Some(account.to_owned()), "{bucket}");
            }
        }
        printed
    }

    /// What a client asked Cloud Storage.
    fn requests(&self, bucket: &str) -> Vec<Recorded> {
        let named = |request: &Recorded| request.target.split(['/', '?']).any(|part| part == bucket);
        self.site.google.requests_to(Endpoint::Storage).into_iter().filter(named).collect()
    }

    /// What Google was asked, without secrets.
    fn summary(&self) -> Vec<String> {
        let requests = self.site.google.requests();
        requests.iter().map(|request| format!("{:?} {} {}", request.status, request.method, request.target)).collect()
    }

    /// How many dead tokens a client has used before the one that it uses now.
    fn expiries(&self, bucket: &str) -> usize {
        let now = self.site.google.state.now();
        let requests = self.requests(bucket);
        let mut tokens: Vec<&str> = requests.iter().filter_map(bearer).collect();
        tokens.dedup();
        tokens.retain(|secret| self.site.google.state.token(secret).is_some_and(|token| token.expires <= now));
        let alive = requests.iter().filter_map(bearer).next_back().is_some_and(|last| !tokens.contains(&last));
        if alive { tokens.len() } else { 0 }
    }

    /// What every test ends with. Nobody but the agent and the plugin exchanged anything at Google.
    #[track_caller]
    fn finish(self) {
        for endpoint in [Endpoint::Sts, Endpoint::Impersonation] {
            for request in self.site.google.requests_to(endpoint) {
                let agent = request.header("user-agent").unwrap_or_default();
                assert!(agent.starts_with("gcp-wif/"), "{endpoint:?}: {agent}");
            }
        }
        let refused = self.internet.refused();
        assert!(refused.is_empty(), "a client asked elsewhere: {refused:?}");
        self.site.finish();
    }
}

fn bearer(request: &Recorded) -> Option<&str> {
    request.header("authorization")?.strip_prefix("Bearer ")
}

/// A process of a node's agent.
struct Process {
    id: String,
    /// The one that serves; else the one that watches.
    serves: bool,
    resident: u64,
    descriptors: u64,
}

fn processes(node: &Node) -> Vec<Process> {
    let line = "for process in /proc/[0-9]*; do \
        [[ $(tr '\\0' ' ' <$process/cmdline) == */gcp-wif\\ agent\\ --config\\ * ]] || continue; \
        echo ${process#/proc/} $(grep -czx 'GCP_WIF_AGENT_CHILD=1' $process/environ) \
             $(sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\) kB/\\1/p' $process/status) $(ls $process/fd | wc -l); done 2>/dev/null";
    let run = node.as_user("root").shell(line).run();
    let process = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [id, serves, resident, descriptors] = fields[..] else { return None };
        let serves = serves != "0";
        Some(Process {
            id: id.to_owned(),
            serves,
            resident: resident.parse().ok()?,
            descriptors: descriptors.parse().ok()?,
        })
    };
    run.stdout.lines().filter_map(process).collect()
}

/// The resident memory of a node's agent in kB, and its descriptors, when it has nothing to do.
fn settled(node: &Node) -> (u64, u64) {
    // Its threads go after a second without work.
    std::thread::sleep(Duration::from_secs(3));
    let processes = processes(node);
    assert_eq!(processes.len(), 2);
    for process in &processes {
        let role = if process.serves { "serving" } else { "watching" };
        eprintln!("{role}: {} kB resident, {} descriptors", process.resident, process.descriptors);
    }
    processes.iter().fold((0, 0), |(memory, open), one| (memory + one.resident, open + one.descriptors))
}

/// A part of what `ci/install clients` made.
#[track_caller]
fn library(part: &str) -> PathBuf {
    let link = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/clients");
    let place = link.canonicalize().unwrap_or_else(|_| panic!("no {}: run ci/install clients", link.display()));
    place.join(part)
}
