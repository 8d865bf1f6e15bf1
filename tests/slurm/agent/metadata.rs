//! A site that leaves GOOGLE_APPLICATION_CREDENTIALS out: clients find the metadata endpoint by themselves.

use serde_json::json;

use super::world::{LIFE, Way, World};
use crate::skipped::skip;

fn world() -> World {
    World::with(LIFE, json!({"adc": "metadata"}))
}

#[test]
fn python_and_node() {
    let world = world();
    let python = world.python("python", Way::Given);
    let node = world.node("node", Way::Given);
    assert_eq!(world.outlive([python, node]), ["google.auth.compute_engine.credentials\n", "Compute\n"]);
    world.finish();
}

#[test]
fn object_store() {
    let world = world();
    let Some(store) = world.rust("object_store", "object-store", Way::Given) else {
        skip("object_store is not installed");
        return world.finish();
    };
    assert_eq!(world.outlive([store]), ["read\n"]);
    world.finish();
}

#[test]
fn java() {
    let world = world();
    let Some(java) = world.java("java", Way::Given) else {
        skip("google-auth-library for Java is not installed");
        return world.finish();
    };
    assert_eq!(world.outlive([java]), ["ComputeEngineCredentials\n"]);
    world.finish();
}

#[test]
fn gcloud_is_still_told_of_the_file() {
    let world = world();
    let line = "env | grep -E '^(GOOGLE_APPLICATION_CREDENTIALS|CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE)='";
    let run = world.job(Way::Given, &["bash", "-c", line]).run().ok();
    assert_eq!(run.stdout, "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE=/run/gcp-wif/jobs/1/credentials.json\n");
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    let gcloud = world.gcloud("gcloud", Way::Given, &[]);
    assert_eq!(world.outlive([("gcloud", gcloud)]), ["read\n"]);
    world.finish();
}
