//! The site configuration together with the credential configuration that it names.
#![forbid(unsafe_code)]

use std::path::Path;

use super::config::{Config, ConfigError};
use crate::exchange::credential_configuration::CredentialConfiguration;
use crate::words::google::Identity;

/// What a node is told of its site and of Google.
#[derive(Debug)]
pub struct Site {
    /// The site configuration.
    pub config: Config,
    /// Google's.
    pub configuration: CredentialConfiguration,
}

impl Site {
    /// Reads both.
    ///
    /// # Errors
    /// When one of them is refused.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::of(Config::load(path)?)
    }

    /// Reads Google's for a site configuration.
    ///
    /// # Errors
    /// When it is refused.
    pub fn of(config: Config) -> Result<Self, ConfigError> {
        let configuration = config.load_credential_configuration()?;
        Ok(Self { config, configuration })
    }

    /// The site's own identity: the one of the credential configuration.
    pub fn default_identity(&self) -> Identity {
        match &self.configuration.impersonation {
            Some(impersonation) => Identity::ServiceAccount(impersonation.service_account.clone()),
            None => Identity::Federated,
        }
    }
}
