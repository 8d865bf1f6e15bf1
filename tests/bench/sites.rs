//! Clusters as sites run them, except for their size.

use crate::cluster::{Plugin, Settings};

/// When a node's prolog runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prolog {
    /// At the start of the job's first step, Slurm's default: the prolog's whole duration is visible.
    AtFirstStep,
    /// `PrologFlags=Alloc`, as the README says. srun then asks whether the node is ready, and asks again 0.1 seconds
    /// later (`slurm_job_node_ready`). So up to 0.1 seconds of prolog cost nothing, or what is a bit longer costs 0.1.
    AtAllocation,
}

impl Prolog {
    /// For the table.
    pub const fn text(self) -> &'static str {
        match self {
            Self::AtFirstStep => "",
            Self::AtAllocation => ", PrologFlags=Alloc",
        }
    }
}

/// Logs as on a site, because the tests' logs, at level debug5, take longer than the plugin.
pub fn settings(plugin: Plugin, prolog: Prolog) -> Settings {
    let settings = Settings::with(plugin).conf("SlurmctldDebug=info").conf("SlurmdDebug=info").conf("MinJobAge=60");
    match prolog {
        Prolog::AtFirstStep => settings,
        Prolog::AtAllocation => settings.conf("PrologFlags=Alloc"),
    }
}
