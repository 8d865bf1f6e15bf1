//! `gcp-wif agent`: the node agent. The plugin starts it, so people need not.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use super::{Screen, Status};
use crate::agent;
use gcp_wif_core::policy::config::DEFAULT_PATH;

/// Keep the credentials of this node's jobs fresh, in the background (started by the plugin, as root)
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The site configuration
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// The runtime directory whose jobs are served [default: the site configuration's]
    #[arg(long, value_name = "PATH")]
    runtime_dir: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, screen: &mut Screen<'_>) -> Status {
    match agent::watch::start(&arguments.config, arguments.runtime_dir.as_deref()) {
        Ok(()) => Status::Success,
        Err(failure) => {
            screen.complain(&failure.to_string());
            Status::Failure
        }
    }
}
