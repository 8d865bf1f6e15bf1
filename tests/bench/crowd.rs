//! Many jobs of one user that start at once on a node which has no credentials.

use std::time::Duration;

use serde_json::json;

use crate::cluster::{JobState, Plugin, Settings};
use crate::distant::Distant;
use crate::google::{Endpoint, Fault, Times};
use crate::processes::kill_agent;
use crate::rows::Row;
use crate::samples::{Samples, rounded};
use crate::site::Site;
use crate::sites::{self, Prolog};

const JOBS: usize = 50;
const ROUNDS: usize = 5;
/// How long Google takes for each request.
const THOUGHT: Duration = Duration::from_millis(100);

pub fn run() -> Vec<Row> {
    let settings = sites::settings(Plugin::Optional, Prolog::AtAllocation);
    let site = Site::with(Settings { cpus: Some(64), ..settings });
    let distant = Distant::new(&site.google);
    distant.serve(&site);
    for endpoint in [Endpoint::Sts, Endpoint::Impersonation] {
        site.google.inject(endpoint, Fault::Delay(THOUGHT), Times::Forever);
    }
    let (mut alone, mut slowest, mut exchanges, mut told) =
        (Samples::default(), Samples::default(), Samples::default(), 0);
    for round in 0..=ROUNDS {
        let one = jobs(&site, 1);
        let many = jobs(&site, JOBS);
        // The first round warms up.
        if round > 0 {
            alone.push(one.durations.quantile(1.0));
            slowest.push(many.durations.quantile(1.0));
            exchanges.push(many.exchanges as f64);
            told += many.durations.len();
        }
    }
    let ratio = slowest.median() / alone.median();
    vec![Row {
        line: "crowd",
        what: format!("{JOBS} jobs of one user at once on a cold node, 20 ms round trip, Google thinks for 100 ms"),
        measured: format!(
            "exchanges at Google: {:.0}; the slowest job waits {:.0} ms, {ratio:.2} times one exchange alone ({:.0} ms)",
            exchanges.median(),
            slowest.median(),
            alone.median()
        ),
        spread: format!("slowest {:.0} to {:.0} ms", slowest.quantile(0.0), slowest.quantile(1.0)),
        is_told: true,
        to_reach: "1, 1.2 times",
        numbers: json!({
            "exchanges": exchanges.json(),
            "slowest_ms": slowest.json(),
            "one_alone_ms": alone.json(),
            "ratio": rounded(ratio),
            // A job that finds credentials at once has no line.
            "jobs": JOBS * ROUNDS,
            "jobs_with_a_line_in_the_log": told,
        }),
    }]
}

struct Crowd {
    /// How long the jobs waited for credentials, in milliseconds, from slurmd's log.
    durations: Samples,
    exchanges: usize,
}

/// Runs this many jobs of alice's at once on the first node, which has no agent and no credentials.
fn jobs(site: &Site, count: usize) -> Crowd {
    let node = site.cluster.node(1);
    // Waits for the last epilogs.
    site.cluster.assert_healthy();
    kill_agent(&node);
    node.command(["rm", "-rf", "/run/gcp-wif"]).run().ok();
    let (before, asked) = (node.log().len(), site.google.requests_to(Endpoint::Sts).len());
    let script = format!("#!/bin/bash\n#SBATCH --gcp-wif --array=1-{count} -w n1 -o /dev/null\ntrue\n");
    let id = site.cluster.batch("alice", &script, &[]);
    assert_eq!(site.cluster.wait_job(&id), JobState::Completed);
    let durations: Samples = node.log()[before..].lines().filter_map(duration).collect();
    let exchanges = site.google.requests_to(Endpoint::Sts).len() - asked;
    Crowd { durations, exchanges }
}

/// The duration in an issuance line of slurmd's log, in milliseconds.
fn duration(line: &str) -> Option<f64> {
    let (_, issuance) = line.split_once("gcp-wif: issuance job=")?;
    let (_, rest) = issuance.split_once(" duration=")?;
    rest.split_once('s')?.0.parse::<f64>().ok().map(|seconds| seconds * 1000.0)
}
