//! Clients that outlive their tokens: each goes on, in one job, past three expiries, because the node's agent has a new
//! token for it, at the token endpoint that `credentials.json` names and at the metadata endpoint.
//!
//! Each client reads a bucket of its own, by which Google's record tells it from the others.

use std::path::Path;

use super::world::{LIFE, STOP, Way, World};
use crate::clients::library;
use crate::site::{OBJECT, OTHER_ACCOUNT};
use crate::skipped::skip;

#[test]
fn python() {
    let world = World::start(LIFE);
    let file = world.python("python-file", Way::File);
    let metadata = world.python("python-metadata", Way::Metadata);
    let runs = world.outlive([file, metadata]);
    assert_eq!(runs, ["google.auth.identity_pool\n", "google.auth.compute_engine.credentials\n"]);
    world.finish();
}

#[test]
fn node() {
    let world = World::start(LIFE);
    let file = world.node("node-file", Way::File);
    let metadata = world.node("node-metadata", Way::Metadata);
    assert_eq!(world.outlive([file, metadata]), ["IdentityPoolClient\n", "Compute\n"]);
    world.finish();
}

#[test]
fn rclone() {
    let world = World::start(LIFE);
    // One process that keeps its credentials, as a mount does. 1.60 refuses a token_url that is not Google's.
    let line = format!(
        "port=$((33000 + RANDOM % 20000)); rclone rcd --rc-no-auth --rc-addr 127.0.0.1:$port & \
         ask() {{ rclone rc --url http://127.0.0.1:$port/ operations/list fs=:gcs:rclone-metadata remote=; }}; \
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

#[test]
fn gcloud_of_two_jobs_with_one_configuration_directory() {
    let world = World::start(LIFE);
    if world.site.cluster.as_user("alice").shell("command -v gcloud").run().status != 0 {
        skip("gcloud is not installed");
        return world.finish();
    }
    let url = world.site.google.http_url();
    let job = |bucket: &str, options: &[&str]| {
        let line = format!(
            "until [ -e {STOP} ]; do token=$(gcloud auth print-access-token) || exit 1; \
               printf 'Authorization: Bearer %s' $token | curl -sS --fail-with-body -H @- -o /dev/null {url}/storage/v1/b/{bucket}/o || exit 1; \
             done; echo read"
        );
        let words: Vec<&str> = options.iter().copied().chain(["bash", "-c", &line]).collect();
        world
            .job(Way::File, &words)
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true")
    };
    let option = format!("--gcp-wif-service-account={OTHER_ACCOUNT}");
    let jobs = [("gcloud-first", job("gcloud-first", &[])), ("gcloud-other", job("gcloud-other", &[&option]))];
    assert_eq!(world.outlive(jobs), ["read\n"; 2]);
    world.finish();
}
