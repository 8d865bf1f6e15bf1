//! The audit record of a token: a log line with `KEY=VALUE` fields, and the same fields as a JSON object.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::plan::report::Failure;
use crate::words::google::Identity;
use crate::words::names::{JobId, clip};
use crate::words::time::{UnixSeconds, rfc3339};

/// The length limit of logged scopes and audiences, in characters.
const LONGEST: usize = 300;

/// On what occasion a token is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A job or step starts.
    Issuance,
    /// The agent refreshes a running job's token.
    Refresh,
    /// A client requests other scopes or an OpenID token.
    Request,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 3] = [Self::Issuance, Self::Refresh, Self::Request];

    /// Returns the name of the event in the line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Issuance => "issuance",
            Self::Refresh => "refresh",
            Self::Request => "request",
        }
    }
}

/// Where a token or a failure comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From an exchange with Google for this run of this job.
    Google,
    /// From the tokens and failures that the node keeps, after an exchange for another job.
    Kept,
    /// There was no exchange.
    None,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Self::Google => "google",
            Self::Kept => "kept",
            Self::None => "none",
        }
    }
}

/// What a client requested beyond the job's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// An access token with these scopes.
    Scopes(String),
    /// An OpenID token for this audience.
    Audience(String),
}

impl Asked {
    fn field(&self) -> (&'static str, String) {
        let (name, value) = match self {
            Self::Scopes(scopes) => ("scopes", scopes),
            Self::Audience(audience) => ("audience", audience),
        };
        // Parsers of the line take a quoted value as JSON, so replace quotes.
        (name, clip(&value.replace(|c: char| c.is_whitespace() || c == '"', "_"), LONGEST))
    }
}

/// The audit record of one token.
#[derive(Debug)]
pub struct Entry<'a> {
    /// The occasion.
    pub event: Event,
    /// The job.
    pub job: JobId,
    /// The job's user.
    pub uid: u32,
    /// The identity.
    pub identity: &'a Identity,
    /// The client's request, if it is not for the job's token.
    pub asked: Option<Asked>,
    /// The source of the token or the failure.
    pub source: Source,
    /// The token's expiry, or the failure.
    pub outcome: Result<UnixSeconds, &'a Failure>,
    /// How long the job or client waited.
    pub duration: Duration,
}

impl Entry<'_> {
    /// Formats the log line. Only the value of `error` is quoted and can contain spaces.
    pub fn line(&self) -> String {
        let Self { job, uid, .. } = self;
        let asked = self.asked.as_ref().map(Asked::field);
        let asked = asked.map(|(name, value)| format!(" {name}={value}")).unwrap_or_default();
        let seconds = self.duration.as_secs_f64();
        let (event, identity, source) = (self.event.name(), self.identity(), self.source.name());
        let begin = format!("gcp-wif: {event} job={job} uid={uid} identity={identity}{asked} source={source}");
        match self.outcome {
            Ok(expiry) => format!("{begin} outcome=issued duration={seconds:.3}s expiry={}", rfc3339(expiry)),
            Err(failure) => {
                let (stage, error) = (failure.stage.name(), Value::from(failure.text()));
                format!("{begin} outcome=failed duration={seconds:.3}s expiry=none stage={stage} error={error}")
            }
        }
    }

    /// Builds the JSON object for the audit log.
    pub fn json(&self, now: UnixSeconds) -> Value {
        let failure = self.outcome.err();
        let mut object = Map::new();
        if let Value::Object(fields) = json!({
            "time": rfc3339(now),
            "event": self.event.name(),
            "job": self.job.0,
            "uid": self.uid,
            "identity": self.identity(),
            "source": self.source.name(),
            "outcome": if failure.is_none() { "issued" } else { "failed" },
            "duration": (self.duration.as_secs_f64() * 1000.0).round() / 1000.0,
            "expiry": self.outcome.ok().map(rfc3339),
            "stage": failure.map(|failure| failure.stage.name()),
            "error": failure.map(Failure::text),
        }) {
            object.extend(fields);
        }
        if let Some((name, value)) = self.asked.as_ref().map(Asked::field) {
            object.insert(name.to_owned(), value.into());
        }
        Value::Object(object)
    }

    fn identity(&self) -> &str {
        self.identity.service_account().map_or("federated", |email| email.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry<'a>(outcome: Result<UnixSeconds, &'a Failure>, asked: Option<Asked>) -> Entry<'a> {
        let (event, source, duration) = (Event::Issuance, Source::Google, Duration::from_millis(1234));
        Entry { event, job: JobId(7), uid: 1000, identity: &Identity::Federated, asked, source, outcome, duration }
    }

    /// Parses a line as documented: KEY=VALUE words, where a quoted value is JSON.
    fn fields(line: &str) -> Map<String, Value> {
        let (event, mut rest) = line.strip_prefix("gcp-wif: ").unwrap().split_once(' ').unwrap();
        let mut fields = Map::from_iter([("event".to_owned(), event.into())]);
        while let Some((key, value)) = rest.split_once('=') {
            let end = if value.starts_with('"') { value.len() } else { value.find(' ').unwrap_or(value.len()) };
            let text = &value[..end];
            let parsed = if text.starts_with('"') { serde_json::from_str(text).unwrap() } else { Value::from(text) };
            fields.insert(key.to_owned(), parsed);
            rest = value[end..].trim_start();
        }
        fields
    }

    #[test]
    fn the_line_and_the_object_have_the_same_fields() {
        let failure = Failure::of_argument("a \"b\"\n\u{1b}");
        for (outcome, asked) in [
            (Ok(1_700_000_000), None),
            (Ok(1_700_000_000), Some(Asked::Scopes("https://a https://b".to_owned()))),
            (Err(&failure), Some(Asked::Audience("\"https://example.org/ x".to_owned()))),
        ] {
            let entry = entry(outcome, asked);
            let (line, object) = (entry.line(), entry.json(1_600_000_000));
            let (fields, object) = (fields(&line), object.as_object().unwrap());
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            let told = |name: &&String| *name != "time" && (*name == "expiry" || !object[*name].is_null());
            assert_eq!(names, object.keys().filter(told).collect::<Vec<_>>(), "{line}");
            for name in ["event", "identity", "source", "outcome"] {
                assert_eq!(fields[name], object[name], "{line}");
            }
            assert_eq!(fields.get("error"), object.get("error").filter(|error| !error.is_null()));
            assert_eq!(line.lines().count(), 1, "{line}");
            assert!(!line.contains(char::is_control), "{line}");
        }
    }

    #[test]
    fn the_object_is_as_documented() {
        let expected = json!({
            "time": "2020-09-13T12:26:40Z", "event": "issuance", "job": 7, "uid": 1000, "identity": "federated",
            "source": "google", "outcome": "issued", "duration": 1.234, "expiry": "2023-11-14T22:13:20Z",
            "stage": null, "error": null
        });
        assert_eq!(entry(Ok(1_700_000_000), None).json(1_600_000_000), expected);
    }
}
