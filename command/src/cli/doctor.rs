//! `gcp-wif doctor`: checks a node, from its configuration to a real exchange.
//!
//! ```text
//! doctor.rs          the order of the checks
//! report.rs          the output
//! configuration.rs   the two configurations, project, certificates, rules
//! mounts.rs          configuration files that are mounted individually (subPath)
//! slurm.rs           plugstack.conf, Slurm's release, what slurmd has loaded, enroot.conf
//! holes.rs           Slurm releases with known vulnerabilities
//! settings.rs        settings in slurm.conf
//! subject_token.rs   the subject token file and the token's claims
//! google.rs          the clock, a real exchange
//! registry.rs        a pull from a registry
//! runtime.rs         the runtime directory
//! agent.rs           the agent's program and the running agent
//! ```
#![forbid(unsafe_code)]

mod agent;
mod configuration;
mod google;
mod holes;
mod mounts;
mod registry;
mod report;
mod runtime;
mod settings;
mod slurm;
mod subject_token;

use std::path::{Path, PathBuf};

use super::plugstack::Plugstack;
use super::slurmconf::SlurmConf;
use super::slurmd::Slurmd;
use super::{Screen, Status};
use gcp_wif_core::policy::config::Config;
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::google::ServiceAccountEmail;
use gcp_wif_core::world::proc::ProcFs;
use registry::Image;
use report::{Form, Report};

/// The URL of the token service that a registry's challenge names.
#[cfg(feature = "fuzzing")]
pub(super) fn token_service_of(challenge: &str, image: &str) -> Option<String> {
    registry::token_service(challenge, &Image::parse(image).ok()?).map(|url| url.as_str().to_owned())
}

/// Check this node, from its configuration to a real exchange with Google
///
/// Prints for each check ok, or the problem and its fix. Changes nothing and prints no token. Run it as root.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The site configuration [default: the one that plugstack.conf names, or /etc/slurm/gcp-wif.json]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Try the exchange with this service account instead of the credential configuration's identity
    #[arg(long, value_name = "EMAIL", value_parser = ServiceAccountEmail::parse, conflicts_with = "offline")]
    service_account: Option<ServiceAccountEmail>,
    /// Try a pull from this registry: HOST, or HOST/IMAGE:TAG to check the permission for that image too
    #[arg(long, value_name = "HOST", value_parser = Image::parse, conflicts_with = "offline")]
    registry: Option<Image>,
    /// Make no network call, and print only problems: for Slurm's HealthCheckProgram
    #[arg(long)]
    offline: bool,
    /// Print only problems
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(arguments: Arguments, json: bool, screen: &mut Screen<'_>) -> Status {
    if !rustix::process::geteuid().is_root() {
        screen.complain("gcp-wif doctor: it must run as root, because it reads files that only root can read");
        return Status::Usage;
    }
    let form = match (json, arguments.offline || arguments.quiet) {
        (true, _) => Form::Json,
        (false, true) => Form::Quiet,
        (false, false) => Form::Whole,
    };
    let mut report = Report::new(screen, form);
    let proc = ProcFs::default();
    let slurmd = Slurmd::of_node(&proc);
    let conf = SlurmConf::of_node(slurmd.as_ref());
    let plugstack = Plugstack::new(&conf, slurmd.as_ref());
    let path = super::config_path(arguments.config, plugstack.as_ref().ok());

    let config = configuration::site(&mut report, &path);
    let configuration = configuration::credential(&mut report, config.as_ref());
    configuration::project(&mut report, config.as_ref(), configuration.as_ref());
    let client = configuration::certificates(&mut report, config.as_ref());
    let files = files(&path, &conf, plugstack.as_ref().ok(), config.as_ref());
    let token = configuration.as_ref().map(|configuration| &*configuration.subject_token_file);
    mounts::check(&mut report, &proc, &files, token);
    slurm::plugins(&mut report, plugstack.as_ref());
    slurm::release(&mut report, plugstack.as_ref().ok(), slurmd.as_ref(), arguments.offline);
    slurm::loaded(&mut report, plugstack.as_ref().ok(), slurmd.as_ref());
    settings::check(&mut report, &conf, config.as_ref());
    let site = config.clone().zip(configuration).map(|(config, configuration)| Site { config, configuration });
    configuration::rules(&mut report, config.as_ref(), site.as_ref().is_some_and(subject_token::is_everyones));
    let subject_token = subject_token::check(&mut report, site.as_ref());
    if !arguments.offline {
        let attempt = google::Try {
            site: site.as_ref(),
            client: client.as_ref(),
            subject_token: subject_token.as_ref(),
            service_account: arguments.service_account,
        };
        let access_token = google::check(&mut report, &attempt);
        if let Some(image) = &arguments.registry {
            registry::check(&mut report, image, config.as_ref(), client.as_ref(), access_token.as_ref());
        }
    }
    runtime::check(&mut report, config.as_ref().map(|config| &*config.runtime_dir));
    slurm::enroot(&mut report);
    agent::command(&mut report, config.as_ref());
    agent::running(&mut report, config.as_ref(), &path, &proc);
    report.finish()
}

/// Returns the configuration files that must be up to date.
fn files(path: &Path, conf: &SlurmConf, plugstack: Option<&Plugstack>, config: Option<&Config>) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned(), conf.path().to_owned()];
    files.extend(plugstack.iter().flat_map(|plugstack| plugstack.files.iter().cloned()));
    files.extend(config.map(|config| config.credential_configuration.clone()));
    files
}
