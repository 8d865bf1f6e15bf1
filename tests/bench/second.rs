//! The second job of a user on a node: the cost of credentials that the node already has.

use std::time::Duration;

use serde_json::json;

use crate::cluster::Plugin;
use crate::distant::Distant;
use crate::rows::Row;
use crate::samples::{Rounds, in_turns};
use crate::shell::Shell;
use crate::site::Site;
use crate::sites::{self, Prolog};

const ROUNDS: Rounds = Rounds { warm_up: 5, counted: 60, pause: Duration::from_millis(100) };
const OWN: &str = "srun -w n1 --gcp-wif true";

pub fn run() -> Vec<Row> {
    [Prolog::AtFirstStep, Prolog::AtAllocation].map(with).into()
}

fn with(prolog: Prolog) -> Row {
    let site = Site::with(sites::settings(Plugin::Optional, prolog));
    let distant = Distant::new(&site.google);
    distant.serve(&site);
    let [mut with, mut without] = [(); 2].map(|()| Shell::start(&site.cluster));
    // The agent, and a first job's credentials.
    with.time(OWN);
    let before = site.google.requests().len();
    let [own, other] = in_turns(ROUNDS, [&mut || with.time(OWN), &mut || without.time("srun -w n1 true")]);
    let calls = site.google.requests().len() - before;
    let jobs = ROUNDS.warm_up + ROUNDS.counted;
    let (measured, spread, mut numbers) = own.against(&other);
    numbers["jobs"] = json!(jobs);
    numbers["calls_at_google"] = json!(calls);
    Row {
        line: "second",
        what: format!(
            "second job of the same user: srun --gcp-wif true against srun true, 20 ms round trip to Google{}",
            prolog.text()
        ),
        measured: format!("{measured}, {:.1} calls at Google a job", calls as f64 / jobs as f64),
        spread,
        to_reach: "+15 ms, no call",
        numbers,
        is_told: true,
    }
}
