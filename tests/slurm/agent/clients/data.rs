//! Clients of data pipelines.

use std::path::Path;

use super::super::world::{LIFE, STOP, Way, World};
use super::{BOTH, METADATA};
use crate::clients::library;
use crate::cluster::CommandLine;
use crate::site::OBJECT;
use crate::skipped::skip;
use crate::table::{Outcome, Row};
use crate::tried::{absent, record, version};

const SCRIPT: &str = include_str!("../../../clients/data.py");
const NO_FILE: &str = "does not support external_account files, and finds the metadata endpoint even with the file";
const UNSET: &str = "`env -u GOOGLE_APPLICATION_CREDENTIALS`, or `\"adc\": \"metadata\"`";

struct Client {
    name: &'static str,
    library: &'static str,
    outcomes: [Outcome; 2],
    /// How the client reaches the metadata endpoint: only without the file, or even with it.
    metadata: Way,
    remark: &'static str,
}

const STORES: [Client; 3] = [
    Client {
        name: "Python: gcsfs",
        library: "gcsfs",
        outcomes: BOTH,
        metadata: Way::Metadata,
        remark: "used by fsspec, and so by pandas and dask",
    },
    Client {
        name: "Python: pyarrow",
        library: "pyarrow",
        outcomes: BOTH,
        metadata: Way::Metadata,
        remark: "uses google-cloud-cpp",
    },
    Client {
        name: "Python: tensorstore",
        library: "tensorstore",
        outcomes: METADATA,
        metadata: Way::Given,
        remark: NO_FILE,
    },
];
const FRAMES: [Client; 2] = [
    Client {
        name: "Python: DuckDB",
        library: "duckdb",
        outcomes: BOTH,
        metadata: Way::Metadata,
        remark: "with gcsfs: `register_filesystem`",
    },
    Client { name: "Python: polars", library: "polars", outcomes: METADATA, metadata: Way::Metadata, remark: UNSET },
];
const TRAINING: [Client; 2] = [
    Client {
        name: "Python: Orbax",
        library: "orbax",
        outcomes: METADATA,
        metadata: Way::Given,
        remark: "uses tensorstore for arrays, and gcsfs for everything else",
    },
    Client {
        name: "Python: TensorFlow",
        library: "tensorflow",
        outcomes: METADATA,
        metadata: Way::Given,
        remark: NO_FILE,
    },
];

#[test]
fn stores() {
    outlive(STORES);
}

#[test]
fn frames() {
    outlive(FRAMES);
}

#[test]
fn polars_refuses_the_file() {
    let python = library("data/bin/python");
    if !Path::new(&python).exists() {
        return skip("polars is not installed");
    }
    let world = World::start(LIFE);
    let url = world.site.google.http_url();
    let job = world.job(Way::File, &[&python, "-", "polars", &url, "polars-file", OBJECT, STOP]).stdin(SCRIPT);
    world.refuses(("polars-file", job), "external_account");
    world.finish();
}

#[test]
fn training() {
    outlive(TRAINING);
}

/// Runs clients in each way that works, in a single cluster.
fn outlive<const N: usize>(clients: [Client; N]) {
    let python = library("data/bin/python");
    if !Path::new(&python).exists() {
        return clients.iter().for_each(|client| absent(client.name));
    }
    let world = World::start(LIFE);
    let url = world.site.google.http_url();
    let ways = |client: &Client| {
        let ways = [Way::File, client.metadata].into_iter().zip(client.outcomes);
        let works = ways.filter(|(_, outcome)| *outcome == Outcome::Works);
        works
            .map(|(way, _)| (client.library, way, format!("{}-{way:?}", client.library).to_lowercase()))
            .collect::<Vec<_>>()
    };
    let ways: Vec<_> = clients.iter().flat_map(ways).collect();
    let job = |library, way, bucket: &str| -> CommandLine {
        let words = [&*python, "-", library, &url, bucket, OBJECT, STOP];
        world.behind_the_proxy(world.job(way, &words)).stdin(SCRIPT)
    };
    let jobs = ways.iter().map(|(library, way, bucket)| (&**bucket, job(library, *way, bucket)));
    let printed = world.outlive_all(jobs.collect());
    assert!(printed.iter().all(|printed| printed == "read\n"), "{printed:?}");
    world.finish();
    for Client { name, library, outcomes, remark, .. } in clients {
        let found = version(&[&python, "-c", SCRIPT, library]).unwrap();
        record(&Row::new(name, &found, outcomes, remark));
    }
}
