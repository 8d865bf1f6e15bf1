//! What one port serves: one identity of one job.
#![forbid(unsafe_code)]

use std::sync::Arc;

use gcp_wif_core::job::refresh::Due;
use gcp_wif_core::plan::record::{Issued, JobRecord, Metadata, RunId};
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::facts::JobFacts;
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::words::time::UnixSeconds;
use subtle::ConstantTimeEq;

/// How many other tokens of clients a port remembers.
const OTHERS: usize = 8;

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
    /// Other tokens that clients have got here, the last ones: a client may ask about the one that it has.
    pub(crate) others: Arc<Vec<Token>>,
}

impl Served {
    /// Serves this from now on.
    pub(crate) fn replace(&mut self, new: Self) {
        let old = std::mem::replace(self, new);
        self.others = old.others;
        if old.token.issued_at != self.token.issued_at {
            self.remember(old.token);
        }
    }

    /// Remembers a token that a client has got here.
    pub(crate) fn remember(&mut self, token: Token) {
        if !self.others.contains(&token) {
            let others = Arc::make_mut(&mut self.others);
            others.truncate(OTHERS - 1);
            others.insert(0, token);
        }
    }

    /// The token that a client got here, while it lives.
    pub(crate) fn token(&self, given: &Secret, now: UnixSeconds) -> Option<&Token> {
        let mut tokens = [&self.token].into_iter().chain(&*self.others);
        tokens.find(|token| same(given, token.secret())).filter(|token| token.expires_at > now)
    }

    /// Whether a client got this token here.
    pub(crate) fn knows(&self, given: &Secret, now: UnixSeconds) -> bool {
        self.token(given, now).is_some()
    }

    /// The job's own token, as long as it lives.
    ///
    /// # Errors
    /// The failure, which the agent's refresh has logged.
    pub(crate) fn own(&self, now: UnixSeconds) -> Result<Token, Failure> {
        if left(&self.token, now) > 0 { Ok(self.token.clone()) } else { Err(Failure::of_no_token()) }
    }

    /// The job.
    pub(crate) fn job(&self) -> JobId {
        self.facts.job
    }

    /// The job's user.
    pub(crate) fn uid(&self) -> u32 {
        self.facts.uid
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
            others: Arc::default(),
        };
        Some((port.number, served))
    }
}

/// How many whole seconds of a token are certainly left: the clock tells no fractions of a second.
pub(crate) fn left(token: &Token, now: UnixSeconds) -> i64 {
    token.expires_at.saturating_sub(now).saturating_sub(1)
}

/// Compares in a time that does not tell where the first difference is.
pub(crate) fn same(given: &Secret, secret: &Secret) -> bool {
    given.expose().as_bytes().ct_eq(secret.expose().as_bytes()).into()
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
            others: Arc::default(),
        }
    }
}
