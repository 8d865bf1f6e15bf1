//! The output of the checks: a line for each, and the summary.
#![forbid(unsafe_code)]

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use crate::cli::{Screen, Status};
use gcp_wif_core::plan::report::{Failure, Stage};
use gcp_wif_core::words::names::clip;

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    /// Nothing is wrong on this node, but its administrators should know about it.
    Hint,
    /// Jobs get their credentials, but something should be corrected.
    Warning,
    Failed,
    /// It depends on a failed check, or on something that this node does not have.
    Skipped,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Hint => "hint",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Ok => AnsiColor::Green.on_default(),
            Self::Hint => AnsiColor::Cyan.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default().bold(),
            Self::Failed => AnsiColor::Red.on_default().bold(),
            Self::Skipped => Style::new().dimmed(),
        }
    }

    /// Returns whether something is wrong on this node.
    fn is_wrong(self) -> bool {
        matches!(self, Self::Warning | Self::Failed)
    }
}

/// A check with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    stage: Stage,
    name: &'static str,
    verdict: Verdict,
    text: String,
}

impl Check {
    fn line(&self, screen: &Screen<'_>) -> String {
        let Self { stage, name, verdict, text } = self;
        // Keep the padding out of the style, because a terminal may underline or color blanks.
        let word = screen.styled(verdict.style(), verdict.name());
        let gap = " ".repeat(9_usize.saturating_sub(verdict.name().len()));
        format!("{word}{gap}{:<16}{name:<26}{text}", stage.to_string())
    }

    fn json(&self) -> Value {
        json!({"stage": self.stage, "check": self.name, "status": self.verdict.name(), "text": self.text})
    }
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// All checks and a summary.
    Whole,
    /// Only warnings and failures.
    Quiet,
    /// One JSON object.
    Json,
}

/// Collects the checks. Prints each one as soon as it is done, because the exchange can take a while.
pub(super) struct Report<'a, 'b> {
    screen: &'a mut Screen<'b>,
    form: Form,
    checks: Vec<Check>,
}

impl<'a, 'b> Report<'a, 'b> {
    pub(super) fn new(screen: &'a mut Screen<'b>, form: Form) -> Self {
        Self { screen, form, checks: Vec::new() }
    }
}

impl Report<'_, '_> {
    fn add(&mut self, stage: Stage, name: &'static str, verdict: Verdict, text: impl std::fmt::Display) {
        let check = Check { stage, name, verdict, text: clip(&text.to_string(), 1200) };
        if self.form == Form::Whole || (self.form == Form::Quiet && verdict.is_wrong()) {
            let line = check.line(self.screen);
            self.screen.line(&line);
        }
        self.checks.push(check);
    }

    pub(super) fn ok(&mut self, stage: Stage, name: &'static str, text: impl std::fmt::Display) {
        self.add(stage, name, Verdict::Ok, text);
    }

    pub(super) fn hint(&mut self, stage: Stage, name: &'static str, text: impl std::fmt::Display) {
        self.add(stage, name, Verdict::Hint, text);
    }

    pub(super) fn warn(&mut self, stage: Stage, name: &'static str, text: impl std::fmt::Display) {
        self.add(stage, name, Verdict::Warning, text);
    }

    pub(super) fn fail(&mut self, stage: Stage, name: &'static str, text: impl std::fmt::Display) {
        self.add(stage, name, Verdict::Failed, text);
    }

    pub(super) fn skip(&mut self, stage: Stage, name: &'static str, text: impl std::fmt::Display) {
        self.add(stage, name, Verdict::Skipped, text);
    }

    /// Adds a failure with the same text as in a job, but with the fix instead of the hint to tell the administrators.
    pub(super) fn failure(&mut self, name: &'static str, failure: impl Into<Failure>, fix: &str) {
        let failure = failure.into();
        let (stage, text) = (failure.stage, failure.text());
        if fix.is_empty() {
            self.fail(stage, name, text)
        } else {
            self.fail(stage, name, format_args!("{text}; {fix}"))
        }
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|check| check.verdict == verdict).count()
    }

    /// Returns the summary, for example `12 checks: 1 failed, 2 warnings`.
    fn summary(&self) -> String {
        let some = |verdict, one: &str, more: &str| match self.count(verdict) {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {more}")),
        };
        let counts = [
            some(Verdict::Failed, "failed", "failed"),
            some(Verdict::Warning, "warning", "warnings"),
            some(Verdict::Hint, "hint", "hints"),
            some(Verdict::Skipped, "skipped", "skipped"),
        ];
        let told: Vec<String> = counts.into_iter().flatten().collect();
        let told = if told.is_empty() { "all ok".to_owned() } else { told.join(", ") };
        let checks = if self.checks.len() == 1 { "check" } else { "checks" };
        format!("{} {checks}: {told}", self.checks.len())
    }

    /// Prints the summary and returns the status of the command.
    pub(super) fn finish(self) -> Status {
        let failed = self.count(Verdict::Failed) > 0;
        match self.form {
            Form::Whole => self.screen.line(&format!("\n{}", self.summary())),
            Form::Quiet => {}
            Form::Json => {
                let checks: Vec<Value> = self.checks.iter().map(Check::json).collect();
                self.screen.json(&json!({"ok": !failed, "summary": self.summary(), "checks": checks}));
            }
        }
        if failed { Status::Failure } else { Status::Success }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(form: Form, colours: bool, checks: impl FnOnce(&mut Report<'_, '_>)) -> (Status, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen { out: &mut out, err: &mut err, colours };
        let mut report = Report::new(&mut screen, form);
        checks(&mut report);
        let status = report.finish();
        (status, String::from_utf8(out).unwrap())
    }

    fn some(report: &mut Report<'_, '_>) {
        report.ok(Stage::Configuration, "project", "my-project");
        report.hint(Stage::Configuration, "health check", "none");
        report.warn(Stage::SubjectToken, "mode", "0644");
        report.skip(Stage::TokenExchange, "clock", "no date");
    }

    #[test]
    fn a_failure_sets_the_exit_status_and_warnings_do_not() {
        let (status, text) = report(Form::Whole, false, some);
        assert_eq!(status, Status::Success);
        assert_eq!(
            text,
            "ok       configuration   project                   my-project\n\
             hint     configuration   health check              none\n\
             warning  subject token   mode                      0644\n\
             skipped  token exchange  clock                     no date\n\
             \n4 checks: 1 warning, 1 hint, 1 skipped\n"
        );
        assert_eq!(report(Form::Whole, false, |report| report.fail(Stage::Files, "x", "y")).0, Status::Failure);
        let (_, text) = report(Form::Whole, false, |report| report.ok(Stage::Files, "x", "y"));
        assert!(text.ends_with("\n\n1 check: all ok\n"), "{text}");
    }

    #[test]
    fn the_quiet_form_has_only_warnings_and_failures() {
        let (_, text) = report(Form::Quiet, false, some);
        assert_eq!(text, "warning  subject token   mode                      0644\n");
        assert_eq!(
            report(Form::Quiet, false, |report| report.ok(Stage::Files, "x", "y")),
            (Status::Success, String::new())
        );
    }

    #[test]
    fn a_terminal_shows_the_verdict_in_color_and_the_same_columns() {
        let (_, text) = report(Form::Whole, true, |report| report.fail(Stage::Files, "x", "y"));
        let expected = "\u{1b}[1m\u{1b}[31mfailed\u{1b}[0m   files           x                         y\n";
        assert!(text.starts_with(expected), "{text:?}");
    }

    #[test]
    fn programs_get_one_json_object() {
        let (status, text) =
            report(Form::Json, true, |report| report.fail(Stage::SubjectToken, "file", "gone\u{1b}[2J"));
        assert_eq!(status, Status::Failure);
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"ok": false, "summary": "1 check: 1 failed", "checks": [
                {"stage": "subject_token", "check": "file", "status": "failed", "text": "gone\\u{1b}[2J"}
            ]})
        );
    }

    #[test]
    fn administrators_are_not_told_to_tell_the_administrators() {
        let (_, text) = report(Form::Whole, false, |report| {
            report.failure("order", Failure::of_order(), "");
            report.failure("order", Failure::of_order(), "do this");
        });
        let ends = ["(10-gcp-wif.conf)\n", "(10-gcp-wif.conf); do this\n"];
        assert!(text.split_inclusive('\n').zip(ends).all(|(line, end)| line.ends_with(end)), "{text}");
    }
}
