//! What root keeps on a node so that all jobs of a user with the same grant share an access token: the token, and the
//! last failure.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::plan::record::RunId;
use crate::plan::report::Failure;
use crate::tokens::{Key, Token};
use crate::words::secret::Secret;
use crate::words::time::Moment;

/// A failure holds for this many seconds for everybody with the same key: the step that follows the prolog, and two
/// hundred jobs at once, do not ask Google again for what it just refused.
const FAILURE_HOLDS: i64 = 10;

/// What is kept for a key. A field that is missing is none, and one that is unknown is another release's.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    key: Key,
    #[serde(default)]
    token: Option<KeptToken>,
    #[serde(default)]
    failure: Option<KeptFailure>,
}

/// A token, and for whom Google was asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptToken {
    /// How the identity is named to the job: the email, or the federated principal's subject.
    pub name: String,
    /// The access token.
    pub token: Token,
    /// For which run of a job Google was asked.
    pub asked_by: RunId,
}

/// A failure, and for whom Google was asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptFailure {
    /// What failed.
    pub failure: Failure,
    /// When.
    at: Moment,
    /// For which run of a job Google was asked.
    pub asked_by: RunId,
}

impl Kept {
    /// Nothing is kept for a key.
    pub fn nothing(key: Key) -> Self {
        Self { key, token: None, failure: None }
    }

    /// Reads what is kept for a key. What cannot be read, or is another key's, counts as nothing.
    pub fn parse(text: Option<&[u8]>, key: &Key) -> Self {
        let kept = text.and_then(|text| serde_json::from_slice::<Self>(text).ok());
        kept.filter(|kept| kept.key == *key).unwrap_or_else(|| Self::nothing(key.clone()))
    }

    /// Its text. It holds a token.
    pub fn to_text(&self) -> Secret {
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }

    /// The token, if it will do.
    pub fn token(&self, will_do: impl Fn(&Token) -> bool) -> Option<&KeptToken> {
        self.token.as_ref().filter(|kept| will_do(&kept.token))
    }

    /// The failure, if it holds.
    pub fn failure(&self, now: Moment) -> Option<&KeptFailure> {
        let age = |failure: &KeptFailure| now.since_boot.saturating_sub(failure.at.since_boot);
        self.failure.as_ref().filter(|failure| (0..FAILURE_HOLDS).contains(&age(failure)))
    }

    /// Keeps a token. A failure before it is over.
    pub fn keep(&mut self, token: KeptToken) {
        (self.token, self.failure) = (Some(token), None);
    }

    /// Keeps a failure that happened just now. The token before it may do for somebody else.
    pub fn keep_failure(&mut self, failure: Failure, now: Moment, asked_by: RunId) {
        self.failure = Some(KeptFailure { failure, at: now, asked_by });
    }

    /// Whether nobody can use any of it. A file that cannot be read is of no use.
    pub fn is_useless(text: Option<&[u8]>, now: Moment) -> bool {
        let kept = text.and_then(|text| serde_json::from_slice::<Self>(text).ok());
        kept.is_none_or(|kept| kept.token(|token| token.lives(now)).is_none() && kept.failure(now).is_none())
    }
}
