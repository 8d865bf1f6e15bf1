//! Where it is told what became of a token: in the log, in the audit log, in the metrics.
#![forbid(unsafe_code)]

use crate::job::node::Log;
use crate::plan::audit::Entry;
use crate::plan::metrics::{Metrics, Served};
use crate::policy::config::Audit;
use crate::words::json::to_line;
use crate::words::time::UnixSeconds;
use crate::world::fs::RuntimeDirectory;

/// Tells of a token. What cannot be written costs no job its credentials.
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

/// Tells what the agent serves.
pub fn tell_served(runtime: &RuntimeDirectory, served: &Served) {
    let _ = runtime.update_metrics(|text| {
        let mut metrics = Metrics::parse(text);
        metrics.set(served);
        metrics.to_text()
    });
}
