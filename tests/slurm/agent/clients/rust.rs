//! Google's library for Rust, and object_store.

use super::super::world::{Way, World};
use super::{BOTH, METADATA};
use crate::clients::library;
use crate::table::Row;
use crate::tried::{absent, record, version};

/// google-cloud-auth uses a token to its end and looks for a new one every ten seconds: a new one, at half of this, has
/// to live longer.
const LONGER_LIFE: i64 = 26;

#[test]
fn rust() {
    let program = library("rust");
    let names = ["google-cloud-auth", "object_store"];
    let [Some(auth), Some(store)] = names.map(|name| version(&[&program, name])) else {
        return names.iter().for_each(|name| absent(&format!("Rust: {name}")));
    };
    let world = World::start(LONGER_LIFE);
    world.refuses(world.rust("object_store", "object-store-file", Way::File).unwrap(), "external_account");
    let clients = [
        world.rust("google-cloud-auth", "rust-file", Way::File),
        world.rust("google-cloud-auth", "rust-metadata", Way::Metadata),
        world.rust("object_store", "object-store-metadata", Way::Metadata),
    ];
    let runs = world.outlive(clients.map(Option::unwrap));
    assert!(runs[0].contains("ExternalAccountCredentials"), "{}", runs[0]);
    assert!(runs[1].contains("MDSCredentials"), "{}", runs[1]);
    assert_eq!(runs[2], "read\n");
    world.finish();
    record(&Row::new("Rust: google-cloud-auth", &auth, BOTH, ""));
    let remark = "so do delta-rs, lance and icechunk: `env -u GOOGLE_APPLICATION_CREDENTIALS`, or `adc` of `metadata`";
    record(&Row::new("Rust: object_store", &store, METADATA, remark));
}
