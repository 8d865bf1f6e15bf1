//! gargle for R, Debian's. bigrquery, googleCloudStorageR and similar packages get their tokens from it.

use super::super::world::{LIFE, STOP, Way, World};
use super::METADATA;
use crate::table::Row;
use crate::tried::{absent, record, version};

#[test]
fn r() {
    let client = "R: gargle";
    let Some(found) = version(&["Rscript", "-e", "cat(as.character(packageVersion('gargle')))"]) else {
        return absent(client);
    };
    let world = World::start(LIFE);
    let url = world.site.google.http_url();
    let script = include_str!("../../../clients/loop.R");
    let job = |way, bucket| world.job(way, &["Rscript", "--vanilla", "-", &url, bucket, STOP]).stdin(script);
    world.refuses(("r-file", job(Way::File, "r-file")), "no token");
    assert_eq!(world.outlive([("r-metadata", job(Way::Metadata, "r-metadata"))]), ["GceToken\n"]);
    world.finish();
    let remark = "with `options(gargle.gce.use_ip = TRUE)`; it accepts only external_account files for AWS";
    record(&Row::new(client, &found, METADATA, remark));
}
