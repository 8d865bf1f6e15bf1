//! What one port serves: one identity of one job.
#![forbid(unsafe_code)]

use gcp_wif_core::job::refresh::Due;
use gcp_wif_core::plan::record::{Issued, JobRecord, Metadata, RunId};
use gcp_wif_core::policy::facts::JobFacts;
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::words::time::UnixSeconds;

/// The credentials of a port, as they are now.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// What slurmd says of the job. Its user and root are answered, and nobody else is.
    pub(crate) facts: JobFacts,
    /// The job's run.
    pub(crate) run: RunId,
    /// What the job was granted.
    pub(crate) grant: Grant,
    /// What the metadata endpoint tells besides tokens.
    pub(crate) metadata: Metadata,
    /// The job's handle.
    pub(crate) handle: Secret,
    /// The access token.
    pub(crate) token: Token,
    /// The token before this one: a client that has just got it may ask about it.
    pub(crate) earlier: Option<Token>,
}

impl Served {
    /// Serves this from now on.
    pub(crate) fn replace(&mut self, new: Self) {
        let old = std::mem::replace(self, new);
        let is_renewed = old.token.issued_at != self.token.issued_at;
        self.earlier = if is_renewed { Some(old.token) } else { old.earlier };
    }

    /// The job.
    pub(crate) fn job(&self) -> JobId {
        self.facts.job
    }

    /// The job's user.
    pub(crate) fn uid(&self) -> u32 {
        self.facts.uid
    }

    /// How many whole seconds of the token are certainly left: the clock tells no fractions of a second.
    pub(crate) fn left(&self, now: UnixSeconds) -> i64 {
        self.token.expires_at.saturating_sub(now).saturating_sub(1)
    }

    /// What a refresh is for.
    pub(crate) fn due(&self) -> Due {
        let identity = self.grant.identity().clone();
        Due { job: self.job(), run: self.run, identity, issued_at: self.token.issued_at }
    }

    /// What a record says of one identity, by its port; none if it has no port.
    pub(crate) fn of(record: &JobRecord, issued: &Issued) -> Option<(u16, Self)> {
        let port = issued.port.as_ref()?;
        let served = Self {
            facts: record.facts.clone(),
            run: record.run,
            grant: issued.grant.clone(),
            metadata: issued.metadata.clone(),
            handle: port.handle.clone(),
            token: issued.token.clone(),
            earlier: None,
        };
        Some((port.number, served))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use super::*;
    use gcp_wif_core::exchange::AccessToken;
    use gcp_wif_core::testing;
    use gcp_wif_core::words::time::Moment;

    static RUN: LazyLock<RunId> = LazyLock::new(RunId::new);

    /// A token with its life.
    pub(crate) fn token_of(text: &str, issued_at: UnixSeconds, expires_at: UnixSeconds) -> Token {
        Token::new(
            AccessToken { token: Secret::new(text.to_owned()), expires_at },
            Moment { unix: issued_at, since_boot: issued_at },
        )
    }

    /// A token that has a little more than 600 seconds left at 1000.
    pub(crate) fn served() -> Served {
        let issued = testing::issued("ya29.t", 1601);
        let project = Some("demo".to_owned());
        Served {
            facts: testing::facts(),
            run: *RUN,
            metadata: Metadata { project, project_number: "12".to_owned(), ..issued.metadata },
            grant: issued.grant,
            handle: Secret::new("handle".to_owned()),
            token: issued.token,
            earlier: None,
        }
    }
}
