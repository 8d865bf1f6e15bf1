//! The pull credentials of a step that runs on.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use serde_json::json;

use super::job::Job;
use super::{LIMIT, impersonated, site};
use crate::agent::processes::kill_agent;
use crate::cluster::{ALICE, Node, set_mode, set_owner, wait_until};
use crate::site::Site;

/// Seconds that a token lives.
const LIFE: i64 = 10;
/// Room for a job's small files and not for its pull credentials, which have a line for each of Google's registries.
pub const ROOM: u64 = 16 << 10;
/// A line of alice's own.
const OWN: &str = "machine nvcr.io login alice password secret\n";

/// Fills a node's /run but for so many bytes; the file to remove.
pub fn fill(node: &Node, room: u64) -> PathBuf {
    let path = node.run_dir().join("filler");
    let mut file = File::create(&path).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let length = file.metadata().unwrap().len();
    file.set_len(length - room).unwrap();
    path
}

/// A job of alice's with a line of her own in its pull credentials.
#[track_caller]
fn start(site: &Site) -> Job {
    let home = site.cluster.home("alice");
    let directory = home.join(".config/enroot");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(".credentials"), OWN).unwrap();
    for path in [home.join(".config"), directory.clone(), directory.join(".credentials")] {
        set_owner(path, ALICE);
    }
    let job = Job::start(site);
    assert!(job.pulls_with_its_token());
    job
}

/// Soon, and after each of two further refreshes, the step has the job's token, and alice's own line first.
#[track_caller]
fn assert_pulls(job: &Job) {
    for _ in 0..2 {
        job.wait_for(|| job.pulls_with_its_token());
        assert!(job.pull_credentials().starts_with(OWN));
        job.outlive(1, || {});
    }
}

#[test]
fn a_full_file_system_does_not_leave_a_step_with_an_old_token() {
    let site = site(json!({}), Some(LIFE));
    let job = start(&site);
    for room in [0, ROOM] {
        job.outlive(1, || {});
        let filler = fill(&job.node, room);
        // When there is a second refresh the first one is over.
        let before = impersonated(&site).len();
        wait_until(LIMIT, || impersonated(&site).len() >= before + 2);
        fs::remove_file(filler).unwrap();
        assert_pulls(&job);
    }
    job.end(&site);
    site.finish();
}

#[test]
fn a_token_that_could_not_be_published_is_published_by_the_next_look() {
    let site = site(json!({}), Some(LIFE));
    let job = start(&site);
    let filler = fill(&job.node, ROOM);
    // No further refresh comes during the test.
    site.google.configure(|options| options.access_token_life = Some(3600));
    let long_lived = || site.google.state.token(&job.token()).is_some_and(|token| token.expires - token.issued > LIFE);
    wait_until(LIMIT, long_lived);
    assert!(!job.pulls_with_its_token());
    fs::remove_file(filler).unwrap();
    wait_until(LIMIT, || job.pulls_with_its_token());
    job.end(&site);
    site.finish();
}

#[test]
fn a_step_that_gets_a_new_token_shares_it_with_those_before() {
    let site = site(json!({}), Some(LIFE));
    let job = start(&site);
    kill_agent(&job.node);
    let end = site.google.state.token(&job.token()).unwrap().expires;
    wait_until(LIMIT, || site.google.state.now() > end);
    job.step(&site, &["--gcp-wif", "true"]).run().ok();
    assert_pulls(&job);
    job.end(&site);
    site.finish();
}

#[test]
fn a_refresh_repairs_what_a_kill_between_two_files_left() {
    let site = site(json!({}), Some(LIFE));
    let job = start(&site);
    let before = job.pull_credentials();
    job.outlive(1, || {});
    wait_until(LIMIT, || job.pulls_with_its_token());
    let directory = job.node.job_dir(&job.id).join("enroot-0");
    let draft = directory.join(".draft");
    fs::write(&draft, before).unwrap();
    set_mode(&draft, 0o400);
    set_owner(&draft, ALICE);
    fs::rename(&draft, directory.join(".credentials")).unwrap();
    assert!(!job.pulls_with_its_token());
    assert_pulls(&job);
    job.end(&site);
    site.finish();
}
