//! What root remembers of a job on this node, from the prolog to the epilog.
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

/// The record.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobRecord {
    /// What slurmd says of the job.
    pub facts: JobFacts,
    /// Which run of the job on this node it is. A requeued job is another run, to which results of an earlier one are
    /// never given.
    pub run: RunId,
    /// The options that the job was submitted with, as its prolog saw them. Where Slurm runs the prolog only with the
    /// first step (no `PrologFlags=Alloc`), that step's own are among them until it has taken them out.
    pub options: Options,
    /// Whether that step has done so.
    pub options_are_jobs: bool,
    /// The slurmd and the boot that started it.
    pub started_by: Generation,
    /// What was issued to it. The first identity's files are in the job's directory itself.
    pub issued: Vec<Issued>,
    /// The process that the prolog left to exchange, while it works.
    pub worker: Option<ProcessId>,
    /// A slurmstepd of the job's that a sweep has seen.
    pub seen: Option<ProcessId>,
    /// Whether the user was told that plugstack.conf has pyxis before this plugin.
    pub told_order: bool,
}

/// A slurmd process within a boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot: String,
    /// The process.
    pub slurmd: ProcessId,
}

/// A process, told from later ones of the same number by its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// Its start, in clock ticks after the boot.
    pub start: u64,
}

/// A run of a job on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(u64);

impl RunId {
    /// A new one.
    pub fn new() -> Self {
        let mut bytes = [0; 8];
        // Without randomness all runs are alike, which is no reason to fail.
        let _ = getrandom::getrandom(&mut bytes);
        Self(u64::from_ne_bytes(bytes))
    }
}

impl Default for RunId {
    fn default() -> Self {
        Self::new()
    }
}

/// Credentials of one identity, as issued.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Issued {
    /// What was granted, for as long as the job runs.
    pub grant: Grant,
    /// Where its files are.
    pub place: Place,
    /// How the identity is named to the job: the email, or the federated principal's subject.
    pub name: String,
    /// The access token.
    pub token: Token,
    /// Where the agent serves it, under agent delivery.
    pub port: Option<Port>,
    /// The job's credential configuration, as it was when the identity was issued first.
    pub credentials: String,
    /// What the metadata endpoint tells of it.
    pub metadata: Metadata,
    /// Whether every file of the job's holds this token. If not, a process was killed or met a full disk, and the next
    /// look publishes it again.
    pub is_published: bool,
}

/// A port of the agent's, for one identity of one job. It stays the same for as long as the job lives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Port {
    /// Its number on 127.0.0.1.
    pub number: u16,
    /// What the job has in the place of a subject token.
    #[serde(with = "exposed")]
    pub handle: Secret,
}

/// What the metadata endpoint tells of an identity, besides tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The identity's email. A federated principal has none; its pool's name stands in.
    pub email: String,
    /// The job's project: the site's, else the one that the identity's email has.
    pub project: Option<String>,
    /// The number of the pool's project.
    pub project_number: String,
    /// Google's universe.
    pub universe_domain: String,
}

impl Metadata {
    /// What the site's configuration says of it.
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

/// What of a step's enroot configuration is the user's: kept for root alone, and rendered anew with each token.
#[derive(Debug, Serialize, Deserialize)]
pub struct StepPart {
    /// The identity whose token goes into it.
    pub identity: Identity,
    /// The user's own `.credentials`.
    #[serde(with = "exposed")]
    pub credentials: Secret,
    /// The registries that get the token.
    pub hosts: Vec<RegistryHost>,
    /// What the copy of the user's configuration takes.
    #[serde(default)]
    pub size: Size,
}

impl StepPart {
    /// Reads a part; one that cannot be read counts as none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }
}

impl Issued {
    /// The identity that they are for.
    pub fn identity(&self) -> &Identity {
        self.grant.identity()
    }
}

impl JobRecord {
    /// A new job's record.
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

    /// Reads a record; one that cannot be read (a full disk, another version) counts as none.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The record's text. It holds tokens.
    pub fn to_text(&self) -> Secret {
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }

    /// What was issued for an identity.
    pub fn issued_for(&self, identity: &Identity) -> Option<&Issued> {
        self.issued.iter().find(|issued| issued.identity() == identity)
    }

    /// The place for the files of a new identity. The first one has the job's directory itself.
    pub fn new_place(&self, identity: &Identity) -> Place {
        let below = identity.service_account().filter(|_| !self.is_first(identity)).cloned();
        Place { job: self.facts.job, below }
    }

    /// The grant for a step that asks for `asked`. It is what the job was granted for the same question before, if that
    /// still holds: a new default of the site's is for new jobs.
    ///
    /// # Errors
    /// The denial.
    pub fn grant_for(&self, site: &Site, asked: Option<&ServiceAccountEmail>) -> Result<Grant, Denial> {
        match self.issued.iter().map(|issued| &issued.grant).find(|grant| grant.asked() == asked) {
            Some(grant) => grant.still_holds(site, &self.facts).map(|()| grant.clone()),
            None => Grant::decide(site, &self.facts, asked),
        }
    }

    /// The job's user, for files.
    pub fn owner(&self) -> Owner {
        Owner { uid: self.facts.uid, gid: self.facts.gid }
    }

    fn is_first(&self, identity: &Identity) -> bool {
        self.issued.first().is_none_or(|first| first.identity() == identity)
    }

    /// The ports that are this job's.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.issued.iter().filter_map(|issued| Some(issued.port.as_ref()?.number))
    }

    /// Remembers what was issued, in place of what was before.
    pub fn remember(&mut self, issued: Issued) {
        match self.issued.iter_mut().find(|old| old.identity() == issued.identity()) {
            Some(old) => *old = issued,
            None => self.issued.push(issued),
        }
    }

    /// Whether every token in it has expired.
    pub fn is_spent(&self, now: UnixSeconds) -> bool {
        self.issued.iter().all(|issued| issued.token.expires_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_record_survives_its_text() {
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
