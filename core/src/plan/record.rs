//! The record: root's state of a job on a node, from prolog to epilog.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::plan::enroot::source::Size;
use crate::policy::facts::JobFacts;
use crate::policy::grant::Grant;
use crate::policy::request::Options;
use crate::policy::rules::Denial;
use crate::policy::site::Site;
use crate::tokens::Token;
use crate::words::google::{Identity, RegistryHost, ServiceAccountEmail};
use crate::words::secret::{Secret, exposed};
use crate::words::time::UnixSeconds;
use crate::world::fs::{Owner, Place};

/// The record of a job.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobRecord {
    /// The facts from slurmd.
    pub facts: JobFacts,
    /// The run of the job on this node. A requeued job is another run and never gets results of an earlier one.
    pub run: RunId,
    /// The options of the job's submission, as the prolog saw them. If Slurm runs the prolog only with the first step
    /// (without `PrologFlags=Alloc`), they include that step's options until the step removes them.
    pub options: Options,
    /// Whether that step has removed its options.
    pub options_are_jobs: bool,
    /// The slurmd process and the boot that started the job.
    pub started_by: Generation,
    /// The issued credentials. The files of the first identity are in the job's directory itself.
    pub issued: Vec<Issued>,
    /// The worker that the prolog started for the exchange, while it runs.
    pub worker: Option<ProcessId>,
    /// A slurmstepd of the job that a sweep has seen.
    pub seen: Option<ProcessId>,
    /// Whether the user has been warned that plugstack.conf names pyxis before this plugin.
    pub told_order: bool,
}

/// A slurmd process and the boot that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot: String,
    /// The process.
    pub slurmd: ProcessId,
}

/// A process. The start time distinguishes it from later processes with the same ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process ID.
    pub pid: u32,
    /// The start time, in clock ticks since boot.
    pub start: u64,
}

/// A run of a job on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(u64);

impl RunId {
    /// Creates a random run ID.
    pub fn new() -> Self {
        let mut bytes = [0; 8];
        // Without random bytes all runs have the same ID, which is acceptable.
        let _ = getrandom::getrandom(&mut bytes);
        Self(u64::from_ne_bytes(bytes))
    }
}

impl Default for RunId {
    fn default() -> Self {
        Self::new()
    }
}

/// The issued credentials of one identity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Issued {
    /// The grant, which does not change while the job runs.
    pub grant: Grant,
    /// The place of its files.
    pub place: Place,
    /// The name of the identity in the job: the email, or the federated principal's subject.
    pub name: String,
    /// The access token.
    pub token: Token,
    /// The port where the agent serves it, with agent delivery.
    pub port: Option<Port>,
    /// The job's credential configuration, from when the identity was first issued.
    pub credentials: String,
    /// The data that the metadata endpoint returns.
    pub metadata: Metadata,
    /// Whether all files of the job contain this token. If not, a process was killed or a write failed, and the next
    /// step or the agent publishes the files again.
    pub is_published: bool,
}

/// The agent's port for one identity of a job. It stays the same while the job runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    /// The port number on 127.0.0.1.
    pub number: u16,
    /// The handle that the job has in place of the subject token.
    #[serde(with = "exposed")]
    pub handle: Secret,
}

/// The data that the metadata endpoint returns for an identity, besides tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The identity's email, or the pool's ID for a federated principal, which has no email.
    pub email: String,
    /// The job's project: the site's, or else the one in the identity's email.
    pub project: Option<String>,
    /// The project number of the pool.
    pub project_number: String,
    /// The universe domain.
    pub universe_domain: String,
}

impl Metadata {
    /// Derives the data from the site's configuration.
    pub fn new(site: &Site, identity: &Identity) -> Self {
        let (audience, service_account) = (&site.configuration.audience, identity.service_account());
        Self {
            email: service_account.map_or_else(|| audience.pool().to_owned(), ToString::to_string),
            project: site.config.project.clone().or_else(|| service_account?.project()),
            project_number: audience.project_number().to_owned(),
            universe_domain: site.configuration.universe_domain.clone(),
        }
    }
}

/// The user's part of a step's enroot configuration. Only root can read it; `.credentials` is rendered from it with
/// each new token.
#[derive(Debug, Serialize, Deserialize)]
pub struct StepPart {
    /// The identity whose token is added.
    pub identity: Identity,
    /// The user's `.credentials`.
    #[serde(with = "exposed")]
    pub credentials: Secret,
    /// The registries that get the token.
    pub hosts: Vec<RegistryHost>,
    /// The size of the copy of the user's configuration.
    #[serde(default)]
    pub size: Size,
}

impl StepPart {
    /// Parses a part. Returns `None` if it is invalid.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

impl Issued {
    /// Returns the identity of the credentials.
    pub fn identity(&self) -> &Identity {
        self.grant.identity()
    }
}

impl JobRecord {
    /// Creates the record of a new job.
    pub fn new(facts: JobFacts, options: Options, started_by: Generation) -> Self {
        Self {
            facts,
            run: RunId::new(),
            options,
            options_are_jobs: false,
            started_by,
            issued: Vec::new(),
            worker: None,
            seen: None,
            told_order: false,
        }
    }

    /// Parses a record. Returns `None` if it is incomplete or from an incompatible release.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// Returns the record's text, which contains tokens.
    pub fn to_text(&self) -> Secret {
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }

    /// Returns the credentials that were issued for an identity.
    pub fn issued_for(&self, identity: &Identity) -> Option<&Issued> {
        self.issued.iter().find(|issued| issued.identity() == identity)
    }

    /// Returns the place for the files of a new identity. The first identity uses the job's directory itself.
    pub fn new_place(&self, identity: &Identity) -> Place {
        let below = identity.service_account().filter(|_| !self.is_first(identity)).cloned();
        Place { job: self.facts.job, below }
    }

    /// Returns the grant for a step that requests `asked`. If the job already has a grant for the same request, and the
    /// rules still allow it, returns that one: a new default of the site applies to new jobs only.
    ///
    /// # Errors
    /// The denial.
    pub fn grant_for(&self, site: &Site, asked: Option<&ServiceAccountEmail>) -> Result<Grant, Denial> {
        match self.issued.iter().map(|issued| &issued.grant).find(|grant| grant.asked() == asked) {
            Some(grant) => grant.still_holds(site, &self.facts).map(|()| grant.clone()),
            None => Grant::decide(site, &self.facts, asked),
        }
    }

    /// Returns the job's user as the owner of files.
    pub fn owner(&self) -> Owner {
        Owner { uid: self.facts.uid, gid: self.facts.gid }
    }

    fn is_first(&self, identity: &Identity) -> bool {
        self.issued.first().is_none_or(|first| first.identity() == identity)
    }

    /// Returns the job's ports.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.issued.iter().filter_map(|issued| Some(issued.port.as_ref()?.number))
    }

    /// Stores issued credentials and replaces earlier ones of the same identity.
    pub fn remember(&mut self, issued: Issued) {
        match self.issued.iter_mut().find(|old| old.identity() == issued.identity()) {
            Some(old) => *old = issued,
            None => self.issued.push(issued),
        }
    }

    /// Returns whether all tokens in the record have expired.
    pub fn is_spent(&self, now: UnixSeconds) -> bool {
        self.issued.iter().all(|issued| issued.token.expires_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_record_survives_serialization_and_debug_hides_its_tokens() {
        let mut record = testing::record();
        record.remember(testing::issued("ya29.t", 9));
        let read = JobRecord::parse(record.to_text().expose().as_bytes()).unwrap();
        assert_eq!(read.run, record.run);
        let issued = read.issued.first().unwrap();
        assert_eq!((issued.token.secret().expose(), issued.token.expires_at), ("ya29.t", 9));
        assert!(JobRecord::parse(b"{").is_none());
        assert!(!format!("{record:?}").contains("ya29"));
    }
}
