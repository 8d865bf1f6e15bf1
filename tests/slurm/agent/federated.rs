//! Clients that outlive their tokens at a site without a service account.

use super::clients::{node_at, python_at};
use super::world::{LIFE, Way, World};
use crate::skipped::skip;

#[test]
fn python() {
    let world = World::federated(LIFE);
    python_at(&world);
    world.finish();
}

#[test]
fn node() {
    let world = World::federated(LIFE);
    node_at(&world);
    world.finish();
}

#[test]
fn gcloud() {
    let world = World::federated(LIFE);
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    // The client asks at the job's own port which principal the token belongs to.
    let file = world.gcloud("gcloud-file", Way::File, &[]);
    // gcloud remembers there for ten minutes that it found no metadata server.
    let metadata = world.gcloud("gcloud-metadata", Way::Metadata, &[]).env("CLOUDSDK_CONFIG", "another");
    assert_eq!(world.outlive([("gcloud-file", file), ("gcloud-metadata", metadata)]), ["read\n"; 2]);
    world.finish();
}
