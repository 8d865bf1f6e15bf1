//! What clients request at a job's port: scopes, OpenID tokens, the name of their service account.

use std::time::Duration;

use serde_json::{Value, json};

use super::processes::kill_agent;
use super::site;
use super::world::{LIFE, LIMIT, Way, World};
use crate::clients::library;
use crate::cluster::{CommandLine, wait_until};
use crate::google::{Endpoint, Fault, Recorded, SERVICE_ACCOUNT, Times};
use crate::refresh::job::{Job, is_ok};
use crate::skipped::skip;

/// A lifetime longer than a test.
const HOUR: i64 = 3600;
const READ_ONLY: &str = "https://www.googleapis.com/auth/devstorage.read_only";
const DRIVE: &str = "https://www.googleapis.com/auth/drive.readonly";
/// As many as a job has ranks on a large node.
const RANKS: usize = 64;

fn python<'a>(world: &World, bucket: &'a str, way: Way, scopes: &[&str]) -> (&'a str, CommandLine) {
    let (python, url) = (library("python/bin/python"), world.site.google.http_url());
    let words: Vec<&str> = [&*python, "-", &url, bucket].into_iter().chain(scopes.iter().copied()).collect();
    (bucket, world.behind_the_proxy(world.job(way, &words)).stdin(include_str!("../../clients/scopes.py")))
}

fn node<'a>(world: &World, bucket: &'a str, way: Way, scopes: &[&str]) -> (&'a str, CommandLine) {
    let (node, url) = (library("bin/node"), world.site.google.http_url());
    let words: Vec<&str> = [&*node, "-", &url, bucket].into_iter().chain(scopes.iter().copied()).collect();
    let job = world.job(way, &words).env("NODE_PATH", &library("node_modules"));
    (bucket, job.stdin(include_str!("../../clients/scopes.js")))
}

/// The scopes of the requests to Google for access tokens.
fn asked(world: &World) -> Vec<Vec<String>> {
    let scopes = |request: &Recorded| {
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let scopes = body["scope"].as_array().unwrap().iter();
        scopes.map(|scope| scope.as_str().unwrap().to_owned()).collect()
    };
    world.site.google.requests_to(Endpoint::Impersonation).iter().map(scopes).collect()
}

/// The scopes of the token that a client used for a bucket.
fn used(world: &World, bucket: &str) -> Vec<String> {
    let requests = world.requests(bucket);
    let bearer = requests.last().and_then(|request| request.header("authorization")?.strip_prefix("Bearer "));
    bearer.and_then(|secret| world.site.google.state.token(secret)).map(|token| token.scopes).unwrap_or_default()
}

#[test]
fn clients_learn_their_service_account_and_have_the_scopes_that_they_ask_for() {
    let world = World::start(HOUR);
    let jobs = [
        python(&world, "python-file", Way::File, &[READ_ONLY]),
        python(&world, "python-metadata", Way::Metadata, &[READ_ONLY]),
        node(&world, "node-file", Way::File, &[READ_ONLY]),
        node(&world, "node-metadata", Way::Metadata, &[READ_ONLY]),
    ];
    let buckets = jobs.each_ref().map(|(bucket, _)| *bucket);
    let printed = world.spawn(jobs).map(|job| job.wait(LIMIT).ok().stdout);
    assert_eq!(printed, std::array::from_fn(|_| format!("{SERVICE_ACCOUNT}\n")));
    for bucket in buckets {
        assert_eq!(used(&world, bucket), [READ_ONLY], "{bucket}");
    }
    // The jobs' own token, and one more for all four clients.
    let mut asked = asked(&world);
    asked.sort();
    assert_eq!(asked, [vec!["https://www.googleapis.com/auth/cloud-platform"], vec![READ_ONLY]]);
    world.finish();
}

#[test]
fn the_scopes_that_a_site_sets_are_the_limit_of_what_clients_get() {
    let world = World::with(HOUR, json!({"scopes": [READ_ONLY, DRIVE]}));
    let platform = "https://www.googleapis.com/auth/cloud-platform";
    for (bucket, way, scopes, expected) in [
        ("all-file", Way::File, &[platform][..], &[READ_ONLY, DRIVE][..]),
        ("all-metadata", Way::Metadata, &[platform], &[READ_ONLY, DRIVE]),
        ("some-file", Way::File, &[platform, READ_ONLY], &[READ_ONLY]),
        ("some-metadata", Way::Metadata, &[platform, READ_ONLY], &[READ_ONLY]),
    ] {
        let [job] = world.spawn([python(&world, bucket, way, scopes)]);
        job.wait(LIMIT).ok();
        assert_eq!(used(&world, bucket), expected, "{bucket}");
    }
    assert!(!asked(&world).concat().iter().any(|scope| scope == platform));
    world.finish();
}

#[test]
fn a_scope_that_google_does_not_know_is_refused_in_its_words_and_requested_once() {
    let site = site(json!({}), None);
    let job = Job::start(&site);
    site.google.inject(Endpoint::Impersonation, Fault::status(400), Times::Forever);
    let before = site.google.requests_to(Endpoint::Impersonation).len();
    for _ in 0..2 {
        let answer = job.metadata("token?scopes=https://www.googleapis.com/auth/no.such");
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("INVALID_ARGUMENT"), "{answer}");
    }
    assert_eq!(site.google.requests_to(Endpoint::Impersonation).len(), before + 1);
    assert!(job.log().contains(" scopes=https://www.googleapis.com/auth/no.such source=google outcome=failed"));
    assert!(is_ok(&job.metadata("token")));
    site.google.clear_faults();
    job.end(&site);
    site.finish();
}

#[test]
fn an_open_id_token_is_requested_once_for_all_ranks_and_jobs_of_a_user() {
    let site = site(json!({}), None);
    let job = Job::start(&site);
    let asked = || site.google.requests_to(Endpoint::IdToken).len();
    // Delays the answer until all requests have arrived.
    site.google.inject(Endpoint::IdToken, Fault::Delay(Duration::from_millis(500)), Times::Once);
    let url = "identity?audience=https://example.org";
    let path = format!("http://127.0.0.1:{}/computeMetadata/v1/instance/service-accounts/default/{url}", job.port());
    let line = format!(
        "for i in $(seq {RANKS}); do curl -sS --fail -m 60 -H 'Metadata-Flavor: Google' '{path}' >id-$i & done; wait; \
         cat id-* | fold -w 100000 | wc -c; cat id-1"
    );
    let run = job.node.as_user("alice").shell(&line).run().ok();
    let (length, token) = run.stdout.split_once('\n').unwrap();
    assert_eq!((asked(), length.trim()), (1, &*(token.len() * RANKS).to_string()), "{}", run.stderr);
    // The method of IAM Credentials returns the same token, and so does a new agent.
    kill_agent(&job.node);
    job.step(&site, &["--gcp-wif", "true"]).run().ok();
    let generated =
        generate(&job, "generateIdToken", &json!({"audience": "https://example.org", "includeEmail": true}));
    assert_eq!(generated["token"].as_str(), Some(token), "{generated}");
    let answer = job.metadata(url);
    assert!(answer.ends_with(token), "{answer}");
    assert_eq!(asked(), 1);
    assert!(is_ok(&job.metadata("identity?audience=https://example.com")));
    assert_eq!(asked(), 2);
    let log = job.log();
    assert!(log.contains(" audience=https://example.org source=google outcome=issued "), "{log}");
    job.end(&site);
    site.finish();
}

/// Calls a method of IAM Credentials at the job's port with the job's token.
fn generate(job: &Job, method: &str, body: &Value) -> Value {
    let url = format!("127.0.0.1:{}/v1/projects/-/serviceAccounts/{SERVICE_ACCOUNT}:{method}", job.port());
    let line = format!("curl -sS -m 60 -H @- --json '{body}' '{url}'");
    let header = format!("Authorization: Bearer {}", job.token());
    let run = job.node.as_user("alice").shell(&line).stdin(&*header).run().ok();
    serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}{}", run.stdout, run.stderr))
}

#[test]
fn iam_credentials_answers_only_for_the_jobs_own_service_account_and_user() {
    let site = site(json!({}), None);
    let job = Job::start(&site);
    let body = json!({"scope": ["https://www.googleapis.com/auth/cloud-platform"], "lifetime": "3600s"});
    let answer = generate(&job, "generateAccessToken", &body);
    assert_eq!(answer["accessToken"].as_str(), Some(&*job.token()), "{answer}");
    let before = site.google.requests().len();
    let url = format!("127.0.0.1:{}/v1/projects/-/serviceAccounts/ACCOUNT:generateAccessToken", job.port());
    for (user, account, bearer, status) in [
        ("alice", SERVICE_ACCOUNT, "other", 401),
        ("alice", crate::site::OTHER_ACCOUNT, "token", 403),
        ("bob", SERVICE_ACCOUNT, "token", 403),
    ] {
        let secret = if bearer == "token" { job.token() } else { "ya29.other".to_owned() };
        let line = format!(
            "curl -sS -o /dev/null -w '%{{http_code}}' -m 60 -H @- --json '{body}' '{}'",
            url.replace("ACCOUNT", account)
        );
        let header = format!("Authorization: Bearer {secret}");
        let run = job.node.as_user(user).shell(&line).stdin(&*header).run();
        assert_eq!(run.stdout, status.to_string(), "{user} {account} {bearer}");
    }
    assert_eq!(site.google.requests().len(), before, "Google was asked for a stranger");
    job.end(&site);
    site.finish();
}

#[test]
fn a_client_gets_the_old_token_while_google_hangs() {
    let life = 30;
    let site = site(json!({}), Some(life));
    let job = Job::start(&site);
    let ask = || job.metadata(&format!("token?scopes={DRIVE}"));
    let first = ask();
    let secret =
        first.split('"').find(|part| part.starts_with("ya29.")).unwrap_or_else(|| panic!("{first}")).to_owned();
    let token = site.google.state.token(&secret).unwrap();
    site.google.inject(Endpoint::Impersonation, Fault::Delay(LIMIT), Times::Forever);
    // After half of its lifetime, the agent requests a new one.
    wait_until(LIMIT, || site.google.state.now() > token.issued + life / 2);
    let second = ask();
    assert!(is_ok(&second) && second.contains(&secret), "{second}");
    let asked = |request: &Recorded| request.body.contains(DRIVE);
    assert_eq!(site.google.requests_to(Endpoint::Impersonation).into_iter().filter(asked).count(), 2);
    site.google.clear_faults();
    job.end(&site);
    site.finish();
}

#[test]
fn gcloud_works_without_a_project() {
    let world = World::federated_with(LIFE, json!({"project": null}));
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    let port = "curl -sS -w '%{http_code}' -H 'Metadata-Flavor: Google' http://$GCE_METADATA_HOST/computeMetadata/v1/project/project-id";
    let line = format!("{port}; gcloud config list 2>&1 && gcloud auth print-access-token | head -c 5");
    let job = world.job(Way::Metadata, &["bash", "-c", &line]).env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true");
    let run = job.run().ok();
    assert!(run.stdout.starts_with("200") && run.stdout.ends_with("ya29."), "{}{}", run.stdout, run.stderr);
    assert!(!run.stdout.contains("Exception") && !run.stdout.contains("project ="), "{}", run.stdout);
    world.finish();
}
