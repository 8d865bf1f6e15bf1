//! New tokens at half of the old one's life.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::job::issuance::Issuance;
use crate::job::lifecycle::{Host, Node, Site};
use crate::plan::record::JobRecord;
use crate::plan::report::Failure;
use crate::words::names::{Identity, JobId};
use crate::words::time::UnixSeconds;
use crate::world::fs::RuntimeDirectory;

/// How long a refresh waits for a step or the epilog that works on the same job.
const LOCK: Duration = Duration::from_secs(5);

/// When a token is due: at half of its life, up to a tenth earlier by `jitter`, so that the jobs of a thousand nodes
/// that began together do not come back together. Of a life of more than twelve minutes that leaves more than six.
pub fn due(issued_at: UnixSeconds, expires_at: UnixSeconds, jitter: f64) -> UnixSeconds {
    let life = expires_at.saturating_sub(issued_at);
    let earlier = (life as f64 * 0.1 * jitter) as UnixSeconds;
    issued_at.saturating_add(life / 2).saturating_sub(earlier)
}

/// Renews what was issued to one identity of a job. A token that somebody else renewed meanwhile is left alone.
///
/// # Errors
/// The failure, which is in the job's status file as well.
pub fn refresh(
    node: &Node<'_>,
    host: &dyn Host,
    job: JobId,
    identity: &Identity,
    issued_at: UnixSeconds,
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
