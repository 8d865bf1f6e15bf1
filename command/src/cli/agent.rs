//! `gcp-wif agent`: the node agent. The plugin normally starts it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::slurmconf::SlurmConf;
use super::slurmd::Slurmd;
use super::{Screen, Status};
use crate::agent;
use gcp_wif_core::policy::config::DEFAULT_PATH;
use gcp_wif_core::world::proc::ProcFs;

/// The socket of syslog, syslog(3).
const SYSLOG: &str = "/dev/log";

/// Refresh and serve the credentials of this node's jobs, as root. The plugin starts it in the background
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The site configuration
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// The runtime directory whose jobs are served [default: the site configuration's]
    #[arg(long, value_name = "PATH")]
    runtime_dir: Option<PathBuf>,
    /// Stay in the foreground until SIGTERM, for a service manager
    #[arg(long)]
    foreground: bool,
}

pub(super) fn run(arguments: &Arguments, screen: &mut Screen<'_>) -> Status {
    let Arguments { config, runtime_dir, foreground } = arguments;
    let conf = SlurmConf::of_node(Slurmd::of_node(&ProcFs::default()).as_ref());
    let syslog = conf.logs_to_syslog().then_some(Path::new(SYSLOG));
    let ended = if *foreground {
        agent::watch::stay(config, runtime_dir.as_deref(), syslog, &mut |trouble| screen.complain(trouble))
    } else {
        agent::watch::start(config, runtime_dir.as_deref(), syslog)
    };
    match ended {
        Ok(()) => Status::Success,
        Err(failure) => {
            screen.complain(&failure.to_string());
            Status::Failure
        }
    }
}
