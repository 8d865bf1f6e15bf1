//! Property tests: untrusted text adds no hidden character to messages, and no line break to files that are read line
//! by line.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use gcp_wif_core::exchange::credential_configuration::{CredentialConfiguration, SubjectTokenFormat};
use gcp_wif_core::exchange::refusal::Refusal;
use gcp_wif_core::exchange::subject_token::Claims;
use gcp_wif_core::exchange::{ExchangeError, Leg, Problem};
use gcp_wif_core::plan::audit::{Asked, Entry, Event, Source};
use gcp_wif_core::plan::enroot::source::{self, SourceError};
use gcp_wif_core::plan::enroot::{Mounts, Overlay};
use gcp_wif_core::plan::environment::{self, Change};
use gcp_wif_core::plan::record::Issued;
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::config::{Config, ConfigError};
use gcp_wif_core::policy::facts::{JobFacts, Placement};
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::policy::request::Options;
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::google::{Identity, RegistryHost};
use gcp_wif_core::words::json;
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::world::fs::{FileError, FileProblem};
use gcp_wif_core::world::http::{Body, Response, TransportError};
use gcp_wif_core::world::sys::ChildError;
use gcp_wif_fuzz::fixtures::{FEDERATED, IMPERSONATES, NOW, TOKEN, facts, grant, issued};
use gcp_wif_fuzz::line::{check, check_failure, is_hidden};
use proptest::prelude::*;

/// Generates text with characters that attack a terminal, a log or a file with lines, between harmless ones.
fn untrusted() -> impl Strategy<Value = String> {
    let harmful = prop::sample::select(vec![
        "\n",
        "\r",
        "\t",
        "\0",
        "\u{7}",
        "\u{8}",
        "\u{b}",
        "\u{c}",
        "\u{1b}[2J",
        "\u{1b}]0;x\u{7}",
        "\u{7f}",
        "\u{85}",
        "\u{9b}31m",
        "\u{9d}",
        "\u{ad}",
        "\u{61c}",
        "\u{200b}",
        "\u{200e}",
        "\u{200f}",
        "\u{2028}",
        "\u{2029}",
        "\u{202a}",
        "\u{202e}",
        "\u{2060}",
        "\u{2066}",
        "\u{2069}",
        "\u{206a}",
        "\u{feff}",
        "\u{fff9}",
        "\u{e0001}",
        "\u{e0041}",
        "\u{110bd}",
        "\u{1d173}",
        "\n# HELP",
        "\nmachine ",
        "\nstate=fresh",
        "\" ",
        "\\",
        "$(id)",
        "${HOME}",
    ]);
    let part = prop_oneof![3 => "[ -~]{0,12}".prop_map(String::from), 1 => any::<String>(), 3 => harmful.prop_map(str::to_owned)];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

/// Checks all messages about a failure.
fn check_messages(failure: &Failure, asked: &str) {
    check_failure(failure);
    check(&failure.text(), 2500);
    let status = environment::status(&issued(&IMPERSONATES), Some(failure));
    assert_eq!(status.lines().count(), 5, "{status}");
    status.lines().for_each(|line| check(line, 3000));
    for asked in [Asked::Scopes(asked.to_owned()), Asked::Audience(asked.to_owned())] {
        for outcome in [Ok(NOW), Err(failure)] {
            let (identity, duration) = (&Identity::Federated, Duration::from_millis(5));
            let (event, source, job, uid) = (Event::Request, Source::Google, facts().job, facts().uid);
            let entry = Entry { event, job, uid, identity, asked: Some(asked.clone()), source, outcome, duration };
            check(&entry.line(), 6000);
            let line = json::to_line(&entry.json(NOW));
            check(&line, 6000);
            assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), entry.json(NOW));
        }
    }
}

fn sites() -> [&'static Site; 2] {
    [&FEDERATED, &IMPERSONATES]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn failures_of_nodes_and_users_have_no_hidden_characters(text in untrusted(), other in untrusted()) {
        let path = Path::new(&text);
        let file = |problem| FileError::new(path, problem);
        let content = ConfigError::Content { path: path.to_owned(), problem: other.clone() };
        let options = Options { service_account: Some(text.clone()), ..Options::default() };
        let source = |error: SourceError| Failure::of_enroot(&error.to_string());
        for failure in [
            Failure::of_enroot(&text),
            Failure::of_users_credentials(path),
            Failure::of_agent(&text),
            Failure::of_subject_token(&text),
            Failure::of_argument(&text),
            Failure::from(file(FileProblem::NotText)),
            Failure::from(ConfigError::Absent(file(FileProblem::Over))),
            Failure::from(content),
            Failure::from(ChildError::Died(text.clone())),
            source(SourceError::File(file(FileProblem::Locked))),
            source(SourceError::Path(text.clone())),
            source(SourceError::NeedsShell { file: PathBuf::from(&text), value: other.clone() }),
            source(SourceError::Share(text.clone())),
        ] {
            check_messages(&failure, &other);
        }
        if let Err(error) = options.request() {
            check_messages(&Failure::from(error), &other);
        }
    }

    #[test]
    fn denials_have_no_hidden_characters(user in untrusted(), account in untrusted(), partition in untrusted()) {
        let config = br#"{"credential_configuration": "/c", "rules": [{"users": ["nobody"]}]}"#;
        let site = Site { config: Config::parse(config).unwrap(), configuration: IMPERSONATES.configuration.clone() };
        let placement = Some(Placement { account: Some(account), partition: Some(partition) });
        let facts = JobFacts { user: Some(user), placement, ..facts() };
        check_messages(&Failure::from(Grant::decide(&site, &facts, None).unwrap_err()), "a");
    }

    #[test]
    fn messages_about_answers_have_no_hidden_characters(
        status in prop::sample::select(vec![200_u16, 302, 400, 401, 403, 404, 429, 500, 503]),
        texts in prop::array::uniform6(untrusted()),
        leg in prop::sample::select(vec![Leg::TokenExchange, Leg::Impersonation]),
    ) {
        let [code, text, issuer, subject, audience, words] = texts;
        let claims = Claims {
            issuer: Some(issuer), subject: Some(subject), audiences: vec![audience.clone(), audience], expiry: Some(5),
        };
        let bodies = [
            serde_json::json!({"error": code, "error_description": text}).to_string(),
            serde_json::json!({"error": "invalid_grant", "error_description": format!("{text} udience")}).to_string(),
            serde_json::json!({"error": {"status": code, "message": text, "details": [{"reason": words}]}}).to_string(),
            format!("<html>{text}<b>{words}"),
        ];
        let refused = |body: &String| {
            let response =
                Response { status, content_type: code.clone(), retry_after: None, date: None, body: Body::new(body.clone().into()) };
            Problem::Refused(Box::new(Refusal::of(&response, &Secret::new("eyJh.eyJp.c2ln".to_owned()))))
        };
        for problem in bodies.iter().map(refused).chain([Problem::Transport(TransportError::Proxy(text))]) {
            for site in sites() {
                let error = ExchangeError { leg, endpoint: site.configuration.token_url.clone(), problem: problem.clone() };
                let (configuration, identity) = (&site.configuration, &site.default_identity());
                check_messages(&Failure::of_exchange(&error, configuration, &claims, identity, NOW), &words);
            }
        }
        let issued = Issued { name: claims.name(), ..issued(&FEDERATED) };
        let environment = environment::environment(&issued, Path::new("/run/gcp-wif/jobs/7"), Path::new("/e"));
        prop_assert!(environment.values().all(|value| !value.expose().contains(is_hidden)));
    }

    #[test]
    fn enroots_files_have_only_lines_of_the_plugin_and_the_user(
        users in untrusted(), name in untrusted(), path in untrusted(), values in prop::collection::vec(untrusted(), 4),
    ) {
        let entries = [vec![name.clone()], vec![name.clone()], vec![name]];
        let source = source::Source { path, credentials: Secret::new(users.clone()), entries };
        let hosts = [RegistryHost::try_from("eu.gcr.io".to_owned()).unwrap()];
        let names = ["GCP_WIF_SERVICE_ACCOUNT", "GOOGLE_CLOUD_PROJECT", "no_proxy", "GCP_WIF_no_proxy"];
        let changes: Vec<Change> =
            names.into_iter().zip(values).map(|(name, value)| Change::Set(name, Secret::new(value))).collect();
        let mounts = Mounts { jobs: Path::new("/run/gcp-wif/jobs"), subject_token: Some(Path::new("/var/run/t")) };
        let overlay = Overlay::new(&source, &hosts, &Secret::new(TOKEN.to_owned()), mounts, &changes);
        for (directory, _, text) in &overlay.files {
            prop_assert!(text.is_empty() || text.ends_with('\n'));
            for line in text.lines() {
                prop_assert!(!line.contains(|c: char| c.is_control() && c != '\t'), "{line:?}");
                let is_ours = match *directory {
                    "mounts.d" => line.starts_with("/run/gcp-wif/jobs ") || line.starts_with("/var/run/t "),
                    _ => line.split_once('=').is_some_and(|(name, value)| names.contains(&name) && !value.contains('$')),
                };
                prop_assert!(is_ours, "{line:?}");
            }
        }
        let ours = format!("machine eu.gcr.io login oauth2accesstoken password {TOKEN}\n");
        let rest = overlay.credentials.expose().replacen(&ours, "", 1);
        prop_assert_eq!(rest.replace('\n', ""), users.replace('\n', ""));
    }

    #[test]
    fn credentials_files_have_no_hidden_characters(texts in prop::array::uniform4(untrusted())) {
        let [field, domain, project, url] = texts;
        let mut configuration = CredentialConfiguration { quota_project_id: Some(project), ..FEDERATED.configuration.clone() };
        configuration.subject_token_format = SubjectTokenFormat::Json { field };
        configuration.universe_domain = domain;
        let text = environment::credentials(&configuration, &Identity::Federated, None, Path::new(&url)).unwrap();
        text.lines().for_each(|line| check(line, 10_000));
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }

    #[test]
    fn metrics_have_no_hidden_characters(text in untrusted(), series in untrusted()) {
        let read = gcp_wif_core::plan::metrics::Metrics::parse(&format!("gcp_wif_agent_info{series} 1\n{text}"));
        read.to_text().lines().for_each(|line| check(line, 600));
    }

    #[test]
    fn messages_about_configurations_have_no_hidden_characters(text in untrusted(), key in untrusted()) {
        let value = serde_json::Value::from(text);
        for key in ["credential_configuration", "proxy", "project", "delivery", "rules", &key] {
            let site = serde_json::json!({"credential_configuration": "/c", key: value}).to_string();
            if let Err(problem) = Config::parse(site.as_bytes()) {
                check(&problem, 700);
            }
        }
        for key in ["audience", "token_url", "universe_domain", "subject_token_type", "quota_project_id", &key] {
            let mut file = FEDERATED.configuration.portable(None).unwrap();
            file[key] = value.clone();
            match CredentialConfiguration::parse(file.to_string().as_bytes()) {
                Err(problem) => check(&problem, 700),
                Ok(read) => check(&read.universe_domain, 300),
            }
        }
        prop_assert!(!grant(&FEDERATED).scopes().is_empty());
    }
}
