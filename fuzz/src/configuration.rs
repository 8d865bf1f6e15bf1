//! The fuzz targets for the site configuration and the credential configuration.

use std::path::Path;

use gcp_wif_core::exchange::credential_configuration::CredentialConfiguration;
use gcp_wif_core::policy::config::Config;
use gcp_wif_core::words::google::ServiceAccountEmail;
use serde_json::Value;

use crate::line;

/// Checks a path. Paths are written to fstab, where blanks separate fields, and to environ.d, where `$` is expanded.
fn check_path(path: &Path) {
    let text = path.to_str().unwrap();
    assert!(path.is_absolute(), "{text}");
    assert!(!text.contains([' ', '\t', '$', '"', '\'', '\\', '`']) && text.is_ascii(), "{text:?}");
    assert!(path.components().all(|part| part.as_os_str() != ".."), "{text}");
    line::check(text, usize::MAX);
}

fn check_email(email: &ServiceAccountEmail) {
    let text = email.as_str();
    assert!(text.len() <= 254 && text.ends_with(".gserviceaccount.com") && !text.contains('/'), "{text}");
    assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.@".contains(&b)), "{text}");
}

/// Checks the site configuration.
pub(crate) fn site_configuration(bytes: &[u8]) {
    let config = match Config::parse(bytes) {
        Ok(config) => config,
        Err(problem) => return line::check(&problem, line::LONGEST_PROBLEM),
    };
    for path in [&config.credential_configuration, &config.runtime_dir, &config.command] {
        check_path(path);
    }
    config.ca_certificates.iter().for_each(|path| check_path(path));
    assert_ne!(config.runtime_dir, Path::new("/"));
    assert!((1..=45).contains(&config.timeout_seconds) && !config.scopes().is_empty());
    for project in config.project.iter() {
        assert!(project.is_ascii() && !project.contains([' ', '$', '\n', '/']), "{project:?}");
    }
    for proxy in config.proxy.iter() {
        assert!(proxy.starts_with("http://"), "{proxy:?}");
        line::check(proxy, usize::MAX);
    }
    for host in config.registries.iter().flatten() {
        assert!(!host.as_str().contains([' ', '\n', '/', ':']) && host.as_str().len() <= 253, "{host:?}");
    }
    for scope in config.scopes() {
        line::check(scope.as_str(), 256);
    }
    let rules = config.rules.iter().flatten();
    rules.flat_map(|rule| rule.allow.iter().chain(&rule.service_account)).for_each(check_email);
    // A lenient parser must read the same values.
    let lenient: Value = serde_json::from_slice(bytes).unwrap();
    assert_eq!(Config::parse(lenient.to_string().as_bytes()).as_ref(), Ok(&config));
}

/// Checks Google's credential configuration.
pub(crate) fn credential_configuration(bytes: &[u8]) {
    let configuration = match CredentialConfiguration::parse(bytes) {
        Ok(configuration) => configuration,
        Err(problem) => return line::check(&problem, line::LONGEST_PROBLEM),
    };
    check_path(&configuration.subject_token_file);
    for url in [Some(&configuration.token_url), configuration.token_info_url.as_ref()].into_iter().flatten() {
        // A scheme is case-insensitive (RFC 3986, 3.1).
        let scheme = url.as_str().split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        assert!(["https", "http"].map(Some).contains(&scheme.as_deref()), "{url}");
        line::check(url.as_str(), usize::MAX);
    }
    line::check(configuration.audience.as_str(), usize::MAX);
    line::check(&configuration.universe_domain, 300);
    let own = configuration.impersonation.as_ref().map(|impersonation| impersonation.service_account.clone());
    let own = own.as_ref();
    own.into_iter().for_each(check_email);
    // The configuration that is written for jobs must parse to the same values.
    let rendered = configuration.portable(own).unwrap();
    let again = CredentialConfiguration::parse(rendered.to_string().as_bytes());
    let again = again.unwrap_or_else(|problem| panic!("{problem}: {rendered}"));
    // The written configuration always has token_info_url, which is optional in the file.
    let token_info_url = again.token_info_url.clone();
    assert_eq!(again, CredentialConfiguration { token_info_url, ..configuration });
    assert_eq!(again.portable(own).unwrap(), rendered);
    // The URL for another identity must have the same form.
    let other = ServiceAccountEmail::parse("other@p.iam.gserviceaccount.com").unwrap();
    let url = again.impersonation_url(&other).unwrap();
    assert!(url.as_str().ends_with("/projects/-/serviceAccounts/other@p.iam.gserviceaccount.com:generateAccessToken"));
}
