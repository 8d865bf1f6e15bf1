//! The site configuration and the credential configuration that it names.
#![forbid(unsafe_code)]

use std::path::Path;

use super::config::{Config, ConfigError};
use crate::exchange::credential_configuration::CredentialConfiguration;
use crate::words::google::Identity;

/// Both configurations of a node.
#[derive(Debug)]
pub struct Site {
    /// The site configuration.
    pub config: Config,
    /// The credential configuration.
    pub configuration: CredentialConfiguration,
}

impl Site {
    /// Reads both configurations.
    ///
    /// # Errors
    /// When one of them is absent or refused.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::of(Config::load(path)?)
    }

    /// Reads the credential configuration that a site configuration names.
    ///
    /// # Errors
    /// When it is absent or refused.
    pub fn of(config: Config) -> Result<Self, ConfigError> {
        let configuration = config.load_credential_configuration()?;
        Ok(Self { config, configuration })
    }

    /// Returns the site's default identity, which is that of the credential configuration.
    pub fn default_identity(&self) -> Identity {
        match &self.configuration.impersonation {
            Some(impersonation) => Identity::ServiceAccount(impersonation.service_account.clone()),
            None => Identity::Federated,
        }
    }
}
