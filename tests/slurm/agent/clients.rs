//! Clients that outlive their tokens: each goes on, in one job, past three expiries, because the node's agent has a new
//! token for it, at the token endpoint that `credentials.json` names and at the metadata endpoint.
//!
//! Each client reads a bucket of its own, by which Google's record tells it from the others.

use std::net::TcpListener;
use std::path::Path;

use serde_json::json;

use super::world::{LIFE, STOP, Way, World};
use crate::clients::library;
use crate::google::{Endpoint, Fault, SERVICE_ACCOUNT, Times};
use crate::site::{BUCKET, OBJECT, OTHER_ACCOUNT};
use crate::skipped::skip;

#[test]
fn python() {
    let world = World::start(LIFE);
    python_at(&world);
    world.finish();
}

#[test]
fn node() {
    let world = World::start(LIFE);
    node_at(&world);
    world.finish();
}

/// google-auth for Python in both ways.
pub fn python_at(world: &World) {
    let file = world.python("python-file", Way::File);
    let metadata = world.python("python-metadata", Way::Metadata);
    let runs = world.outlive([file, metadata]);
    assert_eq!(runs, ["google.auth.identity_pool\n", "google.auth.compute_engine.credentials\n"]);
}

/// google-auth-library for Node in both ways.
pub fn node_at(world: &World) {
    let file = world.node("node-file", Way::File);
    let metadata = world.node("node-metadata", Way::Metadata);
    assert_eq!(world.outlive([file, metadata]), ["IdentityPoolClient\n", "Compute\n"]);
}

#[test]
fn rclone() {
    let world = World::start(LIFE);
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    // One process that keeps its credentials, as a mount does. 1.60 refuses a token_url that is not Google's.
    let line = format!(
        "rclone rcd --rc-no-auth --rc-addr {free} & \
         ask() {{ rclone rc --url http://{free}/ operations/list fs=:gcs:rclone-metadata remote=; }}; \
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
    if !Path::new(&python).exists() {
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
        let script = include_str!("../../clients/data.py");
        let words = [&*python, "-", client, &url, bucket, OBJECT, STOP];
        (bucket, world.behind_the_proxy(world.job(way, &words)).stdin(script))
    });
    assert_eq!(world.outlive(jobs), ["read\n"; 5]);
    world.finish();
}

/// google-cloud-auth uses a token to its end and looks for a new one every ten seconds: a new one, at half of this, has
/// to live longer.
const LONGER_LIFE: i64 = 26;

#[test]
fn rust() {
    let world = World::start(LONGER_LIFE);
    let clients = [
        world.rust("google-cloud-auth", "rust-file", Way::File),
        world.rust("google-cloud-auth", "rust-metadata", Way::Metadata),
        // It refuses external_account files.
        world.rust("object_store", "object-store-metadata", Way::Metadata),
    ];
    let [Some(file), Some(metadata), Some(store)] = clients else {
        skip("google-cloud-auth and object_store are not installed");
        return world.finish();
    };
    let [file, metadata, store] = world.outlive([file, metadata, store]);
    assert!(file.contains("ExternalAccountCredentials"), "{file}");
    assert!(metadata.contains("MDSCredentials"), "{metadata}");
    assert_eq!(store, "read\n");
    world.finish();
}

#[test]
fn java() {
    let world = World::start(LIFE);
    // From 1.0 on it knows external_account files, but takes no token_url of plain http.
    let Some(metadata) = world.java("java-metadata", Way::Metadata) else {
        skip("google-auth-library for Java is not installed");
        return world.finish();
    };
    assert_eq!(world.outlive([metadata]), ["ComputeEngineCredentials\n"]);
    world.finish();
}

#[test]
fn gcloud() {
    gcloud_by_metadata(World::start(LIFE));
}

#[test]
fn gcloud_goes_on_without_an_open_id_token() {
    let world = World::start(LIFE);
    let url = "http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/identity?audience";
    for (status, told) in [(503, "503"), (403, "404")] {
        // A failure holds for its audience.
        let line = format!("curl -sS -o /dev/null -w '%{{http_code}}' -H 'Metadata-Flavor: Google' {url}=a-{status}");
        world.site.google.clear_faults();
        world.site.google.inject(Endpoint::IdToken, Fault::status(status), Times::Forever);
        assert_eq!(world.job(Way::Given, &["bash", "-c", &line]).run().ok().stdout, told);
    }
    gcloud_by_metadata(world);
}

fn gcloud_by_metadata(world: World) {
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    let job = world.gcloud("gcloud-metadata", Way::Metadata, &[]);
    assert_eq!(world.outlive([("gcloud-metadata", job)]), ["read\n"]);
    world.finish();
}

/// gcloud asks for the project in nearly every command, and ends with an error where the metadata server has none.
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

#[test]
fn gcloud_of_two_jobs_with_one_configuration_directory() {
    let world = World::start(LIFE);
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    let option = format!("--gcp-wif-service-account={OTHER_ACCOUNT}");
    let jobs = [
        ("gcloud-first", world.gcloud("gcloud-first", Way::File, &[])),
        ("gcloud-other", world.gcloud("gcloud-other", Way::File, &[&option])),
    ];
    assert_eq!(world.outlive(jobs), ["read\n"; 2]);
    world.finish();
}
