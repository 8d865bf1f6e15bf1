//! New tokens at half of the old one's life.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::time::Duration;

use super::journal::Journal;
use crate::config::LogLevel;
use crate::exchange::Instant;
use crate::fs::RuntimeDirectory;
use crate::lifecycle::{Host, Issuance, Node, Site};
use crate::names::{Identity, JobId};
use crate::plan::Change;
use crate::record::JobRecord;
use crate::report::Failure;
use crate::request::Options;

/// How long a refresh waits for a step or the epilog that works on the same job.
const LOCK: Duration = Duration::from_secs(5);

/// When a token is due: at half of its life, up to a tenth earlier by `jitter`, so that the jobs of a thousand nodes
/// that began together do not come back together. Of a life of more than twelve minutes that leaves more than six.
pub(crate) fn due(issued_at: Instant, expires_at: Instant, jitter: f64) -> Instant {
    let life = expires_at.saturating_sub(issued_at);
    let earlier = (life as f64 * 0.1 * jitter) as Instant;
    issued_at.saturating_add(life / 2).saturating_sub(earlier)
}

/// [`refresh`], with a line in the journal. Whether it succeeded.
pub(super) fn refresh_and_tell(
    node: &Node<'_>,
    journal: &Journal,
    job: JobId,
    identity: &Identity,
    issued_at: Instant,
) -> bool {
    let log = Log::default();
    let result = refresh(node, &log, job, identity, issued_at);
    let level = if result.is_ok() { LogLevel::Info } else { LogLevel::Error };
    let lines = log.0.take();
    if let (true, Err(failure)) = (lines.is_empty(), &result) {
        journal.write(level, format_args!("{failure} (job {job})"));
    }
    for line in lines {
        journal.write(level, line);
    }
    result.is_ok()
}

/// Renews what was issued to one identity of a job. A token that somebody else renewed meanwhile is left alone.
///
/// # Errors
/// The failure, which is in the job's status file as well.
pub(crate) fn refresh(
    node: &Node<'_>,
    host: &dyn Host,
    job: JobId,
    identity: &Identity,
    issued_at: Instant,
) -> Result<(), Failure> {
    let site = Site::load(node.config_path)?;
    let runtime = RuntimeDirectory::open(&site.config.runtime_dir)?;
    let lock = runtime.lock(job, LOCK)?;
    let Some(record) = runtime.read_record(job, &lock)?.as_deref().and_then(JobRecord::parse) else {
        // The job is over, and taking its lock has made its directory again.
        runtime.remove_record(job)?;
        return Ok(());
    };
    if record.issued_for(identity).is_none_or(|issued| issued.issued_at != issued_at) {
        return Ok(());
    }
    let budget = site.config.timeout();
    let mut issuance = Issuance { node, host, site: &site, runtime: &runtime, lock: &lock, record, budget };
    issuance.renew(identity).map(drop)
}

/// The agent has a log and no job's environment. How much its lines matter is known when the work is done.
#[derive(Default)]
struct Log(RefCell<Vec<String>>);

impl Host for Log {
    fn options(&self) -> Options {
        Options::default()
    }

    fn inherited_options(&self) -> Options {
        Options::default()
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn change(&self, _: &Change) {}

    fn environment(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn log(&self, line: &str) {
        self.0.borrow_mut().push(line.to_owned());
    }

    fn pyxis_is_earlier(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_due_at_half_of_its_life_and_never_later_than_six_minutes_before_its_end() {
        assert_eq!(due(0, 3600, 0.0), 1800);
        assert_eq!(due(0, 3600, 1.0), 1440);
        assert_eq!(due(0, 800, 0.0), 400);
        assert_eq!(due(0, 722, 0.0), 361);
        assert_eq!(due(100, 110, 0.0), 105);
        assert_eq!(due(0, 43_200, 0.5), 19_440);
    }
}
