//! New tokens for running jobs, before the old ones end. A refresh repeats what was granted and decides nothing anew.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use crate::job::issuance::{Issuance, TellEnded};
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
    /// When the token that is due was issued.
    pub issued_at: UnixSeconds,
}

/// How a refresh without a failure ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// There is a new token.
    Done,
    /// The job is over, or another process has got a new token for it.
    NotDue,
    /// Another process is getting one at this moment.
    Busy,
}

/// Gets a new token for one identity of a job, in the runtime directory where the job is.
///
/// # Errors
/// The failure, which is in the job's status file and in the log as well.
pub fn refresh(node: &Node<'_>, log: &dyn Log, runtime_dir: &Path, due: &Due) -> Result<Refreshed, Failure> {
    let Some(runtime) = RuntimeDirectory::existing(runtime_dir) else { return Ok(Refreshed::NotDue) };
    let _told = TellEnded(log, &runtime);
    let record = runtime.peek_record(due.job).as_deref().and_then(JobRecord::parse);
    let Some(record) = record.filter(|record| record.run == due.run) else { return Ok(Refreshed::NotDue) };
    let Some(issued) = record.issued_for(&due.identity) else { return Ok(Refreshed::NotDue) };
    if issued.token.issued_at != due.issued_at {
        return Ok(Refreshed::NotDue);
    }
    let issuance = Issuance { node, log, runtime: &runtime, facts: &record.facts, run: record.run };
    // The right to the exchange is only tried and not kept: Google may hang, and a step that starts meanwhile must not
    // wait for that, but try by itself.
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

/// Publishes again what of a job is incomplete: a hook or an agent was killed, the disk was full, or the user changed a
/// file. Does nothing while another process works on the job.
///
/// # Errors
/// When it cannot be written.
pub fn heal(node: &Node<'_>, log: &dyn Log, runtime: &RuntimeDirectory, record: &JobRecord) -> Result<(), Failure> {
    let _told = TellEnded(log, runtime);
    Issuance { node, log, runtime, facts: &record.facts, run: record.run }.heal_if_idle(record)
}
