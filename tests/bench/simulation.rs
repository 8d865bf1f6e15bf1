//! Jobs that start on thousands of nodes within a minute, against Google's quota: the exchange's own code on a
//! simulated clock.

mod google;
mod job;
mod time;

use std::time::Duration;

use serde_json::{Value, json};

use crate::rows::Row;
use crate::samples::{Samples, rounded};
use google::Kept;
use job::{Random, World, act};

/// The jobs begin at random within this many seconds, uniformly distributed.
const ARRIVAL: f64 = 60.0;
const SEED: u64 = 1;
/// Additional seeds for the claim that no job fails.
const MORE_SEEDS: [u64; 2] = [2, 3];
/// `timeout_seconds`, from the default to the maximum.
const TIMEOUTS: [u64; 6] = [20, 25, 30, 35, 40, 45];
const MOST_ENDPOINTS: usize = 3;

/// 1,000 nodes with 5 jobs of a user each.
pub fn shared() -> Vec<Row> {
    let row = |kept| {
        let played = play(kept, 1, (1000, 5), TIMEOUTS[0], SEED);
        Row {
            line: "shared",
            what: format!("simulated: 1,000 nodes x 5 jobs of a user within a minute, {}", text(kept)),
            measured: played.text(),
            spread: format!("seed {SEED}"),
            is_told: true,
            to_reach: "no job fails",
            numbers: played.numbers(),
        }
    };
    [Kept::ByMinute, Kept::Steadily].map(row).into()
}

/// 10,000 nodes with one job each.
pub fn wide() -> Vec<Row> {
    [Kept::ByMinute, Kept::Steadily].into_iter().flat_map(wide_with).collect()
}

fn wide_with(kept: Kept) -> Vec<Row> {
    let what = |rest: &str| format!("simulated: 10,000 nodes x 1 job within a minute, {}{rest}", text(kept));
    let row = |what, measured, numbers| Row {
        line: "wide",
        what,
        measured,
        spread: format!("seed {SEED}"),
        to_reach: "",
        numbers,
        is_told: true,
    };
    let (mut rows, mut enough) = (Vec::new(), Vec::new());
    let mut failed = Vec::new();
    for endpoints in 1..=MOST_ENDPOINTS {
        for timeout in TIMEOUTS {
            let with_seed = |seed| play(kept, endpoints, (10_000, 1), timeout, seed);
            let played = with_seed(SEED);
            let others = MORE_SEEDS.iter().filter(|_| played.failed == 0).map(|seed| with_seed(*seed).failed);
            let most = others.max().unwrap_or(played.failed);
            failed.push(json!({"endpoints": endpoints, "timeout_seconds": timeout, "failed": most}));
            if endpoints == 1 && timeout == TIMEOUTS[0] {
                rows.push(row(what(""), played.text(), played.numbers()));
            }
            if most == 0 {
                enough
                    .push(format!("{timeout} s with {endpoints} STS endpoint{}", if endpoints > 1 { "s" } else { "" }));
                break;
            }
        }
        if failed.last().is_some_and(|last| last["failed"] == 0 && last["timeout_seconds"] == TIMEOUTS[0]) {
            break;
        }
    }
    let enough = if enough.is_empty() { "nothing that was tried".to_owned() } else { enough.join(", ") };
    rows.push(row(what(": timeout_seconds with which none fails"), enough, json!({ "tried": failed })));
    rows
}

fn text(kept: Kept) -> &'static str {
    match kept {
        Kept::ByMinute => "quota counted by the minute",
        Kept::Steadily => "quota refilled steadily",
    }
}

/// The result of a run.
struct Played {
    failed: usize,
    jobs: usize,
    exchanges: usize,
    calls: usize,
    refused: usize,
    peak: usize,
    delays: Samples,
}

impl Played {
    fn text(&self) -> String {
        let Self { failed, calls, refused, peak, delays, .. } = self;
        let delay = delays.quantile(0.99);
        format!(
            "{failed} jobs fail; {calls} calls, {refused} of them refused, at most {peak} in a second; 99 % are through, or give up, in {delay:.2} s"
        )
    }

    fn numbers(&self) -> Value {
        json!({
            "seed": SEED,
            "jobs": self.jobs,
            "failed": self.failed,
            "exchanges": self.exchanges,
            "calls": self.calls,
            "refused": self.refused,
            "peak_each_second": self.peak,
            "delay_p50_s": rounded(self.delays.median()),
            "delay_p99_s": rounded(self.delays.quantile(0.99)),
            "delay_longest_s": rounded(self.delays.quantile(1.0)),
        })
    }
}

fn play(kept: Kept, endpoints: usize, (nodes, jobs_of_node): (usize, usize), timeout: u64, seed: u64) -> Played {
    let jobs = nodes * jobs_of_node;
    let mut random = Random::new(seed);
    let begins: Vec<Duration> = (0..jobs).map(|_| Duration::from_secs_f64(random.next() * ARRIVAL)).collect();
    let world = World::new(kept, endpoints, nodes, jobs_of_node, budget(timeout), seed);
    let world = time::play(world, &begins, act);
    assert_eq!(world.outcomes.len(), jobs, "each job has ended");
    let mut seconds = vec![0; 200];
    for call in &world.calls {
        seconds[call.time.as_secs() as usize] += 1;
    }
    Played {
        failed: world.outcomes.iter().filter(|outcome| outcome.has_failed).count(),
        jobs,
        exchanges: world.calls.iter().filter(|call| call.is_sts && !call.is_refused).count(),
        calls: world.calls.len(),
        refused: world.calls.iter().filter(|call| call.is_refused).count(),
        peak: seconds.into_iter().max().unwrap_or_default(),
        delays: world.outcomes.iter().map(|outcome| outcome.delay.as_secs_f64()).collect(),
    }
}

/// The time limit of a hook's exchange (`budget` in `core/src/job/lifecycle.rs`).
fn budget(timeout: u64) -> Duration {
    let timeout = Duration::from_secs(timeout);
    timeout - Duration::from_secs(3).min(timeout / 4)
}
