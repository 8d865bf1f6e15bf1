//! The agent under load: killed again and again, and with as many jobs as a node ever has.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::processes::{processes, settled};
use super::world::{LIMIT, Way, World};
use crate::cluster::{set_mode, wait_until};
use crate::google::SERVICE_ACCOUNT;

/// Seconds that an access token lives: long enough for a refresh that is killed a few times.
const LONGER_LIFE: i64 = 16;
/// How often the agent is killed, and how fast.
const KILLS: u32 = 8;
const PAUSE: Duration = Duration::from_secs(1);

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
