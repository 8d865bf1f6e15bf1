//! The same credentials again, before they end: what was granted is repeated, never decided anew.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use crate::job::issuance::Issuance;
use crate::job::node::{Log, Node};
use crate::plan::record::{JobRecord, RunId};
use crate::plan::report::Failure;
use crate::policy::site::Site;
use crate::words::google::Identity;
use crate::words::names::JobId;
use crate::words::time::UnixSeconds;
use crate::world::fs::{FileProblem, RuntimeDirectory};

/// What is to be refreshed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// The job.
    pub job: JobId,
    /// Its run.
    pub run: RunId,
    /// The identity.
    pub identity: Identity,
    /// When the token came that is due.
    pub issued_at: UnixSeconds,
}

/// How a refresh ended that met no failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// There is a new token.
    Done,
    /// The job is over, or somebody else has got a new token for it.
    NotDue,
    /// Somebody else is getting one at this moment.
    Busy,
}

/// Gets a new token for one identity of a job, in the runtime directory where the job is.
///
/// # Errors
/// The failure, which is in the job's status file and in the log as well.
pub fn refresh(node: &Node<'_>, log: &dyn Log, runtime_dir: &Path, due: &Due) -> Result<Refreshed, Failure> {
    let Some(runtime) = RuntimeDirectory::existing(runtime_dir) else { return Ok(Refreshed::NotDue) };
    let record = runtime.peek_record(due.job).as_deref().and_then(JobRecord::parse);
    let Some(record) = record.filter(|record| record.run == due.run) else { return Ok(Refreshed::NotDue) };
    let Some(issued) = record.issued_for(&due.identity) else { return Ok(Refreshed::NotDue) };
    if issued.token.issued_at != due.issued_at {
        return Ok(Refreshed::NotDue);
    }
    let issuance = Issuance { node, log, runtime: &runtime, facts: &record.facts, run: record.run };
    // A step that comes meanwhile does not wait for this one: Google may hang, and the step has its own try. So the
    // right to the exchange is only looked at.
    match issuance.in_flight(&issued.grant, Duration::ZERO) {
        Err(error) if error.problem == FileProblem::Locked => return Ok(Refreshed::Busy),
        _ => {}
    }
    let exchange = || {
        let site = Site::load(node.config_path)?;
        issued.grant.still_holds(&site, &record.facts)?;
        node.exchanger.exchange(&site, &issued.grant, &record.facts, site.config.timeout())
    };
    issuance.issue_by(&issued.grant, None, exchange).map(|_| Refreshed::Done)
}

/// Publishes again what of a job is not whole: a hook or an agent was killed, the disk was full, or the user changed a
/// file of his own. Somebody who works on the job at this moment is not waited for.
///
/// # Errors
/// When it cannot be written.
pub fn heal(node: &Node<'_>, log: &dyn Log, runtime: &RuntimeDirectory, record: &JobRecord) -> Result<(), Failure> {
    Issuance { node, log, runtime, facts: &record.facts, run: record.run }.heal_if_idle(record)
}
