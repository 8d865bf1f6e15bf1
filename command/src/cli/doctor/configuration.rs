//! Checks the site configuration, the credential configuration, and what they refer to.
#![forbid(unsafe_code)]

use std::path::Path;

use super::report::Report;
use gcp_wif_core::exchange::credential_configuration::CredentialConfiguration;
use gcp_wif_core::plan::report::Stage;
use gcp_wif_core::policy::config::{Config, ConfigError, Rule};
use gcp_wif_core::words::google::ServiceAccountEmail;
use gcp_wif_core::world::http::{Client, ClientError};

const NEEDS_CONFIG: &str = "needs the site configuration";

pub(super) fn site(report: &mut Report<'_, '_>, path: &Path) -> Option<Config> {
    const NAME: &str = "site configuration";
    match Config::load(path) {
        Ok(config) => {
            report.ok(Stage::Configuration, NAME, path.display());
            Some(config)
        }
        Err(error) => {
            let fix = fix(&error, "write it, see \"Configure\" in the README");
            report.failure(NAME, error, &fix);
            None
        }
    }
}

pub(super) fn credential(report: &mut Report<'_, '_>, config: Option<&Config>) -> Option<CredentialConfiguration> {
    const NAME: &str = "credential configuration";
    let Some(config) = config else {
        report.skip(Stage::Configuration, NAME, NEEDS_CONFIG);
        return None;
    };
    match config.load_credential_configuration() {
        Ok(configuration) => {
            let path = config.credential_configuration.display();
            match &configuration.impersonation {
                Some(impersonation) => {
                    report.ok(
                        Stage::Configuration,
                        NAME,
                        format_args!("{path}, for {}", impersonation.service_account),
                    );
                }
                None => report.ok(Stage::Configuration, NAME, format_args!("{path}, for direct federation")),
            }
            Some(configuration)
        }
        Err(error) => {
            let fix = fix(&error, "write it with gcloud iam workload-identity-pools create-cred-config");
            report.failure(NAME, error, &fix);
            None
        }
    }
}

/// Returns advice for a configuration error, if its message does not already contain it.
fn fix(error: &ConfigError, absent: &str) -> String {
    match error {
        ConfigError::Absent(_) => absent.to_owned(),
        ConfigError::File(error) if error.is_absent() => absent.to_owned(),
        ConfigError::File(error) => error.fix().unwrap_or_default(),
        ConfigError::Content { .. } => "correct it".to_owned(),
    }
}

pub(super) fn project(
    report: &mut Report<'_, '_>,
    config: Option<&Config>,
    configuration: Option<&CredentialConfiguration>,
) {
    const NAME: &str = "project";
    let Some(config) = config else {
        return report.skip(Stage::Configuration, NAME, NEEDS_CONFIG);
    };
    if let Some(project) = &config.project {
        return report.ok(Stage::Configuration, NAME, project);
    }
    let Some(configuration) = configuration else {
        return report.skip(Stage::Configuration, NAME, "needs the credential configuration");
    };
    let service_account = configuration.impersonation.as_ref().map(|impersonation| &impersonation.service_account);
    match service_account.and_then(ServiceAccountEmail::project) {
        Some(project) => {
            report.ok(Stage::Configuration, NAME, format_args!("{project}, from the service account's email"));
        }
        None => report.warn(
            Stage::Configuration,
            NAME,
            "none is set and the identity has none, so Google's client libraries look for one over the network; set \
             project",
        ),
    }
}

pub(super) fn certificates(report: &mut Report<'_, '_>, config: Option<&Config>) -> Option<Client> {
    const NAME: &str = "certificates";
    let Some(config) = config else {
        report.skip(Stage::Configuration, NAME, NEEDS_CONFIG);
        return None;
    };
    match Client::new(config.ca_certificates.as_deref(), config.proxy.as_deref()) {
        Ok(client) => {
            let path = config.ca_certificates.as_ref().map(|path| path.display().to_string());
            report.ok(Stage::Configuration, NAME, path.as_deref().unwrap_or("the system's"));
            Some(client)
        }
        Err(error) => {
            let fix = match &error {
                ClientError::File(error) if error.fix().is_some() => error.fix(),
                ClientError::File(_) | ClientError::NoCertificates(_) => {
                    Some("name a PEM file that root owns, or omit the key".to_owned())
                }
                ClientError::NoSystemCertificates | ClientError::Tls(_) | ClientError::Proxy(_) => None,
            };
            report.failure(NAME, error, &fix.unwrap_or_default());
            None
        }
    }
}

/// Checks the rules. `open` means that jobs can read the subject token themselves.
pub(super) fn rules(report: &mut Report<'_, '_>, config: Option<&Config>, open: bool) {
    const NAME: &str = "rules";
    match config.map(|config| config.rules.as_deref()) {
        None => report.skip(Stage::Rules, NAME, NEEDS_CONFIG),
        Some(None) => report.ok(Stage::Rules, NAME, "none: all users have the credential configuration's identity"),
        Some(Some([])) => report.warn(Stage::Rules, NAME, "an empty list denies all users; add rules, or omit the key"),
        Some(Some(_)) if open => report.warn(
            Stage::Rules,
            NAME,
            "they have no effect here: jobs can read the subject token, and impersonate every service account that \
             trusts the node with it; set delivery to \"agent\" and make the token readable only by root \
             (defaultMode: 0400)",
        ),
        Some(Some(rules)) => match shadowed(rules) {
            Some(number) => report.warn(
                Stage::Rules,
                NAME,
                format_args!("rule {number} matches all jobs, so the rules after it never decide; put it last"),
            ),
            None => {
                report.ok(Stage::Rules, NAME, format_args!("{}; gcp-wif explain shows which one decides", rules.len()))
            }
        },
    }
}

/// Returns the number of a rule that matches all jobs but is not the last, counted from 1.
fn shadowed(rules: &[Rule]) -> Option<usize> {
    let everyone = |rule: &Rule| {
        rule.users.is_none() && rule.groups.is_none() && rule.accounts.is_none() && rule.partitions.is_none()
    };
    rules.iter().position(everyone).map(|index| index + 1).filter(|number| *number < rules.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_for_all_jobs_must_be_last() {
        for (text, number) in [
            (r#"[{"users": ["alice"]}, {}]"#, None),
            (r#"[{"users": ["alice"]}, {}, {"users": ["bob"]}]"#, Some(2)),
            (r#"[{"allow": []}, {}]"#, Some(1)),
            ("[]", None),
        ] {
            assert_eq!(shadowed(&serde_json::from_str::<Vec<Rule>>(text).unwrap()), number, "{text}");
        }
    }
}
