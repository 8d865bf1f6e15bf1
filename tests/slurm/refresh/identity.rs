//! What a job has stays what its prolog decided, whatever becomes of rules and configuration.

use std::time::Instant;

use serde_json::json;

use super::job::Job;
use super::{LIMIT, configure, impersonated, site};
use crate::cluster::wait_until;
use crate::google::SERVICE_ACCOUNT;
use crate::site::{OTHER_ACCOUNT, Site};

/// Seconds that a token lives.
const LIFE: i64 = 6;
/// No two refreshes of such a token are closer to each other, in seconds.
const APART: usize = 2;

/// The job's files and its port are the credential configuration's service account.
#[track_caller]
fn assert_is_the_default(site: &Site, job: &Job) {
    let token = site.google.state.token(&job.token());
    assert_eq!(token.map(|token| token.identity.name().to_owned()), Some(SERVICE_ACCOUNT.to_owned()));
    let status = job.status();
    assert!(status.contains(&format!("\nidentity={SERVICE_ACCOUNT}\n")), "{status}");
}

#[test]
fn a_job_that_asked_for_the_sites_default_keeps_it_where_its_rule_has_another() {
    let site = site(json!({"rules": [{"service_account": OTHER_ACCOUNT, "allow": [SERVICE_ACCOUNT]}]}), Some(LIFE));
    let begun = Instant::now();
    let job = Job::with(&site, &format!("--gcp-wif-service-account={SERVICE_ACCOUNT}"));
    assert_is_the_default(&site, &job);
    job.outlive(3, || assert_is_the_default(&site, &job));
    assert!(job.metadata("email").ends_with(SERVICE_ACCOUNT));
    let (asked, seconds) = (impersonated(&site), begun.elapsed().as_secs());
    assert!(asked.iter().all(|email| email == SERVICE_ACCOUNT), "{asked:?}");
    // One for each refresh, however slow this machine is.
    let most = 2 + usize::try_from(seconds).unwrap() / APART;
    assert!(asked.len() <= most, "{} requests in {seconds} seconds", asked.len());
    job.end(&site);
    site.finish();
}

#[test]
fn rules_that_are_written_later_end_a_jobs_refresh_and_do_not_change_its_identity() {
    for before in [json!({}), json!({"rules": [{}]})] {
        let site = site(before, Some(LIFE * 2));
        let job = Job::start(&site);
        let fresh = format!("state=fresh\nidentity={SERVICE_ACCOUNT}\n");
        assert!(job.status().starts_with(&fresh), "{}", job.status());
        configure(&site, json!({"rules": [{"service_account": OTHER_ACCOUNT}]}));
        job.wait_for(|| !job.status().starts_with(&fresh));
        let status = job.status();
        let failing = format!("state=failing\nidentity={SERVICE_ACCOUNT}\n");
        assert!(status.starts_with(&failing) && status.contains("\nfailure=gcp-wif: rules: "), "{status}");
        job.wait_for(|| job.errors().iter().any(|line| line.contains(" stage=rules ")));

        // The old token is the last one: it ends, and nobody asks for another.
        let before = impersonated(&site).len();
        let end = site.google.state.token(&job.token()).unwrap().expires;
        wait_until(LIMIT, || site.google.state.now() > end);
        assert_is_the_default(&site, &job);
        let asked = impersonated(&site);
        assert!(asked.iter().all(|email| email == SERVICE_ACCOUNT) && asked.len() == before, "{asked:?}");
        job.end(&site);
        site.finish();
    }
}

#[test]
fn a_site_that_changes_its_service_account_does_not_change_running_jobs() {
    let site = site(json!({}), Some(LIFE));
    let job = Job::start(&site);
    site.trust(&site.source().service_account(OTHER_ACCOUNT));
    job.outlive(3, || {
        let status = job.status();
        assert!(status.starts_with("state=fresh\n"), "{status}");
        assert_is_the_default(&site, &job);
    });
    assert!(job.metadata("email").ends_with(SERVICE_ACCOUNT));
    let asked = impersonated(&site);
    assert!(asked.iter().all(|email| email == SERVICE_ACCOUNT), "{asked:?}");
    // A new job is what the site says now.
    let words = ["srun", "-w", "n1", "--gcp-wif", "printenv", "GCP_WIF_SERVICE_ACCOUNT"];
    assert_eq!(site.cluster.as_user("bob").command(words).run().ok().stdout.trim(), OTHER_ACCOUNT);
    job.end(&site);
    site.finish();
}
