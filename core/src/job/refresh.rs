//! Refreshes the tokens of running jobs before they expire. A refresh repeats the job's grant and decides nothing anew.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use crate::exchange::Purpose;
use crate::job::issuance::{Issuance, TellEnded};
use crate::job::node::{Log, Node, TokenRequest};
use crate::job::obtain::{Answer, Looked, Need};
use crate::plan::audit::Event;
use crate::plan::record::{JobRecord, RunId};
use crate::plan::report::Failure;
use crate::policy::config::Audit;
use crate::policy::facts::JobFacts;
use crate::policy::grant::Grant;
use crate::policy::site::Site;
use crate::words::google::Identity;
use crate::words::names::JobId;
use crate::words::time::UnixSeconds;
use crate::world::fs::RuntimeDirectory;

/// A token that is due for a refresh.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Due {
    /// The job.
    pub job: JobId,
    /// The run of the job.
    pub run: RunId,
    /// The identity.
    pub identity: Identity,
    /// When the token that is due was issued.
    pub issued_at: UnixSeconds,
}

/// The result of a refresh that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refreshed {
    /// The job has a new token.
    Done,
    /// The job is over, or another process has already replaced the token.
    NotDue,
    /// Another process is performing the exchange.
    Busy,
}

/// Obtains a new token for one identity of a job in a runtime directory.
///
/// # Errors
/// The failure, which is also in the job's status file and in the log.
pub fn refresh(node: &Node<'_>, log: &dyn Log, runtime_dir: &Path, due: &Due) -> Result<Refreshed, Failure> {
    let Some(runtime) = RuntimeDirectory::existing(runtime_dir)? else { return Ok(Refreshed::NotDue) };
    let _told = TellEnded(log, &runtime);
    let record = runtime.peek_record(due.job).as_deref().and_then(JobRecord::parse);
    let Some(record) = record.filter(|record| record.run == due.run) else { return Ok(Refreshed::NotDue) };
    let Some(issued) = record.issued_for(&due.identity) else { return Ok(Refreshed::NotDue) };
    if issued.token.issued_at != due.issued_at {
        return Ok(Refreshed::NotDue);
    }
    let (grant, facts) = (&issued.grant, &record.facts);
    let site = may_refresh(node, grant, facts);
    let audit = site.as_ref().map_or(Audit::Log, |site| site.config.audit);
    let issuance = Issuance { node, log, runtime: &runtime, facts, run: record.run, event: Event::Refresh, audit };
    let begun = issuance.begin(&record, grant);
    let answer = match site {
        Ok(site) => {
            let key = issuance.key(&site, grant);
            let obtain = issuance.at(&key, Need::Replace(&issued.token));
            // Do not wait, because the agent tries again soon.
            match obtain.look(Duration::ZERO) {
                Ok(Looked::Busy) => return Ok(Refreshed::Busy),
                Ok(Looked::Known(answer)) => answer,
                Ok(Looked::Ask(lock)) => {
                    let request = TokenRequest { site: &site, grant, purpose: Purpose::AccessToken, facts };
                    obtain.ask(lock, site.config.timeout(), |limits| node.exchanger.exchange(request, limits))
                }
                Err(error) => Answer::of_nobody(error.into()),
            }
        }
        Err(failure) => Answer::of_nobody(failure),
    };
    issuance.take(None, grant, begun, answer).map(|_| Refreshed::Done)
}

/// Returns the current configurations, if the rules still allow the grant.
fn may_refresh(node: &Node<'_>, grant: &Grant, facts: &JobFacts) -> Result<Site, Failure> {
    let site = Site::load(node.config_path)?;
    grant.still_holds(&site, facts)?;
    Ok(site)
}

/// Publishes a job's files again if they are incomplete, because a hook or agent was killed, the disk was full, or the
/// user changed a file. Does nothing while another process holds the job's lock.
///
/// # Errors
/// When it cannot be written.
pub fn heal(node: &Node<'_>, log: &dyn Log, runtime: &RuntimeDirectory, record: &JobRecord) -> Result<(), Failure> {
    let _told = TellEnded(log, runtime);
    let (facts, run, event, audit) = (&record.facts, record.run, Event::Refresh, Audit::Log);
    Issuance { node, log, runtime, facts, run, event, audit }.heal_if_idle(record)
}
