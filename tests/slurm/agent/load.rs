//! The agent under load: killed repeatedly, and with as many jobs as a node ever has.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::time::{Duration, Instant};

use rustls::HandshakeKind;
use serde_json::json;

use super::processes::{Process, processes, settled};
use super::site_with;
use super::world::{LIMIT, Way, World};
use crate::cluster::{JobState, Settings, plugin_path, set_mode, wait_until};
use crate::google::{Endpoint, SERVICE_ACCOUNT};
use crate::skipped::skip;

/// As many jobs as a node ever has.
const JOBS: u32 = 200;
/// The limit for the memory of both processes of the agent together, in kB.
const MEMORY_OF_ONE: u64 = 4 << 10;
const MEMORY_OF_ALL: u64 = 8 << 10;
/// The same for one job after a refresh, when the program's pages for an exchange over TLS are in memory.
const MEMORY_AFTER_REFRESH: u64 = 11 << 9;
/// How long Slurm may take for all jobs.
const LONG: Duration = Duration::from_secs(300);
/// An access token's lifetime in seconds: long enough for a refresh that is killed a few times.
const LONGER_LIFE: i64 = 16;
/// The same, for a token that is refreshed soon.
const LIFE_OF_SECONDS: i64 = 8;
/// How often the agent is killed, and how fast.
const KILLS: u32 = 8;
const PAUSE: Duration = Duration::from_secs(1);

#[test]
fn no_client_fails_while_the_agent_is_killed_repeatedly() {
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
fn two_hundred_jobs_at_once_have_one_agent() {
    // The release build, if there is one, because other builds use more memory.
    let installed = plugin_path().with_file_name("gcp-wif");
    let command = if installed.exists() { json!({"command": installed}) } else { json!({}) };
    let site = site_with(Settings { cpus: Some(JOBS + 2), ..Settings::default() }, command, None);
    let node = site.cluster.node(1);
    let (first, _) = site.running_job();
    let one = settled(&node, "one job");

    // Each job ends when it also gets this lock. All of them wait for it without polling.
    let home = site.cluster.home("alice");
    let gate = File::create(home.join("gate")).unwrap();
    gate.lock().unwrap();
    let begun = Instant::now();
    let base = "http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default";
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif --array=1-{JOBS} -w n1 -o out --open-mode=append\n\
         answer=$(curl -sS --fail -H 'Metadata-Flavor: Google' {base}/email {base}/token)\n\
         [[ $answer == {SERVICE_ACCOUNT}*\\\"$GOOGLE_OAUTH_ACCESS_TOKEN\\\"* ]] && own=own || own=$answer\n\
         echo $SLURM_JOB_ID $GCE_METADATA_HOST $own >>seen\n\
         flock --shared gate true\n"
    );
    let array = site.cluster.batch("alice", &script, &[]);
    let seen = || fs::read_to_string(home.join("seen")).unwrap_or_default();
    let output = || fs::read_to_string(home.join("out")).unwrap_or_default();
    let states = || site.cluster.as_user("root").command(["squeue", "-h", "-r", "-o", "%T %r"]).run().ok().stdout;
    let end = Instant::now() + LONG;
    while seen().lines().count() < JOBS as usize && output().is_empty() {
        assert!(Instant::now() < end, "{} jobs:\n{}", seen().lines().count(), states());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(output(), "");
    eprintln!("{JOBS} jobs run after {:.1?}", begun.elapsed());
    let running = site.cluster.as_user("root").command(["squeue", "-h", "-r", "-t", "R"]).run().ok().stdout;
    assert_eq!(running.lines().count(), JOBS as usize + 1, "{running}");

    let seen = seen();
    let jobs: Vec<Vec<&str>> = seen.lines().map(|line| line.split(' ').collect()).collect();
    assert!(jobs.iter().all(|job| job.len() == 3 && job[2] == "own"), "{seen}");
    for what in [0, 1] {
        let different: BTreeSet<&str> = jobs.iter().map(|job| job[what]).collect();
        assert_eq!(different.len(), JOBS as usize, "{seen}");
    }
    // One exchange for all of them.
    assert_eq!(site.google.requests_to(Endpoint::Sts).len(), 1);

    let many = settled(&node, &format!("{} jobs", JOBS + 1));
    let sum = |processes: &[Process], of: fn(&Process) -> u64| processes.iter().map(of).sum::<u64>();
    let descriptors = [&one, &many].map(|when| sum(when, |process| process.descriptors));
    assert!(descriptors[0] < 40 && descriptors[1] < 2 * u64::from(JOBS) + 40, "{descriptors:?}");
    if installed.exists() {
        // Counts each page once, because the serving process is a fork of the watcher and shares its pages.
        let resident = [&one, &many].map(|[serving, watching]| serving.resident + watching.private);
        assert!(resident[0] <= MEMORY_OF_ONE && resident[1] <= MEMORY_OF_ALL, "{resident:?} kB");
    } else {
        skip("there is no release build of gcp-wif: the agent's memory");
    }

    let begun = Instant::now();
    gate.unlock().unwrap();
    wait_until(LONG, || site.cluster.job_states(&array).iter().all(JobState::is_end));
    eprintln!("they are over after {:.1?}", begun.elapsed());
    assert!(site.cluster.job_states(&array).iter().all(|state| *state == JobState::Completed));
    // The sockets are closed with the jobs.
    wait_until(LIMIT, || {
        processes(&node).iter().all(|now| one.iter().any(|old| now.id == old.id && now.descriptors == old.descriptors))
    });
    settled(&node, "one job again");
    site.cancel(first);
    site.finish();
}

#[test]
fn an_agent_that_has_refreshed_is_small_again() {
    let roots = "/etc/slurm/ca.pem";
    let keys = json!({"ca_certificates": roots});
    let site = site_with(Settings::default(), keys, Some(LIFE_OF_SECONDS));
    // As with the real Google: over TLS, with all certificate authorities of the system.
    let mut pem = fs::read("/etc/ssl/certs/ca-certificates.crt").unwrap();
    pem.extend(site.google.ca_certificate().as_bytes());
    for node in site.cluster.nodes() {
        let path = node.config_path().with_file_name("ca.pem");
        fs::write(&path, &pem).unwrap();
        set_mode(&path, 0o644);
    }
    site.trust(&site.source().secure());
    let node = site.cluster.node(1);
    let (job, id) = site.running_job();
    let token = || fs::read_to_string(node.job_dir(&id).join("access_token")).unwrap();
    for _ in 0..3 {
        let before = token();
        wait_until(LIMIT, || token() != before);
    }
    let [serving, watching] = settled(&node, "after three refreshes");
    let resident = serving.resident + watching.private;
    assert!(resident <= MEMORY_AFTER_REFRESH, "{resident} kB");
    // The later refreshes resume the first one's TLS session, and leave no connection open.
    let resumed = site.google.connections().iter().filter(|kind| **kind == Some(HandshakeKind::Resumed)).count();
    assert!(resumed >= 2, "{resumed}");
    assert!(site.google.wait_until_closed(LIMIT));
    site.cancel(job);
    site.finish();
}
