//! The content of a kept token's file: the token that a user's jobs with the same grant share, and the last failure.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::plan::record::RunId;
use crate::plan::report::Failure;
use crate::tokens::{Key, Token};
use crate::words::secret::Secret;
use crate::words::time::Moment;

/// For this many seconds, a failure holds for all jobs with the same key. The step that follows the prolog, or two
/// hundred jobs that start together, do not repeat a request that Google has just refused.
const FAILURE_HOLDS: i64 = 10;

/// The file's content. Missing fields are `None` and unknown fields are ignored, because another release may have
/// written the file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    key: Key,
    #[serde(default)]
    token: Option<KeptToken>,
    #[serde(default)]
    failure: Option<KeptFailure>,
}

/// A token, and the job for which it was exchanged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptToken {
    /// The name of the identity in the job: the email, or the federated principal's subject.
    pub name: String,
    /// The access token.
    pub token: Token,
    /// The run of a job that did the exchange.
    pub asked_by: RunId,
}

/// A failure, and the job for which the exchange was attempted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptFailure {
    /// The failure.
    pub failure: Failure,
    /// When it happened.
    at: Moment,
    /// The run of a job that did the exchange.
    pub asked_by: RunId,
}

impl Kept {
    /// Creates empty content for a key.
    pub fn nothing(key: Key) -> Self {
        Self { key, token: None, failure: None }
    }

    /// Parses a file. Content that is invalid or belongs to another key counts as empty.
    pub fn parse(text: Option<&[u8]>, key: &Key) -> Self {
        let kept = text.and_then(|text| serde_json::from_slice::<Self>(text).ok());
        kept.filter(|kept| kept.key == *key).unwrap_or_else(|| Self::nothing(key.clone()))
    }

    /// Returns the file's text, which contains a token.
    pub fn to_text(&self) -> Secret {
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }

    /// Returns the token, if `will_do` accepts it.
    pub fn token(&self, will_do: impl Fn(&Token) -> bool) -> Option<&KeptToken> {
        self.token.as_ref().filter(|kept| will_do(&kept.token))
    }

    /// Returns the failure, if it still holds.
    pub fn failure(&self, now: Moment) -> Option<&KeptFailure> {
        let age = |failure: &KeptFailure| now.since_boot.saturating_sub(failure.at.since_boot);
        self.failure.as_ref().filter(|failure| (0..FAILURE_HOLDS).contains(&age(failure)))
    }

    /// Stores a token and clears the failure.
    pub fn keep(&mut self, token: KeptToken) {
        (self.token, self.failure) = (Some(token), None);
    }

    /// Stores a failure that happened now. The token stays, because another job may still be able to use it.
    pub fn keep_failure(&mut self, failure: Failure, now: Moment, asked_by: RunId) {
        self.failure = Some(KeptFailure { failure, at: now, asked_by });
    }

    /// Returns whether a file has neither a valid token nor a failure that holds.
    pub fn is_useless(text: Option<&[u8]>, now: Moment) -> bool {
        let kept = text.and_then(|text| serde_json::from_slice::<Self>(text).ok());
        kept.is_none_or(|kept| kept.token(|token| token.lives(now)).is_none() && kept.failure(now).is_none())
    }
}
