//! Writes audit records to the log and the audit log, and counts them in the metrics.
#![forbid(unsafe_code)]

use crate::job::node::Log;
use crate::plan::audit::Entry;
use crate::plan::metrics::{Metrics, Served};
use crate::policy::config::Audit;
use crate::words::json::to_line;
use crate::words::time::UnixSeconds;
use crate::world::fs::RuntimeDirectory;

/// Writes and counts an audit record. Ignores write errors, which must not cost a job its credentials.
pub(super) fn tell(log: &dyn Log, runtime: &RuntimeDirectory, audit: Audit, entry: &Entry<'_>, now: UnixSeconds) {
    log.log(&entry.line());
    if audit == Audit::Json {
        let _ = runtime.append_audit(&to_line(&entry.json(now)));
    }
    let _ = runtime.update_metrics(|text| {
        let mut metrics = Metrics::parse(text);
        metrics.count(entry, now);
        metrics.to_text()
    });
}

/// Writes the agent's state to the metrics.
pub fn tell_served(runtime: &RuntimeDirectory, served: &Served) {
    let _ = runtime.update_metrics(|text| {
        let mut metrics = Metrics::parse(text);
        metrics.set(served);
        metrics.to_text()
    });
}
