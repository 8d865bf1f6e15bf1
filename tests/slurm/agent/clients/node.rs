//! google-auth-library for Node, the current release and one from 2023.

use super::super::world::{LIFE, Way, World};
use super::BOTH;
use crate::clients::library;
use crate::table::Row;
use crate::tried::{record, version};

const OLD: &str = "google-auth-library-8";

#[test]
fn of_today() {
    let world = World::start(LIFE);
    node_at(&world);
    world.finish();
    record(&row("google-auth-library", "also @google-cloud/storage and other libraries on top of it"));
}

#[test]
fn of_2023() {
    let world = World::start(LIFE);
    let file = world.node_with(OLD, "old-file", Way::File);
    let metadata = world.node_with(OLD, "old-metadata", Way::Metadata);
    assert_eq!(world.outlive([file, metadata]), ["IdentityPoolClient\n", "Compute\n"]);
    world.finish();
    record(&row(OLD, "before 8.8 it accepts only Google's `token_url`"));
}

/// google-auth-library for Node in both ways.
pub fn node_at(world: &World) {
    let file = world.node("node-file", Way::File);
    let metadata = world.node("node-metadata", Way::Metadata);
    assert_eq!(world.outlive([file, metadata]), ["IdentityPoolClient\n", "Compute\n"]);
}

fn row(package: &str, remark: &str) -> Row {
    let file = library(&format!("node_modules/{package}/package.json"));
    let found = version(&[&library("bin/node"), "-p", "require(process.argv[1]).version", &file]).unwrap();
    Row::new("Node: google-auth-library", &found, BOTH, remark)
}
