//! google-auth-library for Java, as Debian has it.

use super::super::world::{LIFE, Way, World};
use super::METADATA;
use crate::table::Row;
use crate::tried::{absent, record, version};

#[test]
fn java() {
    let client = "Java: google-auth-library, Debian's";
    let world = World::start(LIFE);
    let [Some(file), Some(metadata)] =
        [("java-file", Way::File), ("java-metadata", Way::Metadata)].map(|(bucket, way)| world.java(bucket, way))
    else {
        absent(client);
        return world.finish();
    };
    world.refuses(file, "Error reading credential file");
    assert_eq!(world.outlive([metadata]), ["ComputeEngineCredentials\n"]);
    world.finish();
    let found = version(&["dpkg-query", "-W", "-f", "${Version}", "libgoogle-auth-java"]).unwrap();
    let found = found.split('-').next().unwrap();
    let remark =
        "does not support external_account files. `env -u GOOGLE_APPLICATION_CREDENTIALS`, or `\"adc\": \"metadata\"`";
    record(&Row::new(client, found, METADATA, remark));
}
