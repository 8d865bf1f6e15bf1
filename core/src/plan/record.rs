//! What root remembers of a job on this node, from the prolog to the epilog.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::exchange::AccessToken;
use crate::plan::report::Failure;
use crate::policy::facts::JobFacts;
use crate::words::names::Identity;
use crate::words::secret::{Secret, exposed};
use crate::words::time::UnixSeconds;

/// A failure is good for this many seconds: the step that follows the prolog, and five hundred steps at once, do
/// not ask Google again for what it just refused.
const FAILURE_HOLDS: UnixSeconds = 10;
/// A token is handed to a step only with at least this many seconds of life, or half of its own.
const MARGIN: UnixSeconds = 300;

/// The record.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobRecord {
    /// What slurmd says of the job.
    pub facts: JobFacts,
    /// The slurmd and the boot that started it.
    pub started_by: Generation,
    /// What was issued to it. The first identity's files are in the job's directory itself.
    pub issued: Vec<Issued>,
    /// Ports of what is about to be issued.
    #[serde(default)]
    pub reserved: Vec<u16>,
    /// The process that the prolog left to exchange, while it works.
    pub worker: Option<ProcessId>,
    /// Whether the user was told that plugstack.conf has pyxis before this plugin.
    pub told_order: bool,
    /// The last failure for an identity.
    failures: BTreeMap<String, FailureAt>,
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

/// Credentials of one identity, as issued.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Issued {
    /// Whose they are.
    pub identity: Identity,
    /// How the identity is named to the job: the email, or the federated principal's subject.
    pub name: String,
    #[serde(with = "exposed")]
    token: Secret,
    /// When the token came.
    pub issued_at: UnixSeconds,
    /// When it ends.
    pub expires_at: UnixSeconds,
    /// Where the agent serves it, under agent delivery.
    pub endpoint: Option<Endpoint>,
}

/// An endpoint of the agent's, for one identity of one job. It stays the same for as long as the job lives.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// What the job has in the place of a subject token.
    #[serde(with = "exposed")]
    pub handle: Secret,
}

#[derive(Debug, Serialize, Deserialize)]
struct FailureAt {
    at: UnixSeconds,
    failure: Failure,
}

impl Issued {
    /// A token that came just now.
    pub fn new(identity: Identity, name: String, token: AccessToken, now: UnixSeconds) -> Self {
        Self { identity, name, token: token.token, issued_at: now, expires_at: token.expires_at, endpoint: None }
    }

    /// The access token.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// Whether a step that starts now can use it.
    pub fn is_fresh(&self, now: UnixSeconds) -> bool {
        let lifetime = self.expires_at.saturating_sub(self.issued_at);
        self.expires_at.saturating_sub(now) >= MARGIN.min(lifetime / 2).max(1)
    }
}

impl JobRecord {
    /// A new job's record.
    pub fn new(facts: JobFacts, started_by: Generation) -> Self {
        Self {
            facts,
            started_by,
            issued: Vec::new(),
            reserved: Vec::new(),
            worker: None,
            told_order: false,
            failures: BTreeMap::new(),
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
        self.issued.iter().find(|issued| issued.identity == *identity)
    }

    /// Whether an identity's files are in the job's directory itself, now or once it is issued.
    pub fn is_first(&self, identity: &Identity) -> bool {
        self.issued.first().is_none_or(|first| first.identity == *identity)
    }

    /// The ports that are this job's.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        let issued = self.issued.iter().filter_map(|issued| Some(issued.endpoint.as_ref()?.port));
        issued.chain(self.reserved.iter().copied())
    }

    /// Remembers what was issued, in place of what was before.
    pub fn remember(&mut self, issued: Issued) {
        self.reserved.clear();
        self.failures.remove(&issued.identity.to_string());
        match self.issued.iter_mut().find(|old| old.identity == issued.identity) {
            Some(old) => *old = issued,
            None => self.issued.push(issued),
        }
    }

    /// Remembers a failure.
    pub fn remember_failure(&mut self, identity: &Identity, failure: Failure, at: UnixSeconds) {
        self.failures.insert(identity.to_string(), FailureAt { at, failure });
    }

    /// A failure for an identity that is so recent that it holds.
    pub fn recent_failure(&self, identity: &Identity, now: UnixSeconds) -> Option<&Failure> {
        let failed = self.failures.get(&identity.to_string())?;
        (0..FAILURE_HOLDS).contains(&now.saturating_sub(failed.at)).then_some(&failed.failure)
    }

    /// Whether no token in it is alive.
    pub fn is_spent(&self, now: UnixSeconds) -> bool {
        self.issued.iter().all(|issued| issued.expires_at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_fresh_until_five_minutes_or_half_its_life_are_left() {
        let issued = |lifetime: UnixSeconds| {
            let token = AccessToken { token: Secret::new("t".to_owned()), expires_at: 1000 + lifetime };
            Issued::new(Identity::Federated, String::new(), token, 1000)
        };
        assert!(issued(3600).is_fresh(1000 + 3300));
        assert!(!issued(3600).is_fresh(1000 + 3301));
        assert!(issued(10).is_fresh(1005));
        assert!(!issued(10).is_fresh(1006));
        assert!(!issued(0).is_fresh(1000));
    }

    #[test]
    fn a_record_survives_its_text() {
        let facts = JobFacts {
            job: crate::words::names::JobId(1),
            uid: 2,
            gid: 3,
            user: None,
            groups: Vec::new(),
            placement: None,
        };
        let mut record =
            JobRecord::new(facts, Generation { boot: "b".to_owned(), slurmd: ProcessId { pid: 1, start: 2 } });
        let token = AccessToken { token: Secret::new("secret".to_owned()), expires_at: 9 };
        record.remember(Issued::new(Identity::Federated, "subject".to_owned(), token, 5));
        let read = JobRecord::parse(record.to_text().expose().as_bytes()).unwrap();
        assert_eq!(
            read.issued_for(&Identity::Federated).map(|i| i.token().expose().to_owned()),
            Some("secret".to_owned())
        );
        assert!(JobRecord::parse(b"{").is_none());
        assert!(!format!("{record:?}").contains("secret"));
    }
}
