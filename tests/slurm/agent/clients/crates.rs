//! Google's crate for Rust, and object_store.

use super::super::world::{LIFE, Way, World};
use super::{BOTH, METADATA};
use crate::clients::library;
use crate::table::Row;
use crate::tried::{absent, record, version};

/// google-cloud-auth uses a token until its expiry and looks for a new one every ten seconds, so half of this lifetime
/// must be longer than that.
const LONGER_LIFE: i64 = 26;

#[test]
fn google_cloud_auth() {
    let client = "Rust: google-cloud-auth";
    let Some(found) = version(&[&library("rust"), "google-cloud-auth"]) else { return absent(client) };
    let world = World::start(LONGER_LIFE);
    let ways = [("rust-file", Way::File), ("rust-metadata", Way::Metadata)];
    let runs = world.outlive(ways.map(|(bucket, way)| world.rust("google-cloud-auth", bucket, way).unwrap()));
    assert!(runs[0].contains("ExternalAccountCredentials"), "{}", runs[0]);
    assert!(runs[1].contains("MDSCredentials"), "{}", runs[1]);
    world.finish();
    record(&Row::new(client, &found, BOTH, ""));
}

#[test]
fn object_store() {
    let client = "Rust: object_store";
    let Some(found) = version(&[&library("rust"), "object_store"]) else { return absent(client) };
    let world = World::start(LIFE);
    let job = |bucket, way| world.rust("object_store", bucket, way).unwrap();
    world.refuses(job("object-store-file", Way::File), "external_account");
    assert_eq!(world.outlive([job("object-store-metadata", Way::Metadata)]), ["read\n"]);
    world.finish();
    let remark =
        "delta-rs, lance and icechunk use it: `env -u GOOGLE_APPLICATION_CREDENTIALS`, or `\"adc\": \"metadata\"`";
    record(&Row::new(client, &found, METADATA, remark));
}
