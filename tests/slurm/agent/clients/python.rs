//! google-auth, the current release and Debian's.

use super::super::world::{LIFE, STOP, Way, World};
use super::{BOTH, METADATA};
use crate::clients::library;
use crate::table::Row;
use crate::tried::{absent, record, version};

const CLIENT: &str = "Python: google-auth";
const VERSION: [&str; 2] = ["-c", "import pkg_resources; print(pkg_resources.require('google-auth')[0].version)"];
/// Debian's Python, which has Debian's packages.
const DEBIANS: &str = "/usr/bin/python3";

#[test]
fn of_today() {
    let world = World::start(LIFE);
    python_at(&world);
    world.finish();
    let found = version(&[&[&*library("python/bin/python")], &VERSION[..]].concat()).unwrap();
    let remark = "also google-cloud-storage and all other Google libraries for Python";
    record(&Row::new(CLIENT, &found, BOTH, remark));
}

/// google-auth for Python in both ways.
pub fn python_at(world: &World) {
    let file = world.python("python-file", Way::File);
    let metadata = world.python("python-metadata", Way::Metadata);
    let runs = world.outlive([file, metadata]);
    assert_eq!(runs, ["google.auth.identity_pool\n", "google.auth.compute_engine.credentials\n"]);
}

#[test]
fn of_debian() {
    let Some(found) = version(&[&[DEBIANS], &VERSION[..]].concat()) else {
        return absent(&format!("{CLIENT}, Debian's"));
    };
    let world = World::start(LIFE);
    let url = world.site.google.http_url();
    let script = include_str!("../../../clients/loop.py");
    let job = |way, bucket| world.job(way, &[DEBIANS, "-", &url, bucket, STOP]).stdin(script);
    let refused = job(Way::File, "debian-file");
    world.refuses(("debian-file", refused), "external_account");
    let metadata = job(Way::Metadata, "debian-metadata");
    assert_eq!(world.outlive([("debian-metadata", metadata)]), ["google.auth.compute_engine.credentials\n"]);
    world.finish();
    let remark =
        "does not support external_account files; versions from 1.27 do. `env -u GOOGLE_APPLICATION_CREDENTIALS`";
    record(&Row::new(&format!("{CLIENT}, Debian's"), &found, METADATA, remark));
}
