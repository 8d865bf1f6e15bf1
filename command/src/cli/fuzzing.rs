//! What the command line reads of Slurm and of registries, for `fuzz/`.
#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "the library exports it, and the program for the manual pages does not")]

use std::path::PathBuf;

use super::doctor::token_service_of;
use super::plugstack::{self, Plugstack};
use super::slurmconf::SlurmConf;

/// What plugstack.conf says.
#[derive(Debug)]
pub struct Plugins {
    /// Whether it names this plugin.
    pub has_ours: bool,
    /// The site configuration that this plugin's line names.
    pub config: Option<PathBuf>,
    /// Whether pyxis comes before this plugin.
    pub pyxis_is_earlier: bool,
    /// What it includes.
    pub included: Vec<String>,
}

impl Plugins {
    /// Reads it.
    pub fn parse(text: &str) -> Self {
        let (read, included) = Plugstack::of_text(text);
        let (config, pyxis_is_earlier) = (read.config_path(), read.pyxis_is_earlier());
        Self { has_ours: read.ours().is_some(), config, pyxis_is_earlier, included }
    }
}

/// Whether a pattern of an include line matches a name.
pub fn fits(pattern: &[u8], name: &[u8]) -> bool {
    plugstack::fits(pattern, name)
}

/// What slurm.conf says: a key's value, whether it lists a word, and its seconds.
pub fn slurm_conf(text: &str, key: &str, word: &str) -> (Option<String>, bool, u64) {
    let conf = SlurmConf::of_text(text);
    let _ = conf.logs_to_syslog();
    (conf.value(key).map(str::to_owned), conf.has(key, &[word]), conf.seconds(key, 10))
}

/// The URL of the token service that a registry's challenge names.
pub fn token_service(challenge: &str, image: &str) -> Option<String> {
    token_service_of(challenge, image)
}
