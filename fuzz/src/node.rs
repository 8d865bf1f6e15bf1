//! The fuzz targets for files that the node writes and reads again: records, kept tokens, metrics.

use std::time::Duration;

use gcp_wif_core::plan::audit::{Entry, Event, Source};
use gcp_wif_core::plan::kept::{Kept, KeptToken};
use gcp_wif_core::plan::metrics::{FAMILIES, Metrics, Served};
use gcp_wif_core::plan::record::{JobRecord, RunId, StepPart};
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::tokens::Key;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::time::Moment;

use crate::fixtures::{IMPERSONATES, MOMENT, NOW, facts, grant, record as record_of, token};
use crate::line;

/// Checks the record of a job, and the part of a step.
pub(crate) fn record(bytes: &[u8]) {
    if let Some(record) = JobRecord::parse(bytes) {
        let text = record.to_text();
        let again = JobRecord::parse(text.expose().as_bytes()).unwrap();
        assert_eq!(again.to_text().expose(), text.expose());
        for issued in &record.issued {
            // The files must be below the job's directory.
            let below = issued.place.below.as_ref().map(|email| email.as_str());
            assert!(below.is_none_or(|name| !name.contains('/') && name.contains('@')), "{below:?}");
        }
        let _ = (record.is_spent(NOW), record.ports().count(), record.owner());
        let _ = record.grant_for(&IMPERSONATES, None).map_err(|denial| line::check_failure(&Failure::from(denial)));
        assert_eq!(record.new_place(&IMPERSONATES.default_identity()).job, record.facts.job);
    }
    if let Some(part) = StepPart::parse(bytes) {
        let text = serde_json::to_vec(&part).unwrap();
        assert_eq!(serde_json::to_vec(&StepPart::parse(&text).unwrap()).unwrap(), text);
        assert!(part.hosts.iter().all(|host| !host.as_str().contains([' ', '\n', '/'])));
    }
    assert!(JobRecord::parse(record_of(&IMPERSONATES).to_text().expose().as_bytes()).is_some());
}

/// Checks a kept token, which all jobs of a user with the same grant share.
pub(crate) fn kept_token(bytes: &[u8]) {
    let key = Key::new(facts().uid, &grant(&IMPERSONATES), &IMPERSONATES);
    let (now, asked_by) = (MOMENT, RunId::new());
    let mut kept = Kept::parse(Some(bytes), &key);
    let text = kept.to_text();
    assert_eq!(Kept::parse(Some(text.expose().as_bytes()), &key).to_text().expose(), text.expose());
    // A token that is kept for another key must be ignored.
    let other = key.for_id_token("https://a");
    assert!(Kept::parse(Some(text.expose().as_bytes()), &other).token(|_| true).is_none());
    let has_token = kept.token(|token| token.lives(now)).is_some();
    let has_failure = kept.failure(now).is_some();
    if has_token || has_failure {
        assert!(!Kept::is_useless(Some(bytes), now));
    }
    for moment in
        [now, Moment { unix: i64::MIN, since_boot: i64::MAX }, Moment { unix: i64::MAX, since_boot: i64::MIN }]
    {
        if let Some(kept) = kept.token(|_| true) {
            let due = kept.token.due(moment, 1.0);
            assert!(due <= moment.unix.max(kept.token.expires_at.max(kept.token.issued_at)), "{due}");
            let _ = (kept.token.is_fresh(moment), kept.token.can_be_handed_out(moment));
            assert!(!kept.token.can_be_handed_out(moment) || kept.token.lives(moment));
        }
        let _ = kept.failure(moment).map(|failed| failed.failure.to_string());
    }
    kept.keep_failure(Failure::of_wait(), now, asked_by);
    assert!(kept.failure(now).is_some());
    kept.keep(KeptToken { name: "a".to_owned(), token: token(), asked_by });
    assert!(kept.failure(now).is_none() && kept.token(|token| token.lives(now)).is_some());
}

/// Checks the metrics of a node. Each process reads the file and adds to the counters.
pub(crate) fn metrics(bytes: &[u8]) {
    let mut metrics = Metrics::parse(&String::from_utf8_lossy(bytes));
    let mut text = check_rendered(&metrics);
    let failure = Failure::of_wait();
    let identity = &IMPERSONATES.default_identity();
    for outcome in [Ok(NOW), Err(&failure)] {
        let (event, source, duration) = (Event::Issuance, Source::Google, Duration::from_millis(120));
        let before = count(&text);
        metrics.count(&Entry { event, job: JobId(7), uid: 1, identity, asked: None, source, outcome, duration }, NOW);
        metrics.set(&Served { jobs: 1, next_expiry: Some(NOW), start: NOW, version: "0.2.0" });
        text = check_rendered(&metrics);
        // The counter must increase by one, unless a float cannot represent the sum.
        assert!(count(&text) == before + 1.0 || before.abs() > 1e15, "{before}");
    }
}

/// Checks the text of the metrics, and returns it.
fn check_rendered(metrics: &Metrics) -> String {
    let text = metrics.to_text();
    check_exposition(&text);
    assert_eq!(Metrics::parse(&text), *metrics);
    text
}

fn count(text: &str) -> f64 {
    let value = text.lines().find_map(|line| line.strip_prefix("gcp_wif_exchanges_total "));
    value.map_or(0.0, |value| value.parse().unwrap())
}

/// Checks that a text follows Prometheus' exposition format, with samples `NAME{LABEL="VALUE",...} NUMBER`.
fn check_exposition(text: &str) {
    let mut seen = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with("# ")) {
        line::check(line, 600);
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().unwrap().is_finite() && seen.insert(series.to_owned()), "{line}");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(FAMILIES.iter().any(|(family, ..)| *family == name), "{line}");
        let labels = labels.strip_suffix('}').unwrap_or_else(|| panic!("{line}"));
        for label in labels.split(',').filter(|label| !label.is_empty()) {
            let (label, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
            let value = value.strip_suffix('"').unwrap_or_else(|| panic!("{line}"));
            // Label names in Prometheus' data model: [a-zA-Z_][a-zA-Z0-9_]*.
            assert!(label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
            assert!(label.starts_with(|c: char| !c.is_ascii_digit()), "{line}");
            assert!(!value.contains(['"', '\\', '\n', ' ']), "{line}");
        }
    }
}
