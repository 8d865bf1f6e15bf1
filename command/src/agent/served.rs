//! The credentials that a port serves: one identity of one job.
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
use gcp_wif_core::words::time::{Moment, UnixSeconds};
use subtle::ConstantTimeEq;

/// The number of other tokens that a port remembers.
const OTHERS: usize = 8;

/// The current credentials of a port.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// The facts of the job. Only its user and root get answers.
    pub(crate) facts: JobFacts,
    /// The run of the job.
    pub(crate) run: RunId,
    /// The job's grant.
    pub(crate) grant: Grant,
    /// The data that the metadata endpoint returns besides tokens.
    pub(crate) metadata: Metadata,
    /// The job's handle.
    pub(crate) handle: Secret,
    /// The access token.
    pub(crate) token: Token,
    /// The latest other tokens that clients have got at this port. A client can ask about the one that it has.
    pub(crate) others: Arc<Vec<Token>>,
}

impl Served {
    /// Replaces the credentials, and remembers the old access token.
    pub(crate) fn replace(&mut self, new: Self) {
        let old = std::mem::replace(self, new);
        self.others = old.others;
        if old.token.issued_at != self.token.issued_at {
            self.remember(old.token);
        }
    }

    /// Remembers a token that a client has got at this port.
    pub(crate) fn remember(&mut self, token: Token) {
        if !self.others.contains(&token) {
            let others = Arc::make_mut(&mut self.others);
            others.truncate(OTHERS - 1);
            others.insert(0, token);
        }
    }

    /// Returns the token that a client has got at this port, if it is unexpired.
    pub(crate) fn token(&self, given: &Secret, now: Moment) -> Option<&Token> {
        let mut tokens = [&self.token].into_iter().chain(&*self.others);
        tokens.find(|token| same(given, token.secret())).filter(|token| token.left_of_job(now) > 0)
    }

    /// Returns whether a client has got this unexpired token at this port.
    pub(crate) fn knows(&self, given: &Secret, now: Moment) -> bool {
        self.token(given, now).is_some()
    }

    /// Returns the job's access token, if it is unexpired.
    ///
    /// # Errors
    /// The failure that there is no valid token. The agent's refresh has logged the reason.
    pub(crate) fn own(&self, now: Moment) -> Result<Token, Failure> {
        if left(&self.token, now) > 0 { Ok(self.token.clone()) } else { Err(Failure::of_no_token()) }
    }

    /// Returns the job ID.
    pub(crate) fn job(&self) -> JobId {
        self.facts.job
    }

    /// Returns the ID of the job's user.
    pub(crate) fn uid(&self) -> u32 {
        self.facts.uid
    }

    /// Returns the description of the token for a refresh.
    pub(crate) fn due(&self) -> Due {
        let identity = self.grant.identity().clone();
        Due { job: self.job(), run: self.run, identity, issued_at: self.token.issued_at }
    }

    /// Returns the port and the credentials of one identity in a record, or `None` if it has no port.
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

/// Returns the remaining life of a token in whole seconds, rounded down, because the clock has no fractions of a
/// second.
pub(crate) fn left(token: &Token, now: Moment) -> i64 {
    token.left_of_job(now).saturating_sub(1)
}

/// Returns the expiry of a token by the current clock, which may have been set since the token was issued.
pub(crate) fn expiry(token: &Token, now: Moment) -> UnixSeconds {
    now.unix.saturating_add(token.left_of_job(now))
}

/// Compares two secrets in constant time.
pub(crate) fn same(given: &Secret, secret: &Secret) -> bool {
    given.expose().as_bytes().ct_eq(secret.expose().as_bytes()).into()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use super::*;
    use gcp_wif_core::exchange::AccessToken;
    use gcp_wif_core::testing;

    static RUN: LazyLock<RunId> = LazyLock::new(RunId::new);

    /// Returns a moment of a machine that was booted at time 0 and whose clock has not been set since.
    pub(crate) fn moment(unix: UnixSeconds) -> Moment {
        Moment { unix, since_boot: unix }
    }

    /// Builds a token.
    pub(crate) fn token_of(text: &str, issued_at: UnixSeconds, expires_at: UnixSeconds) -> Token {
        Token::new(AccessToken { token: Secret::new(text.to_owned()), expires_at }, moment(issued_at))
    }

    /// Builds credentials whose token has a little more than 600 seconds left at time 1000.
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

    #[test]
    fn a_clock_that_was_set_changes_nothing_of_what_clients_are_told() {
        let served = served();
        for set in [-7200, 0, 7200] {
            let now = Moment { unix: 1000 + set, since_boot: 1000 };
            let token = served.own(now).unwrap();
            assert_eq!((left(&token, now), expiry(&token, now)), (600, now.unix + 601), "{set}");
            assert!(served.knows(token.secret(), now), "{set}");
            let late = Moment { unix: 1600 + set, since_boot: 1600 };
            assert!(served.own(late).is_err(), "{set}");
        }
    }
}
