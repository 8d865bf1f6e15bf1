//! The node's metrics in the Prometheus text format, <https://prometheus.io/docs/instrumenting/exposition_formats/>.
//!
//! Many short-lived processes increment the counters, so the file holds their state: each process reads, changes and
//! replaces it. A metrics library would count in the memory of a single process.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::plan::audit::{Entry, Event, Source};
use crate::plan::report::Stage;
use crate::words::time::UnixSeconds;

const EXCHANGES: &str = "gcp_wif_exchanges_total";
const SAVED: &str = "gcp_wif_exchanges_saved_total";
const SECONDS: &str = "gcp_wif_last_exchange_duration_seconds";
const LAST_SUCCESS: &str = "gcp_wif_last_success_timestamp_seconds";
const JOBS: &str = "gcp_wif_jobs_served";
const NEXT_EXPIRY: &str = "gcp_wif_next_expiry_timestamp_seconds";
const START: &str = "gcp_wif_agent_start_time_seconds";
const INFO: &str = "gcp_wif_agent_info";

/// The name, the type and the help text of each metric.
pub const FAMILIES: [(&str, &str, &str); 11] = [
    ("gcp_wif_issuances_total", "counter", "Jobs and steps that started with a new token, or failed to get one."),
    ("gcp_wif_refreshes_total", "counter", "Refreshes of running jobs' tokens."),
    ("gcp_wif_requests_total", "counter", "Exchanges for clients that requested other scopes or OpenID tokens."),
    (EXCHANGES, "counter", "Exchanges with Google."),
    (SAVED, "counter", "Exchanges saved because jobs of the same user share a token."),
    (SECONDS, "gauge", "Duration of the last exchange, successful or not."),
    (LAST_SUCCESS, "gauge", "When a job last got a token."),
    (JOBS, "gauge", "Jobs that the agent serves."),
    (NEXT_EXPIRY, "gauge", "The earliest expiry of the tokens that the agent serves."),
    (START, "gauge", "When the agent started."),
    (INFO, "gauge", "The version of the agent."),
];

/// The agent's current state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The number of jobs that it serves.
    pub jobs: usize,
    /// The earliest expiry of their tokens.
    pub next_expiry: Option<UnixSeconds>,
    /// When the agent started.
    pub start: UnixSeconds,
    /// Its version.
    pub version: &'static str,
}

/// The metrics of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Parses metrics. Ignores invalid lines and other metrics.
    pub fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let value = value.parse::<f64>().ok().filter(|value| value.is_finite())?;
            is_ours(series).then(|| (series.to_owned(), value))
        };
        Self(text.lines().filter_map(sample).collect())
    }

    /// Counts an audit record.
    pub fn count(&mut self, entry: &Entry<'_>, now: UnixSeconds) {
        // Create all series with 0 first: Prometheus sees no increase if a counter appears with 1.
        for event in Event::ALL {
            for stage in std::iter::once(None).chain(Stage::ALL.map(Some)) {
                self.add(series(event, stage), 0);
            }
        }
        let source = |wanted| u8::from(entry.source == wanted);
        self.add(series(entry.event, entry.outcome.err().map(|failure| failure.stage)), 1);
        self.add(EXCHANGES.to_owned(), source(Source::Google));
        self.add(SAVED.to_owned(), source(Source::Kept));
        if entry.source == Source::Google {
            self.0.insert(SECONDS.to_owned(), (entry.duration.as_secs_f64() * 1000.0).round() / 1000.0);
        }
        if entry.outcome.is_ok() {
            self.0.insert(LAST_SUCCESS.to_owned(), seconds(now));
        }
    }

    /// Sets the agent's state.
    pub fn set(&mut self, served: &Served) {
        self.0.retain(|series, _| !series.starts_with(INFO) && series != NEXT_EXPIRY);
        self.0.insert(JOBS.to_owned(), f64::from(u32::try_from(served.jobs).unwrap_or(u32::MAX)));
        self.0.extend(served.next_expiry.map(|expiry| (NEXT_EXPIRY.to_owned(), seconds(expiry))));
        self.0.insert(START.to_owned(), seconds(served.start));
        self.0.insert(format!("{INFO}{{version=\"{}\"}}", served.version), 1.0);
    }

    /// Formats the metrics.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (family, kind, help) in FAMILIES {
            let is_of = |series: &str| series.split('{').next() == Some(family);
            let mut samples = self.0.iter().filter(|(series, _)| is_of(series)).peekable();
            if samples.peek().is_some() {
                let _ = writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}");
            }
            for (series, value) in samples {
                let _ = writeln!(text, "{series} {value}");
            }
        }
        text
    }

    fn add(&mut self, series: String, count: u8) {
        *self.0.entry(series).or_default() += f64::from(count);
    }
}

/// Returns whether a series belongs to one of these metrics and has plain labels. Prometheus rejects a whole file because
/// of one malformed line, so label names follow its data model: `[a-zA-Z_][a-zA-Z0-9_]*`.
fn is_ours(series: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_name = |name: &str| name.starts_with(|c: char| !c.is_ascii_digit()) && name.chars().all(is_word);
    let is_value = |value: &str| value.chars().all(|c| is_word(c) || ".+~-".contains(c));
    let is_label = |label: &str| {
        let parts = label.split_once("=\"").and_then(|(name, value)| Some((name, value.strip_suffix('"')?)));
        parts.is_some_and(|(name, value)| is_name(name) && is_value(value))
    };
    let (name, labels) = series.split_once('{').map_or((series, None), |(name, labels)| (name, Some(labels)));
    let labels = labels.map(|labels| labels.strip_suffix('}').unwrap_or_default());
    FAMILIES.iter().any(|(family, ..)| *family == name) && labels.is_none_or(|labels| labels.split(',').all(is_label))
}

fn series(event: Event, failed: Option<Stage>) -> String {
    let family = match event {
        Event::Issuance => "gcp_wif_issuances_total",
        Event::Refresh => "gcp_wif_refreshes_total",
        Event::Request => "gcp_wif_requests_total",
    };
    let (outcome, stage) = failed.map_or(("issued", "none"), |stage| ("failed", stage.name()));
    format!("{family}{{outcome=\"{outcome}\",stage=\"{stage}\"}}")
}

/// An f64 represents seconds since the Unix epoch exactly up to 2^53.
#[allow(clippy::cast_precision_loss)]
fn seconds(at: UnixSeconds) -> f64 {
    at as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::report::Failure;
    use crate::words::google::Identity;
    use crate::words::names::JobId;

    fn entry<'a>(event: Event, source: Source, outcome: Result<UnixSeconds, &'a Failure>) -> Entry<'a> {
        let duration = Duration::from_millis(if source == Source::Google { 120 } else { 5 });
        let identity = &Identity::Federated;
        Entry { event, job: JobId(7), uid: 1000, identity, asked: None, source, outcome, duration }
    }

    fn value(metrics: &Metrics, series: &str) -> f64 {
        metrics.0[series]
    }

    #[test]
    fn audit_records_of_successive_processes_are_counted() {
        let failure = Failure::of_wait();
        let mut metrics = Metrics::default();
        for entry in [
            entry(Event::Issuance, Source::Google, Ok(100)),
            entry(Event::Issuance, Source::Kept, Ok(100)),
            entry(Event::Issuance, Source::Kept, Ok(100)),
            entry(Event::Refresh, Source::Google, Err(&failure)),
            entry(Event::Refresh, Source::None, Err(&failure)),
        ] {
            metrics.count(&entry, 50);
            // Each process reads the file of the one before.
            metrics = Metrics::parse(&metrics.to_text());
        }
        for (series, expected) in [
            ("gcp_wif_issuances_total{outcome=\"issued\",stage=\"none\"}", 3.0),
            ("gcp_wif_issuances_total{outcome=\"failed\",stage=\"token_exchange\"}", 0.0),
            ("gcp_wif_refreshes_total{outcome=\"failed\",stage=\"token_exchange\"}", 2.0),
            ("gcp_wif_requests_total{outcome=\"issued\",stage=\"none\"}", 0.0),
            (EXCHANGES, 2.0),
            (SAVED, 2.0),
            (SECONDS, 0.12),
            (LAST_SUCCESS, 50.0),
        ] {
            assert_eq!(value(&metrics, series), expected, "{series}");
        }
    }

    #[test]
    fn the_agents_state_replaces_the_earlier_one() {
        let mut metrics = Metrics::parse("gcp_wif_agent_info{version=\"0.0.1\"} 1\ngcp_wif_exchanges_total 7\n");
        let served = Served { jobs: 2, next_expiry: Some(1_700_000_000), start: 1_600_000_000, version: "0.2.0" };
        metrics.set(&served);
        let text = metrics.to_text();
        for line in [
            "# TYPE gcp_wif_jobs_served gauge",
            "gcp_wif_jobs_served 2",
            "gcp_wif_next_expiry_timestamp_seconds 1700000000",
            "gcp_wif_agent_info{version=\"0.2.0\"} 1",
            "gcp_wif_exchanges_total 7",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
        assert!(!text.contains("0.0.1"));
        metrics.set(&Served { jobs: 0, next_expiry: None, ..served });
        assert!(!metrics.to_text().contains(NEXT_EXPIRY));
    }

    #[test]
    fn invalid_lines_are_dropped() {
        let text =
            "gcp_wif_exchanges_total x\nother 3\ngcp_wif_exchanges_saved_total NaN\n\u{0}\ngcp_wif_jobs_served 1";
        assert_eq!(Metrics::parse(text).to_text().lines().last(), Some("gcp_wif_jobs_served 1"));
        assert_eq!(Metrics::parse(text).0.len(), 1);
    }

    #[test]
    fn what_prometheus_could_not_read_is_dropped() {
        for series in [
            "{1version=\"0.2.0\"}",
            "{ver-sion=\"0.2.0\"}",
            "{",
            "{}",
            "{a}",
            "{a=\"1\"",
            "{a=\"\u{1b}\"}",
            "{a=\"1\" }",
            "{a=\"\"\"}",
            "{=\"1\"}",
            "{a=\"1\",}",
        ] {
            assert_eq!(Metrics::parse(&format!("gcp_wif_agent_info{series} 1\n")), Metrics::default(), "{series}");
        }
        assert_eq!(Metrics::parse("gcp_wif_agent_info{version=\"0.2.0-rc.1+x\"} 1\n").0.len(), 1);
    }
}
