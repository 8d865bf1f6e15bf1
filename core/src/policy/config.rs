//! The site configuration, `/etc/slurm/gcp-wif.json`.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::exchange::credential_configuration::CredentialConfiguration;
use crate::words::google::{RegistryHost, Scope, ServiceAccountEmail, is_project_id};
use crate::words::json::from_json;
use crate::words::path::check_path;
use crate::world::fs::{self, FileError};

/// The path of the site configuration unless plugstack.conf has `config=PATH`.
pub const DEFAULT_PATH: &str = "/etc/slurm/gcp-wif.json";
/// The default runtime directory.
pub const DEFAULT_RUNTIME_DIR: &str = "/run/gcp-wif";

/// A step cannot be killed while it waits for its exchange, and slurmd drains a node if a step cannot be killed within
/// UnkillableStepTimeout, 60 seconds by default.
const TIMEOUTS: std::ops::RangeInclusive<u64> = 1..=45;

/// How the credentials in a job stay valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// The node agent refreshes them. The job never sees the subject token.
    Agent,
    /// Google's client libraries in the job read the subject token themselves.
    Direct,
}

/// How Google's client libraries in the job find the credentials (Application Default Credentials).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Adc {
    /// With `GOOGLE_APPLICATION_CREDENTIALS`.
    File,
    /// At the job's metadata endpoint.
    Metadata,
}

impl std::fmt::Display for Adc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Metadata => "metadata",
        })
    }
}

/// The agent's log level. Each level includes the lines of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl std::fmt::Display for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        })
    }
}

/// Where issued tokens are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audit {
    /// In the log only.
    Log,
    /// In the log, and in the audit log as JSON.
    Json,
}

/// A user or group in a rule, by name or ID.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Principal {
    /// The ID, as a number.
    Id(u32),
    /// The name, or the ID as text.
    Name(String),
}

/// A rule: which jobs may use which service accounts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Users, by name or ID; absent: all users.
    pub users: Option<Vec<Principal>>,
    /// Primary or supplementary groups, by name or ID; absent: all groups.
    pub groups: Option<Vec<Principal>>,
    /// Slurm accounts; absent: all accounts.
    pub accounts: Option<Vec<String>>,
    /// Slurm partitions; absent: all partitions.
    pub partitions: Option<Vec<String>>,
    /// The default identity; absent: the credential configuration's.
    pub service_account: Option<ServiceAccountEmail>,
    /// The service accounts that `--gcp-wif-service-account` may name besides the default identity.
    #[serde(default)]
    pub allow: Vec<ServiceAccountEmail>,
    /// Whether the rule's jobs get credentials without an option; absent: the site's `auto`.
    pub auto: Option<bool>,
    /// How clients in the rule's jobs find the credentials; absent: the site's `adc`.
    pub adc: Option<Adc>,
}

/// A checked site configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The path of the credential configuration.
    pub credential_configuration: PathBuf,
    /// Whether jobs get credentials without an option. A rule can override it, and `--no-gcp-wif` too.
    #[serde(default)]
    pub auto: bool,
    /// The project that is exported to jobs; absent: the one in the identity's email.
    pub project: Option<String>,
    /// The scopes of the access token. If they are set, a job's clients get no others. Absent: `cloud-platform`, and
    /// clients get the scopes that they request.
    pub scopes: Option<Vec<Scope>>,
    /// The registry hosts that get pull credentials; absent: all hosts of Artifact Registry.
    pub registries: Option<Vec<RegistryHost>>,
    /// The rules; absent: all users have the credential configuration's identity.
    pub rules: Option<Vec<Rule>>,
    /// How the credentials in a job stay valid.
    #[serde(default = "default_delivery")]
    pub delivery: Delivery,
    /// How client libraries find the credentials.
    #[serde(default = "default_adc")]
    pub adc: Adc,
    /// The runtime directory.
    #[serde(default = "default_runtime_dir")]
    pub runtime_dir: PathBuf,
    /// The path of the companion command.
    #[serde(default = "default_command")]
    pub command: PathBuf,
    /// A PEM file with the certificate authorities for Google's endpoints; absent: the system's.
    pub ca_certificates: Option<PathBuf>,
    /// The HTTP proxy for Google's endpoints.
    pub proxy: Option<String>,
    /// The budget of one exchange in seconds, including retries.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
    /// The agent's log level.
    #[serde(default = "default_log_level")]
    pub log_level: LogLevel,
    /// Where issued tokens are logged.
    #[serde(default = "default_audit")]
    pub audit: Audit,
}

fn default_delivery() -> Delivery {
    Delivery::Agent
}
pub(super) fn default_adc() -> Adc {
    Adc::File
}
fn default_runtime_dir() -> PathBuf {
    DEFAULT_RUNTIME_DIR.into()
}
fn default_command() -> PathBuf {
    "/usr/bin/gcp-wif".into()
}
fn default_timeout() -> u64 {
    20
}
fn default_log_level() -> LogLevel {
    LogLevel::Info
}
fn default_audit() -> Audit {
    Audit::Log
}

/// Why a configuration cannot be used.
#[derive(Debug)]
pub enum ConfigError {
    /// There is no site configuration, so the node is not set up for this plugin.
    Absent(FileError),
    /// A file cannot be read or is not trusted.
    File(FileError),
    /// The content of a file is invalid.
    Content {
        /// The file.
        path: PathBuf,
        /// The problem, with the key or the position.
        problem: String,
    },
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent(error) | Self::File(error) => error.fmt(f),
            Self::Content { path, problem } => write!(f, "{}: {problem}", path.display()),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Absent(error) | Self::File(error) => Some(error),
            Self::Content { .. } => None,
        }
    }
}

impl Config {
    /// Reads the site configuration. Accepts only a file that nobody but root can write.
    ///
    /// # Errors
    /// When the file is absent, not trusted or invalid.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_trusted(path)
            .map_err(|error| if error.is_absent() { ConfigError::Absent(error) } else { ConfigError::File(error) })?;
        Self::parse(&text).map_err(|problem| ConfigError::Content { path: path.to_owned(), problem })
    }

    /// Reads the credential configuration that the site configuration names. Accepts only a file that nobody but root
    /// can write.
    ///
    /// # Errors
    /// The same as for [`Config::load`].
    pub fn load_credential_configuration(&self) -> Result<CredentialConfiguration, ConfigError> {
        let path = &self.credential_configuration;
        let text = fs::read_trusted(path).map_err(ConfigError::File)?;
        CredentialConfiguration::parse(&text).map_err(|problem| ConfigError::Content { path: path.clone(), problem })
    }

    /// Returns whether an invalid configuration sets `auto`, globally or in a rule, or is so broken that this is
    /// unknown. In these cases users see the error even without an option.
    pub fn refused_but_auto(path: &Path) -> bool {
        let Ok(text) = fs::read_limited(path, 1 << 20) else { return true };
        let is_set = |value: &serde_json::Value| value.get("auto").and_then(serde_json::Value::as_bool) == Some(true);
        match serde_json::from_slice::<serde_json::Value>(&text) {
            Ok(value) => {
                let rules = value.get("rules").and_then(serde_json::Value::as_array);
                is_set(&value) || rules.is_some_and(|rules| rules.iter().any(is_set))
            }
            Err(_) => true,
        }
    }

    /// Returns whether jobs without an option can get credentials: all jobs, or those of a rule.
    pub fn may_be_auto(&self) -> bool {
        self.auto || self.rules.iter().flatten().any(|rule| rule.auto == Some(true))
    }

    /// Returns whether a rule has accounts or partitions, which only a job's prolog knows.
    pub fn names_placements(&self) -> bool {
        let names = |rule: &Rule| rule.accounts.is_some() || rule.partitions.is_some();
        self.rules.as_ref().is_some_and(|rules| rules.iter().any(names))
    }

    /// Returns the scopes of the access token.
    pub fn scopes(&self) -> Vec<Scope> {
        self.scopes.clone().unwrap_or_else(|| vec![Scope::cloud_platform()])
    }

    /// Returns the budget of one exchange, including retries.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds)
    }

    /// Parses the text of the file.
    ///
    /// # Errors
    /// A sentence that names the key, or the place in the text.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let config: Self = from_json(text)?;
        check_path("credential_configuration", &config.credential_configuration)?;
        check_path("runtime_dir", &config.runtime_dir)?;
        check_path("command", &config.command)?;
        if let Some(path) = &config.ca_certificates {
            check_path("ca_certificates", path)?;
        }
        if config.runtime_dir == Path::new("/") {
            return Err("runtime_dir: \"/\" is not allowed".to_owned());
        }
        if config.scopes.as_ref().is_some_and(Vec::is_empty) {
            return Err("scopes: at least one is required".to_owned());
        }
        if !TIMEOUTS.contains(&config.timeout_seconds) {
            return Err(format!("timeout_seconds is {}, it must be from 1 to 45", config.timeout_seconds));
        }
        if let Some(proxy) = &config.proxy {
            crate::world::http::check_proxy(proxy).map_err(|problem| format!("proxy: {problem}"))?;
        }
        if config.project.as_deref().is_some_and(|project| !is_project_id(project)) {
            return Err("project: not a project ID".to_owned());
        }
        let rules = config.rules.iter().flatten();
        let is_metadata = rules.filter_map(|rule| rule.adc).chain([config.adc]).any(|adc| adc == Adc::Metadata);
        if is_metadata && config.delivery == Delivery::Direct {
            return Err("adc: \"metadata\" needs delivery \"agent\"".to_owned());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_configuration_has_the_documented_defaults() {
        let config =
            Config::parse(br#"{"credential_configuration": "/etc/slurm/credential-configuration.json"}"#).unwrap();
        assert!(!config.auto);
        assert_eq!((config.delivery, config.adc), (Delivery::Agent, Adc::File));
        assert_eq!(config.scopes(), [Scope::cloud_platform()]);
        assert_eq!(config.runtime_dir, Path::new("/run/gcp-wif"));
        assert_eq!(config.command, Path::new("/usr/bin/gcp-wif"));
        assert_eq!(config.timeout(), Duration::from_secs(20));
        assert_eq!((config.log_level, config.audit), (LogLevel::Info, Audit::Log));
        assert_eq!((config.registries, config.rules, config.proxy), (None, None, None));
    }

    #[test]
    fn parse_errors_name_the_key_or_the_position() {
        for (addition, expected) in [
            (r#""atuo": true"#, "unknown field `atuo`"),
            (r#""auto": true, "auto": false"#, "duplicate field `auto`"),
            (r#""auto": "yes""#, "invalid type: string \"yes\", expected a boolean at line 1 column"),
            (r#""timeout_seconds": 0"#, "timeout_seconds is 0"),
            (r#""timeout_seconds": 46"#, "timeout_seconds is 46, it must be from 1 to 45"),
            (r#""timeout_seconds": -1"#, "invalid value: integer `-1`"),
            (r#""scopes": []"#, "scopes: at least one"),
            (r#""scopes": ["cloud-platform"]"#, "is not a scope"),
            (r#""registries": ["a b"]"#, "is not a registry's host name"),
            (r#""runtime_dir": "run""#, "runtime_dir: \"run\" is not an absolute path"),
            (r#""runtime_dir": "/run/${HOME}""#, "runtime_dir: "),
            (r#""runtime_dir": "/""#, "runtime_dir: "),
            (r#""delivery": "indirect""#, "unknown variant `indirect`"),
            (r#""delivery": "direct", "adc": "metadata""#, "adc: \"metadata\" needs delivery \"agent\""),
            (r#""delivery": "direct", "rules": [{"adc": "metadata"}]"#, "adc: \"metadata\" needs delivery \"agent\""),
            (r#""audit": "xml""#, "unknown variant `xml`"),
            (r#""proxy": "proxy:3128""#, "proxy: "),
            (r#""project": "a b""#, "project: not a project ID"),
            (r#""rules": [{"user": ["alice"]}]"#, "unknown field `user`"),
            (r#""rules": [{"service_account": "alice"}]"#, "is not a service account's email"),
            (r#""auto": true} {"#, "trailing characters"),
        ] {
            let text = format!(r#"{{"credential_configuration": "/c.json", {addition}}}"#);
            let refusal = Config::parse(text.as_bytes()).unwrap_err();
            assert!(refusal.contains(expected), "{addition}: {refusal:?} does not contain {expected:?}");
        }
        assert!(Config::parse(b"{}").unwrap_err().contains("missing field `credential_configuration`"));
        assert!(Config::parse(b"").unwrap_err().contains("EOF"));
    }
}
