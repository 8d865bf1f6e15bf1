//! `gcp-wif doctor`: checks a node, from its configuration to a real exchange.
//!
//! ```text
//! doctor.rs          the order of the checks, and their lines
//! configuration.rs   the two configurations, project, certificates, rules
//! slurm.rs           plugstack.conf, Slurm's release, enroot.conf
//! subject_token.rs   the file, and what the token says of itself
//! google.rs          the clock, a real exchange
//! runtime.rs         the runtime directory, the agent's program
//! ```
#![forbid(unsafe_code)]

mod configuration;
mod google;
mod runtime;
mod slurm;
mod subject_token;

use std::path::PathBuf;

use serde_json::{Value, json};

use super::plugstack::Plugstack;
use super::{Screen, Status};
use gcp_wif_core::plan::report::{Failure, Stage};
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::google::ServiceAccountEmail;
use gcp_wif_core::words::names::clip;

/// Check this node, from its configuration to a real exchange with Google
///
/// Prints for each check ok, or what is wrong and the fix. Changes nothing, prints no token. Run it as root.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The site configuration [default: the one that plugstack.conf names, or /etc/slurm/gcp-wif.json]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Try the exchange with this service account instead of the credential configuration's identity
    #[arg(long, value_name = "EMAIL", value_parser = ServiceAccountEmail::parse)]
    service_account: Option<ServiceAccountEmail>,
}

pub(super) fn run(arguments: Arguments, json: bool, screen: &mut Screen<'_>) -> Status {
    if !rustix::process::geteuid().is_root() {
        screen.complain("gcp-wif doctor: it must run as root, because it reads what only root may read");
        return Status::Usage;
    }
    let mut report = Report { screen, json, checks: Vec::new() };
    let plugstack = Plugstack::of_node();
    let path = super::config_path(arguments.config, plugstack.as_ref().ok());

    let config = configuration::site(&mut report, &path);
    let configuration = configuration::credential(&mut report, config.as_ref());
    configuration::project(&mut report, config.as_ref(), configuration.as_ref());
    let client = configuration::certificates(&mut report, config.as_ref());
    slurm::plugins(&mut report, plugstack.as_ref());
    slurm::release(&mut report, plugstack.as_ref().ok());
    configuration::rules(&mut report, config.as_ref());
    let of_files = config.clone();
    let site = config.zip(configuration).map(|(config, configuration)| Site { config, configuration });
    let subject_token = subject_token::check(&mut report, site.as_ref());
    google::check(
        &mut report,
        &google::Try {
            site: site.as_ref(),
            client: client.as_ref(),
            subject_token: subject_token.as_ref(),
            service_account: arguments.service_account,
        },
    );
    runtime::check(&mut report, of_files.as_ref().map(|config| &*config.runtime_dir));
    slurm::enroot(&mut report);
    runtime::command(&mut report, of_files.as_ref());
    report.finish()
}

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    /// Jobs get their credentials, but something is not as it should be.
    Warning,
    Failed,
    /// It depends on what failed, or on what this node does not have.
    Skipped,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// One check's line.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    stage: Stage,
    name: &'static str,
    verdict: Verdict,
    text: String,
}

impl Check {
    fn line(&self) -> String {
        let Self { stage, name, verdict, text } = self;
        format!("{:<9}{:<16}{name:<26}{text}", verdict.name(), stage.to_string())
    }

    fn json(&self) -> Value {
        json!({"stage": self.stage, "check": self.name, "status": self.verdict.name(), "text": self.text})
    }
}

/// Prints each check as soon as it is done, because the exchange can take a while.
struct Report<'a, 'b> {
    screen: &'a mut Screen<'b>,
    json: bool,
    checks: Vec<Check>,
}

impl Report<'_, '_> {
    fn add(&mut self, stage: Stage, name: &'static str, verdict: Verdict, text: impl std::fmt::Display) {
        let check = Check { stage, name, verdict, text: clip(&text.to_string(), 1200) };
        if !self.json {
            self.screen.line(&check.line());
        }
        self.checks.push(check);
    }

    fn ok(&mut self, stage: Stage, name: &'static str, text: impl std::fmt::Display) {
        self.add(stage, name, Verdict::Ok, text);
    }

    fn warn(&mut self, stage: Stage, name: &'static str, text: impl std::fmt::Display) {
        self.add(stage, name, Verdict::Warning, text);
    }

    fn fail(&mut self, stage: Stage, name: &'static str, text: impl std::fmt::Display) {
        self.add(stage, name, Verdict::Failed, text);
    }

    fn skip(&mut self, stage: Stage, name: &'static str, text: impl std::fmt::Display) {
        self.add(stage, name, Verdict::Skipped, text);
    }

    /// A failure as jobs tell it, with the fix instead of the advice to tell the site's administrators.
    fn failure(&mut self, name: &'static str, failure: impl Into<Failure>, fix: &str) {
        let failure = failure.into();
        let (stage, text) = (failure.stage, failure.text());
        if fix.is_empty() {
            self.fail(stage, name, text)
        } else {
            self.fail(stage, name, format_args!("{text}; {fix}"))
        }
    }

    fn finish(self) -> Status {
        let failed = self.checks.iter().any(|check| check.verdict == Verdict::Failed);
        if self.json {
            let checks: Vec<Value> = self.checks.iter().map(Check::json).collect();
            self.screen.json(&json!({"ok": !failed, "checks": checks}));
        }
        if failed { Status::Failure } else { Status::Success }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(json: bool, checks: impl FnOnce(&mut Report<'_, '_>)) -> (Status, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen { out: &mut out, err: &mut err };
        let mut report = Report { screen: &mut screen, json, checks: Vec::new() };
        checks(&mut report);
        let status = report.finish();
        (status, String::from_utf8(out).unwrap())
    }

    #[test]
    fn warnings_are_allowed_and_a_failure_is_not() {
        let (status, text) = report(false, |report| {
            report.ok(Stage::Configuration, "project", "my-project");
            report.warn(Stage::SubjectToken, "mode", "0644");
            report.skip(Stage::TokenExchange, "clock", "no date");
        });
        assert_eq!(status, Status::Success);
        assert_eq!(
            text,
            "ok       configuration   project                   my-project\n\
             warning  subject token   mode                      0644\n\
             skipped  token exchange  clock                     no date\n"
        );
        assert_eq!(report(false, |report| report.fail(Stage::Files, "x", "y")).0, Status::Failure);
    }

    #[test]
    fn programs_get_one_object() {
        let (status, text) = report(true, |report| report.fail(Stage::SubjectToken, "file", "gone\u{1b}[2J"));
        assert_eq!(status, Status::Failure);
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"ok": false, "checks": [
                {"stage": "subject_token", "check": "file", "status": "failed", "text": "gone\\u{1b}[2J"}
            ]})
        );
    }

    #[test]
    fn administrators_are_not_told_to_tell_the_administrators() {
        let (_, text) = report(false, |report| {
            report.failure("order", Failure::of_order(), "");
            report.failure("order", Failure::of_order(), "do this");
        });
        let ends = ["(10-gcp-wif.conf)\n", "(10-gcp-wif.conf); do this\n"];
        assert!(text.split_inclusive('\n').zip(ends).all(|(line, end)| line.ends_with(end)), "{text}");
    }
}
