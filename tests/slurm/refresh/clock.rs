//! A clock that was set by two hours while a job runs.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::job::{Job, is_ok};
use super::{LIMIT, site};
use crate::cluster::{command_path, set_mode, wait_until};
use crate::site::{OBJECT, Site, names};
use crate::skipped::skip;

/// In seconds.
const TWO_HOURS: i64 = 7200;

/// Puts the times of a token in a file ahead by two hours.
#[track_caller]
fn ahead(directory: &Path, name: &str, token: fn(&mut Value) -> &mut Value) {
    let path = directory.join(name);
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    for key in ["issued_at", "expires_at"] {
        let time = &mut token(&mut value)[key];
        *time = json!(time.as_i64().unwrap() + TWO_HOURS);
    }
    let draft = directory.join("draft");
    fs::write(&draft, value.to_string()).unwrap();
    set_mode(&draft, 0o600);
    fs::rename(&draft, &path).unwrap();
}

/// A job of which root remembers times as a clock tells them that is two hours ahead, and a token that has ended.
#[track_caller]
fn job_from_the_future(site: &Site) -> Job {
    let job = Job::start(site);
    let run = job.node.run_dir().join("gcp-wif");
    let kept = run.join("tokens");
    ahead(&kept.join(&names(&kept)[0]), "token", |kept| &mut kept["token"]["token"]);
    ahead(&run.join("records").join(&job.id), "record", |record| &mut record["issued"][0]["token"]);
    site.google.expire(&job.token());
    job
}

#[test]
fn a_token_from_the_future_is_renewed_soon() {
    let site = site(json!({}), None);
    let job = job_from_the_future(&site);
    let is_alive = || site.google.state.token(&job.token()).is_some_and(|token| token.expires > 0);
    // The agent looks every 15 seconds when nothing wakes it.
    job.wait_for(is_alive);
    job.end(&site);
    site.finish();
}

#[test]
fn a_step_does_not_begin_with_a_token_from_the_future() {
    let site = site(json!({}), None);
    let job = job_from_the_future(&site);
    let run = job.step(&site, &["--gcp-wif", "bash", "-c", &site.list()]).run();
    assert!(run.status == 0 && run.stdout.contains(OBJECT), "{}{}", run.stdout, run.stderr);
    job.end(&site);
    site.finish();
}

/// Seconds that an access token lives, by Google's clock, which nobody sets.
const LIFE: i64 = 60;
/// Where Debian has it.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// The clock is set while the agent runs: it learns of it from nobody.
#[test]
fn a_clock_that_is_set_costs_no_client_of_a_running_job_an_answer() {
    if !Path::new(FAKETIME).exists() {
        return skip("no libfaketime");
    }
    let site = site(json!({}), Some(LIFE));
    let (node, clock) = (site.cluster.node(1), site.cluster.dir().join("clock"));
    let set = |by: &str| {
        fs::write(clock.with_extension("new"), by).unwrap();
        fs::rename(clock.with_extension("new"), &clock).unwrap();
    };
    set("+0");
    let variables = [
        format!("LD_PRELOAD={FAKETIME}"),
        format!("FAKETIME_TIMESTAMP_FILE={}", clock.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        // The machine's own clock is not set.
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
    ];
    let words = [command_path(), "agent", "--config", "/etc/slurm/gcp-wif.json", "--foreground"];
    let agent = node.command(["env"].into_iter().chain(variables.iter().map(String::as_str)).chain(words)).spawn();
    wait_until(LIMIT, || node.run_dir().join("gcp-wif/agent.sock").exists());
    let job = Job::start(&site);
    for by in ["+7200", "+0", "-7200", "+0"] {
        set(by);
        // The agent finds out within 15 seconds, or when something wakes it.
        job.outlive(1, || {
            let (now, answer) = (site.google.state.now(), job.metadata("token"));
            assert!(is_ok(&answer), "{by}: {answer}");
            let told: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
            let token = site.google.state.token(told["access_token"].as_str().unwrap()).unwrap();
            let left = token.expires - now;
            assert!(
                left > 0 && told["expires_in"].as_i64().unwrap() <= left,
                "{by}: {left} s are left: {}",
                told["expires_in"]
            );
        });
    }
    assert_eq!(job.errors(), [] as [String; 0]);
    job.end(&site);
    agent.signal("TERM");
    agent.wait(LIMIT).ok();
    site.finish();
}
