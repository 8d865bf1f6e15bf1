//! A clock that was set back by two hours while a job runs: what it has is from the future then.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::job::Job;
use super::site;
use crate::cluster::set_mode;
use crate::site::{OBJECT, Site, names};

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
