//! A job's environment variables and files, as values.
#![forbid(unsafe_code)]

mod proxies;

use std::collections::BTreeMap;
use std::path::Path;

use crate::exchange::credential_configuration::{
    CredentialConfiguration, Impersonation, SubjectTokenFormat, TOKEN_TYPE_JWT,
};
pub use crate::plan::change::Change;
use crate::plan::record::{Issued, Port};
use crate::plan::report::Failure;
use crate::policy::config::Adc;
use crate::words::google::{Endpoint, Identity};
use crate::words::json::to_lines;
use crate::words::names::clip;
use crate::words::secret::Secret;
use crate::words::time::rfc3339;

/// The file that always contains a valid access token.
pub const ACCESS_TOKEN_FILE: &str = "access_token";
/// The file with the job's handle, which the token endpoint at the job's port accepts as subject token.
pub const HANDLE_FILE: &str = "handle";
/// The file with the result of the last refresh, see [`status`].
pub const STATUS_FILE: &str = "status";
/// The file with the job's credential configuration.
pub const CREDENTIALS_FILE: &str = "credentials.json";

/// The length limit of a name in the status file, in characters. Google limits a subject to 127 bytes.
const LONGEST_NAME: usize = 300;

/// The variable that lists the variables set by this plugin, each with a fingerprint of its value. It distinguishes
/// values that were set for another job from those that the user set, even on a login node without configuration.
const MARKER: &str = "GCP_WIF_VARIABLES";

/// The variable that all of Google's client libraries look for first.
const CREDENTIALS: &str = "GOOGLE_APPLICATION_CREDENTIALS";

/// The variables in which Google's client libraries look for the metadata endpoint.
const METADATA: [&str; 3] = ["GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"];

/// The variable with enroot's configuration directory.
const ENROOT: &str = "ENROOT_CONFIG_PATH";

/// Variables whose new value includes the user's value, so that it may replace any value. Each has a second variable
/// that keeps the user's value, which is restored when the new one is removed.
const INCLUSIVE: [(&str, &str); 3] =
    [(ENROOT, "GCP_WIF_ENROOT_CONFIG_PATH"), ("no_proxy", "GCP_WIF_no_proxy"), ("NO_PROXY", "GCP_WIF_NO_PROXY")];

/// The variables with the project. A value that the user set is always kept.
pub const PROJECT: [&str; 3] = ["GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"];

/// All variables that the plugin can set, except the marker.
const OURS: [&str; 15] = [
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "GOOGLE_OAUTH_ACCESS_TOKEN_EXPIRES_AT",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE",
    "GCP_WIF_ACCESS_TOKEN_FILE",
    "GCP_WIF_SERVICE_ACCOUNT",
    "GOOGLE_CLOUD_PROJECT",
    "GCLOUD_PROJECT",
    "CLOUDSDK_CORE_PROJECT",
    "GCE_METADATA_HOST",
    "GCE_METADATA_ROOT",
    "GCE_METADATA_IP",
    "ENROOT_CONFIG_PATH",
    "no_proxy",
    "NO_PROXY",
];

/// Variables with their values.
pub type Environment = BTreeMap<&'static str, Secret>;

/// Returns the variables for a step with credentials. `directory` has the job's files, and `enroot` the step's enroot
/// configuration.
pub fn environment(issued: &Issued, directory: &Path, enroot: &Path) -> Environment {
    let file = |name: &str| Secret::new(directory.join(name).to_string_lossy().into_owned());
    let mut environment = Environment::from([
        ("GOOGLE_OAUTH_ACCESS_TOKEN", issued.token.secret().clone()),
        ("GOOGLE_OAUTH_ACCESS_TOKEN_EXPIRES_AT", Secret::new(rfc3339(issued.token.expires_at))),
        (CREDENTIALS, file(CREDENTIALS_FILE)),
        ("CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE", file(CREDENTIALS_FILE)),
        ("GCP_WIF_ACCESS_TOKEN_FILE", file(ACCESS_TOKEN_FILE)),
        ("GCP_WIF_SERVICE_ACCOUNT", Secret::new(issued.name.clone())),
        (ENROOT, Secret::new(enroot.to_string_lossy().into_owned())),
    ]);
    if let Some(port) = &issued.port {
        let address = Secret::new(format!("127.0.0.1:{}", port.number));
        environment.extend(METADATA.map(|name| (name, address.clone())));
    }
    // Keep the variable if there is no port, because then there is no metadata endpoint either.
    if issued.grant.adc() == Adc::Metadata && issued.port.is_some() {
        environment.remove(CREDENTIALS);
    }
    if let Some(project) = &issued.metadata.project {
        environment.extend(PROJECT.map(|name| (name, Secret::new(project.clone()))));
    }
    environment
}

/// Returns whether client libraries in a job with the variables `wanted` search for credentials, because no variable
/// names a file.
pub fn clients_look(wanted: &Environment, current: &dyn Fn(&str) -> Option<String>) -> bool {
    let is_users = || current(CREDENTIALS).is_some() && !is_ours(CREDENTIALS, current);
    !wanted.contains_key(CREDENTIALS) && !is_users()
}

/// Returns the content of a job's `credentials.json`. `directory` has the job's files. If the agent serves the job, the
/// URLs lead to the job's port.
///
/// # Errors
/// A message if the credential configuration cannot be converted for the job.
pub fn credentials(
    configuration: &CredentialConfiguration,
    identity: &Identity,
    port: Option<&Port>,
    directory: &Path,
) -> Result<String, String> {
    let file = match port {
        Some(port) => served(configuration, identity, port, directory)?.portable(identity.service_account()),
        None => configuration.portable(identity.service_account()),
    };
    Ok(to_lines(&file?))
}

/// Returns the credential configuration of a job that the agent serves. Its token endpoint is at the job's port, and
/// its subject token is the job's handle. The impersonation URL leads to the port too, because client libraries take
/// the service account's email from it.
///
/// # Errors
/// When the URL of the port is invalid, which does not happen.
fn served(
    configuration: &CredentialConfiguration,
    identity: &Identity,
    port: &Port,
    directory: &Path,
) -> Result<CredentialConfiguration, String> {
    let origin = format!("http://127.0.0.1:{}", port.number);
    let url = |path: &str| Endpoint::parse(&format!("{origin}{path}")).map_err(|error| error.to_string());
    let account = identity.service_account();
    Ok(CredentialConfiguration {
        subject_token_type: TOKEN_TYPE_JWT.to_owned(),
        token_url: url("/v1/token")?,
        token_info_url: Some(url("/v1/introspect")?),
        subject_token_file: directory.join(HANDLE_FILE),
        subject_token_format: SubjectTokenFormat::Text,
        impersonation: account.map(|email| Impersonation::new(&origin, email, configuration.lifetime())),
        ..configuration.clone()
    })
}

/// Returns the content of the status file, one `KEY=VALUE` per line: `state` (`fresh` or `failing`), `identity`,
/// `expiry` of the access token, `adc` and, after a failed refresh, `failure`.
pub fn status(issued: &Issued, failure: Option<&Failure>) -> String {
    let (state, failure) = match failure {
        None => ("fresh", String::new()),
        Some(failure) => ("failing", format!("failure={failure}\n")),
    };
    let (identity, expiry) = (clip(&issued.name, LONGEST_NAME), rfc3339(issued.token.expires_at));
    let adc = issued.grant.adc();
    format!("state={state}\nidentity={identity}\nexpiry={expiry}\nadc={adc}\n{failure}")
}

/// Removes enroot's directory from the variables, so that the user's configuration stays effective.
pub fn without_enroot(mut environment: Environment) -> Environment {
    environment.remove(ENROOT);
    environment
}

/// Returns the changes after which a job's environment has the variables `wanted` and no other values from this plugin.
///
/// `current` returns a variable of the job. Only an explicit request replaces a value that the user set, and nothing
/// replaces a project that the user set.
pub fn changes(wanted: &Environment, explicit: bool, current: &dyn Fn(&str) -> Option<String>) -> Vec<Change> {
    let marked = marked(current);
    let mut wanted = wanted.clone();
    // The agent serves the job at a port, which proxies must not see.
    if METADATA.iter().any(|name| wanted.contains_key(name)) {
        wanted.extend(proxies::exceptions(&|name| own(name, current)));
    }
    let is_inclusive = |name: &str| INCLUSIVE.iter().any(|(inclusive, _)| *inclusive == name);
    let mut changes = Vec::new();
    let mut given = Vec::new();
    for name in OURS {
        let value = current(name);
        let own = value.is_some() && !is_marked(&marked, name, value.as_deref());
        match wanted.get(name) {
            Some(new) if !own || is_inclusive(name) || (explicit && !PROJECT.contains(&name)) => {
                given.push(format!("{name}:{:016x}", fingerprint(new.expose())));
                changes.push(Change::Set(name, new.clone()));
            }
            Some(_) => {}
            None if value.is_some() && !own => changes.push(Change::Unset(name)),
            None => {}
        }
    }
    for (name, kept) in INCLUSIVE {
        changes.extend(keep_own(name, kept, wanted.contains_key(name), current));
    }
    if !given.is_empty() {
        changes.push(Change::Set(MARKER, Secret::new(given.join(","))));
    } else if current(MARKER).is_some() {
        changes.push(Change::Unset(MARKER));
    }
    changes
}

/// Returns whether this plugin has set the current value of a variable.
pub fn is_ours(name: &str, current: &dyn Fn(&str) -> Option<String>) -> bool {
    is_marked(&marked(current), name, current(name).as_deref())
}

/// Returns ENROOT_CONFIG_PATH as it would be without this plugin.
pub fn own_enroot_config_path(current: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    own(ENROOT, current)
}

/// Returns a variable as it would be without this plugin.
fn own(name: &str, current: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    match INCLUSIVE.iter().find(|(inclusive, _)| *inclusive == name) {
        Some((_, kept)) if is_ours(name, current) => current(kept),
        _ => current(name),
    }
}

/// Keeps the user's value of an inclusive variable in a second variable, or restores it if the plugin's value is
/// removed.
fn keep_own(
    name: &'static str,
    kept: &'static str,
    ours: bool,
    current: &dyn Fn(&str) -> Option<String>,
) -> Vec<Change> {
    let is_kept = current(kept).is_some();
    match own(name, current) {
        Some(own) if ours => vec![Change::Set(kept, Secret::new(own))],
        Some(own) if is_kept => vec![Change::Set(name, Secret::new(own)), Change::Unset(kept)],
        _ if is_kept => vec![Change::Unset(kept)],
        _ => Vec::new(),
    }
}

fn marked(current: &dyn Fn(&str) -> Option<String>) -> Vec<(String, u64)> {
    let text = current(MARKER).unwrap_or_default();
    text.split(',')
        .filter_map(|entry| entry.split_once(':'))
        .filter_map(|(name, print)| Some((name.to_owned(), u64::from_str_radix(print, 16).ok()?)))
        .collect()
}

fn is_marked(marked: &[(String, u64)], name: &str, value: Option<&str>) -> bool {
    let print = value.map(fingerprint);
    marked.iter().any(|(marked, old)| marked == name && Some(*old) == print)
}

/// Returns the 64-bit FNV-1a hash, which is the same in all builds. It distinguishes values and is not a security
/// measure.
fn fingerprint(value: &str) -> u64 {
    value.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Environment {
        Environment::from([
            ("GOOGLE_OAUTH_ACCESS_TOKEN", Secret::new("new-token".to_owned())),
            ("GOOGLE_APPLICATION_CREDENTIALS", Secret::new("/run/gcp-wif/jobs/2/credentials.json".to_owned())),
            ("GOOGLE_CLOUD_PROJECT", Secret::new("site".to_owned())),
        ])
    }

    /// Applies the changes to the environment `before`.
    fn after(before: &[(&str, &str)], wanted: &Environment, explicit: bool) -> BTreeMap<String, String> {
        let mut environment: BTreeMap<String, String> =
            before.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let current = environment.clone();
        for change in changes(wanted, explicit, &|name| current.get(name).cloned()) {
            match change {
                Change::Set(name, value) => drop(environment.insert(name.to_owned(), value.expose().to_owned())),
                Change::Unset(name) => drop(environment.remove(name)),
            }
        }
        environment
    }

    fn as_given(environment: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    #[test]
    fn only_an_explicit_request_replaces_a_users_value() {
        let own = [("GOOGLE_APPLICATION_CREDENTIALS", "/home/alice/key.json"), ("GOOGLE_CLOUD_PROJECT", "alices")];
        let auto = after(&own, &wanted(), false);
        assert_eq!(auto["GOOGLE_APPLICATION_CREDENTIALS"], "/home/alice/key.json");
        assert_eq!(auto["GOOGLE_OAUTH_ACCESS_TOKEN"], "new-token");
        assert_eq!(auto["GOOGLE_CLOUD_PROJECT"], "alices");
        let explicit = after(&own, &wanted(), true);
        assert_eq!(explicit["GOOGLE_APPLICATION_CREDENTIALS"], "/run/gcp-wif/jobs/2/credentials.json");
        assert_eq!(explicit["GOOGLE_CLOUD_PROJECT"], "alices");
    }

    #[test]
    fn a_value_from_another_job_is_replaced_or_removed() {
        let old = Environment::from([
            ("GOOGLE_OAUTH_ACCESS_TOKEN", Secret::new("old-token".to_owned())),
            ("GCE_METADATA_HOST", Secret::new("127.0.0.1:1".to_owned())),
        ]);
        let first = after(&[("PATH", "/bin")], &old, true);
        let second = after(&as_given(&first), &wanted(), false);
        assert_eq!(second["GOOGLE_OAUTH_ACCESS_TOKEN"], "new-token");
        assert!(!second.contains_key("GCE_METADATA_HOST"));
    }

    #[test]
    fn without_credentials_only_the_users_values_stay() {
        let first = after(&[("PATH", "/bin")], &wanted(), true);
        assert_eq!(
            after(&as_given(&first), &Environment::new(), false),
            BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())])
        );
        let mut changed = first;
        changed.insert("GOOGLE_OAUTH_ACCESS_TOKEN".to_owned(), "his-own".to_owned());
        let left = after(&as_given(&changed), &Environment::new(), false);
        assert_eq!(left["GOOGLE_OAUTH_ACCESS_TOKEN"], "his-own");
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn enroots_directory_is_always_replaced_and_the_users_value_is_restored() {
        let ours = Environment::from([(ENROOT, Secret::new("/run/gcp-wif/jobs/2/enroot-0".to_owned()))]);
        let own = [(ENROOT, "/home/alice/enroot")];
        let first = after(&own, &ours, false);
        assert_eq!(first[ENROOT], "/run/gcp-wif/jobs/2/enroot-0");
        assert_eq!(own_enroot_config_path(&|name| first.get(name).cloned()).as_deref(), Some("/home/alice/enroot"));
        let second = after(&as_given(&first), &ours, false);
        assert_eq!(second, first);
        let left = after(&as_given(&first), &Environment::new(), false);
        assert_eq!(left, BTreeMap::from([(ENROOT.to_owned(), "/home/alice/enroot".to_owned())]));
        let without = after(&[], &ours, false);
        assert_eq!(after(&as_given(&without), &Environment::new(), false), BTreeMap::new());
    }

    #[test]
    fn behind_a_proxy_the_port_is_excepted_once_and_the_users_exceptions_are_restored() {
        let served = Environment::from([("GCE_METADATA_HOST", Secret::new("127.0.0.1:1".to_owned()))]);
        let own = [("http_proxy", "http://proxy:3128"), ("no_proxy", "example.com")];
        let first = after(&own, &served, false);
        assert_eq!(first["no_proxy"], "example.com,127.0.0.1");
        assert_eq!(first["NO_PROXY"], "example.com,127.0.0.1");
        assert_eq!(after(&as_given(&first), &served, true), first);
        let before = BTreeMap::from(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        for without in [Environment::new(), Environment::from([("GOOGLE_CLOUD_PROJECT", Secret::new(String::new()))])] {
            let mut left = after(&as_given(&first), &without, false);
            left.retain(|name, _| !without.contains_key(name.as_str()) && name != MARKER);
            assert_eq!(left, before);
        }
        // A value that was changed inside the job counts as the user's.
        let mut changed = first;
        changed.insert("no_proxy".to_owned(), "other.com".to_owned());
        assert_eq!(after(&as_given(&changed), &served, false)["no_proxy"], "other.com,127.0.0.1");
        assert_eq!(after(&as_given(&changed), &Environment::new(), false)["no_proxy"], "other.com");
    }

    #[test]
    fn a_forged_marker_affects_no_other_variable() {
        let forged = format!("PATH:{:016x}", fingerprint("/bin"));
        let left = after(&[("PATH", "/bin"), (MARKER, &forged)], &Environment::new(), false);
        assert_eq!(left, BTreeMap::from([("PATH".to_owned(), "/bin".to_owned())]));
    }
}
