//! The cost of the plugin for every job of a cluster, including those that never ask for credentials.

use std::time::Duration;

use serde_json::json;

use crate::cluster::{Plugin, Settings, command_path};
use crate::compiled::empty_plugin;
use crate::rows::Row;
use crate::samples::{Rounds, Samples, in_turns};
use crate::shell::Shell;
use crate::site::Site;
use crate::sites::{self, Prolog};

const ROUNDS: Rounds = Rounds { warm_up: 8, counted: 120, pause: Duration::from_millis(70) };
const JOB: &str = "srun -w n1 true";

pub fn run() -> Vec<Row> {
    [Prolog::AtFirstStep, Prolog::AtAllocation].into_iter().flat_map(with).collect()
}

/// Three clusters that differ only in the plugin run at once. Each of them runs a job in turn.
fn with(prolog: Prolog) -> Vec<Row> {
    let settings = |plugin| sites::settings(plugin, prolog);
    let ours = Site::with(settings(Plugin::Optional));
    ours.configure(json!({"delivery": "agent", "command": command_path()}));
    let empty = Site::with(Settings { path: Some(empty_plugin()), ..settings(Plugin::Optional) });
    let none = Site::with(settings(Plugin::Absent));
    let [mut first, mut second, mut third] = [&ours, &empty, &none].map(|site| Shell::start(&site.cluster));
    let [ours, empty, none] =
        in_turns(ROUNDS, [&mut || first.time(JOB), &mut || second.time(JOB), &mut || third.time(JOB)]);
    let row = |what: &str, own: &Samples, other: &Samples, to_reach| {
        let (measured, spread, numbers) = own.against(other);
        let what = format!("srun true, {what}{}", prolog.text());
        Row { line: "idle", what, measured, spread, to_reach, numbers, is_told: prolog == Prolog::AtFirstStep }
    };
    vec![
        row("plugin idle, against an empty plugin with the same hooks", &ours, &empty, "+1.0 ms"),
        row("plugin idle, against no plugin", &ours, &none, ""),
        // Slurm starts `slurmstepd spank prolog` and `slurmstepd spank epilog` if a plugin has these hooks.
        row("an empty plugin against none, which is Slurm's own price", &empty, &none, ""),
    ]
}
