//! Refreshes that fail, and what rules and configuration still grant then.

use std::fs;

use serde_json::{Value, json};

use super::job::{Job, exchange, is_ok, metadata};
use super::pulls::{ROOM, fill};
use super::{LIMIT, configure, impersonated, site};
use crate::cluster::wait_until;
use crate::google::SERVICE_ACCOUNT;
use crate::site::{Site, credential_path};

/// Seconds that a token lives.
const LIFE: i64 = 10;

fn rules_for(user: &str) -> Value {
    json!({"rules": [{"users": [user], "service_account": SERVICE_ACCOUNT}]})
}

/// Status and log tell this failure, and nothing that failed is called issued.
#[track_caller]
fn assert_told(job: &Job, failure: &str) {
    let (stage, error) = failure.strip_prefix("gcp-wif: ").and_then(|line| line.split_once(": ")).unwrap();
    let in_log = format!(" stage={} error=\"{}", stage.replace(' ', "_"), error.replace('"', "\\\""));
    let logged = || job.errors().iter().any(|line| line.contains(&in_log));
    let said = || job.status().starts_with("state=failing\n");
    job.wait_for(|| said() && logged());
    let (status, errors) = (job.status(), job.errors());
    assert!(status.contains(&format!("\nfailure={failure}")), "{status}");
    assert!(!errors.iter().any(|line| line.contains("outcome=issued")), "{errors:?}");
}

/// Status and log are in order again.
#[track_caller]
fn assert_mended(job: &Job) {
    job.wait_for(|| job.status().starts_with("state=fresh\n"));
    assert!(is_ok(&job.exchange()), "{}", job.status());
}

#[test]
fn a_refresh_that_the_rules_refuse_is_in_status_and_log() {
    let site = site(rules_for("alice"), Some(LIFE));
    let job = Job::start(&site);
    configure(&site, rules_for("bob"));
    assert_told(&job, "gcp-wif: rules: no rule gives user alice");
    configure(&site, rules_for("alice"));
    assert_mended(&job);
    job.end(&site);
    site.finish();
}

#[test]
fn a_refresh_that_the_configuration_prevents_is_in_status_and_log() {
    let site = site(json!({}), Some(LIFE));
    let job = Job::start(&site);
    site.cluster.write_config("{\"auto\": ");
    assert_told(&job, "gcp-wif: configuration: /etc/slurm/gcp-wif.json: ");
    configure(&site, json!({}));
    assert_mended(&job);
    job.end(&site);
    site.finish();
}

#[test]
fn a_refresh_that_finds_no_room_for_its_files_is_not_called_issued() {
    let site = site(json!({}), Some(LIFE));
    let job = Job::start(&site);
    job.outlive(1, || {});
    let filler = fill(&job.node, ROOM);
    // When there is a second one the first one is over.
    let before = impersonated(&site).len();
    wait_until(LIMIT, || impersonated(&site).len() >= before + 2);
    fs::remove_file(filler).unwrap();
    job.outlive(2, || {});
    let (errors, log) = (job.errors(), job.log());
    assert!(!errors.iter().any(|line| line.contains("outcome=issued")), "{log}");
    let told = |line: &String| line.contains("gcp-wif: files: ") && line.contains("no space left on device");
    assert!(errors.iter().any(told), "{log}");
    assert_mended(&job);
    job.end(&site);
    site.finish();
}

#[test]
fn a_user_whom_the_rules_no_longer_know_gets_no_more_open_id_tokens() {
    let site = site(rules_for("alice"), None);
    let job = Job::start(&site);
    let ask = |audience: &str| job.metadata(&format!("identity?audience=https://{audience}.example"));
    assert!(is_ok(&ask("before")));
    configure(&site, rules_for("bob"));
    // One that was kept, and a new one.
    for audience in ["before", "after"] {
        job.wait_for(|| !is_ok(&ask(audience)));
    }
    job.end(&site);
    site.finish();
}

/// What a job has at its port goes with its epilog, even if this is missing by then.
#[track_caller]
fn assert_dies_with_the_job(site: Site, remove: impl Fn(&Site)) {
    let job = Job::start(&site);
    let (node, port, handle) = (job.node.clone(), job.port(), job.file("handle"));
    assert!(is_ok(&job.exchange()) && is_ok(&job.metadata("token")));
    remove(&site);
    job.end(&site);
    site.cluster.assert_healthy();
    let answers = [exchange(&node, port, &handle), metadata(&node, port, "token")];
    assert!(!answers.iter().any(|answer| is_ok(answer) || answer.contains("ya29.")), "{answers:?}");
    site.finish();
}

#[test]
fn the_handle_dies_with_the_job_though_the_credential_configuration_is_gone() {
    assert_dies_with_the_job(site(json!({}), None), |site| {
        for node in site.cluster.nodes() {
            fs::remove_file(credential_path(&node)).unwrap();
        }
    });
}

#[test]
fn the_handle_dies_with_the_job_though_the_site_configuration_is_gone() {
    assert_dies_with_the_job(site(json!({}), None), |site| {
        for node in site.cluster.nodes() {
            fs::remove_file(node.config_path()).unwrap();
        }
    });
}
