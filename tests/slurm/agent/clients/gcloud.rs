//! gcloud, and the tools that it starts with its credentials. gcloud keeps tokens in the user's directory under the
//! account's name, so one user's jobs share them.

use serde_json::json;

use super::super::world::{LIFE, STOP, Way, World};
use super::BOTH;
use crate::cluster::CommandLine;
use crate::google::{Endpoint, Fault, SERVICE_ACCOUNT, Times};
use crate::site::{BUCKET, OBJECT, OTHER_ACCOUNT};
use crate::skipped::skip;
use crate::table::Outcome::{Untried, Works};
use crate::table::Row;
use crate::tried::{absent, record, version_in};

const CLIENT: &str = "gcloud";
/// A token's lifetime in seconds for many simultaneous commands, each of which takes a second or two.
const LONGER_LIFE: i64 = 10;

/// The version that a tool prints for alice, because it writes into the caller's home directory.
fn told(world: &World, line: &str) -> String {
    let run = world.site.cluster.as_user("alice").shell(line).env("CLOUDSDK_CONFIG", "versions").run().ok();
    version_in(&run.stdout).unwrap()
}

#[test]
fn gcloud() {
    let world = World::start(LONGER_LIFE);
    if !world.has_gcloud() {
        absent(CLIENT);
        return world.finish();
    }
    // A gcloud that finds no metadata server remembers that for ten minutes.
    let apart = |job: CommandLine| job.env("CLOUDSDK_CONFIG", "another");
    let jobs = [
        ("gcloud-file", world.gcloud("gcloud-file", Way::File, &[])),
        ("storage-file", world.gcloud_storage("storage-file", Way::File, &[])),
        ("storage-metadata", apart(world.gcloud_storage("storage-metadata", Way::Metadata, &[]))),
    ];
    assert_eq!(world.outlive(jobs), ["read\n"; 3]);
    let found = told(&world, "gcloud version");
    world.finish();
    let remark = "`gcloud storage` and `print-access-token`. By metadata, wait ten minutes after a `gcloud` outside \
                  of a job: gcloud remembers that it found no metadata server";
    record(&Row::new(CLIENT, &found, BOTH, remark));
}

#[test]
fn gcloud_of_jobs_with_one_configuration_directory() {
    let world = World::start(LONGER_LIFE);
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    let option = format!("--gcp-wif-service-account={OTHER_ACCOUNT}");
    // The same identity twice, which is one account for gcloud, and another identity. With both ways, gcloud uses the
    // file.
    let jobs = [
        ("file-first", world.gcloud("file-first", Way::Given, &[])),
        ("file-second", world.gcloud_storage("file-second", Way::Given, &[])),
        ("file-other", world.gcloud_storage("file-other", Way::Given, &[&option])),
        ("metadata-first", world.gcloud("metadata-first", Way::Metadata, &[])),
        ("metadata-other", world.gcloud_storage("metadata-other", Way::Metadata, &[&option])),
    ];
    assert_eq!(world.outlive(jobs), ["read\n"; 5]);
    world.finish();
}

/// gcloud keeps a token of one hour for the next command of the same account, whichever job that belongs to.
#[test]
fn gcloud_keeps_the_tokens_of_two_identities_apart() {
    let world = World::start(3600);
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    let option = format!("--gcp-wif-service-account={OTHER_ACCOUNT}");
    let buckets = ["one", "one-other", "two"];
    for way in [Way::Given, Way::Metadata] {
        for (bucket, options) in buckets.iter().zip([&[][..], &[&*option], &[]]) {
            let bucket = format!("{way:?}-{bucket}").to_lowercase();
            world.make_bucket(&bucket);
            let line = format!("touch {STOP}; gcloud storage cat gs://{bucket}/{OBJECT}");
            let run = world.gcloud_rounds(&line, way, options).env("CLOUDSDK_CONFIG", "shared").run();
            assert_eq!(run.ok().stdout, "hello\nread\n");
            world.assert_identity(&bucket);
            world.start_again();
        }
    }
    world.finish();
}

#[test]
fn gsutil() {
    let world = World::start(LIFE);
    if !world.has_gcloud() {
        absent("gcloud: gsutil");
        return world.finish();
    }
    let url = world.site.google.https_url();
    let (host, port) = url.trim_start_matches("https://").split_once(':').unwrap();
    let round = |bucket| {
        format!(
            "gsutil -q -o Credentials:gs_json_host={host} -o Credentials:gs_json_port={port} \
             -o Boto:ca_certificates_file=/etc/slurm/ca.pem cat gs://{bucket}/{OBJECT} | grep -qx hello"
        )
    };
    // It asks the metadata endpoint even though the job has a file.
    let jobs = [("gsutil-given", Way::Given), ("gsutil-metadata", Way::Metadata)];
    let jobs = jobs.map(|(bucket, way)| (bucket, world.gcloud_rounds(&round(bucket), way, &[])));
    assert_eq!(world.outlive(jobs), ["read\n"; 2]);
    let found = told(&world, "gsutil version");
    world.finish();
    let remark = "asks the metadata endpoint even with the file. `gcloud storage` is its successor";
    record(&Row::new("gcloud: gsutil", &found, [Untried, Works], remark));
}

#[test]
fn bq() {
    let world = World::start(LONGER_LIFE);
    if !world.has_gcloud() {
        absent("gcloud: bq");
        return world.finish();
    }
    let answer = r#"{"kind": "bigquery#datasetList", "datasets": [{"kind": "bigquery#dataset", "id": "demo-project:seen",
        "datasetReference": {"datasetId": "seen", "projectId": "demo-project"}}]}"#;
    let answer = Fault::Answer { status: 200, content_type: "application/json".into(), body: answer.into() };
    world.site.google.inject(Endpoint::Unknown, answer, Times::Forever);
    for way in [Way::File, Way::Metadata] {
        let job = world.gcloud_rounds(&format!("touch {STOP}; bq --project_id=demo-project ls"), way, &[]);
        let run = world.behind_the_proxy(job.env("CLOUDSDK_CONFIG", &format!("{way:?}"))).run().ok();
        assert!(run.stdout.contains("seen"), "{}", run.stdout);
        world.start_again();
        let asked = world.site.google.requests_to(Endpoint::Unknown);
        let asked: Vec<_> = asked.iter().filter(|request| request.target.starts_with("/bigquery/")).collect();
        assert_eq!(asked.len(), if way == Way::File { 1 } else { 2 });
        let token = asked.last().and_then(|request| world.token_of(request));
        assert_eq!(token.map(|token| token.identity.name().to_owned()), Some(SERVICE_ACCOUNT.to_owned()), "{way:?}");
    }
    let found = told(&world, "bq version");
    world.finish();
    record(&Row::new_short("gcloud: bq", &found, BOTH, "each command uses a single token"));
}

#[test]
fn gcloud_continues_without_an_open_id_token() {
    let world = World::start(LIFE);
    let url = "http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/identity?audience";
    for (status, told) in [(503, "503"), (403, "404")] {
        // A failure applies to its audience only.
        let line = format!("curl -sS -o /dev/null -w '%{{http_code}}' -H 'Metadata-Flavor: Google' {url}=a-{status}");
        world.site.google.clear_faults();
        world.site.google.inject(Endpoint::IdToken, Fault::status(status), Times::Forever);
        assert_eq!(world.job(Way::Given, &["bash", "-c", &line]).run().ok().stdout, told);
    }
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    let job = world.gcloud("gcloud-metadata", Way::Metadata, &[]);
    assert_eq!(world.outlive([("gcloud-metadata", job)]), ["read\n"]);
    world.finish();
}

/// gcloud asks for the project in nearly every command, and fails if the metadata server has none.
#[test]
fn gcloud_by_metadata_knows_the_project_of_the_service_account() {
    let world = World::with(LIFE, json!({"project": null}));
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    let line = format!(
        "unset GOOGLE_CLOUD_PROJECT GCLOUD_PROJECT CLOUDSDK_CORE_PROJECT
         gcloud config list --all 2>&1 | grep -E '^(project|account) ' && gcloud storage ls gs://{BUCKET}"
    );
    let job = world.behind_the_proxy(world.job(Way::Metadata, &["bash", "-c", &line]));
    let run = job
        .env("CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "/etc/slurm/ca.pem")
        .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true")
        .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true")
        .run();
    let expected = format!("account = {SERVICE_ACCOUNT}\nproject = demo-project\ngs://{BUCKET}/{OBJECT}\n");
    assert_eq!(run.stdout, expected, "{}", run.stderr);
    world.finish();
}
