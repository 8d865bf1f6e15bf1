//! rclone, as Debian has it.

use std::net::TcpListener;

use super::super::world::{LIFE, STOP, Way, World};
use super::METADATA;
use crate::site::OBJECT;
use crate::table::Row;
use crate::tried::{record, version};

#[test]
fn rclone() {
    let world = World::start(LIFE);
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap();
    let configured = |way, line: &str| {
        world
            .job(way, &["bash", "-c", line])
            .env("RCLONE_CONFIG", "/dev/null")
            .env("RCLONE_GCS_ENV_AUTH", "true")
            .env("RCLONE_GCS_ENDPOINT", &format!("{}/storage/v1/", world.site.google.http_url()))
    };
    let file = configured(Way::File, "rclone ls :gcs:rclone-file");
    world.refuses(("rclone-file", file), "invalid TokenURL");
    // One process that keeps its credentials, as a mount does.
    let line = format!(
        "rclone rcd --rc-no-auth --rc-addr {free} & \
         ask() {{ rclone rc --url http://{free}/ operations/list fs=:gcs:rclone-metadata remote=; }}; \
         for i in $(seq 50); do ask >/dev/null 2>&1 && break; sleep 0.1; done; \
         until [ -e {STOP} ]; do ask | grep -q {OBJECT} || exit 1; sleep 0.3; done; kill %1; wait; echo read"
    );
    let job = configured(Way::Metadata, &line);
    assert_eq!(world.outlive([("rclone-metadata", job)]), ["read\n"]);
    world.finish();
    let found = version(&["rclone", "version"]).unwrap();
    let remark = "with `--gcs-env-auth`. 1.60 and older accept only Google's `token_url`: \
                  `env -u GOOGLE_APPLICATION_CREDENTIALS`";
    record(&Row::new("rclone", &found, METADATA, remark));
}
