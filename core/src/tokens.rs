//! Access tokens as the node keeps them: how long a token lives, when it is due, whether a step can start with it.
//!
//! Each job's tokens are in its record. Everything else asks this module about them, so that this can change.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use crate::exchange::AccessToken;
use crate::words::secret::{Secret, exposed};
use crate::words::time::UnixSeconds;

/// A token is handed to a step only with at least this many seconds of life, or half of its own.
const MARGIN: UnixSeconds = 300;
/// A token that came more than this many seconds after now shows that the clock was set back.
const CLOCK_SLEW: UnixSeconds = 5;

/// An access token and its life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    #[serde(with = "exposed")]
    secret: Secret,
    /// When it came.
    pub issued_at: UnixSeconds,
    /// When it ends.
    pub expires_at: UnixSeconds,
}

impl Token {
    /// A token that came just now.
    pub fn new(token: AccessToken, now: UnixSeconds) -> Self {
        Self { secret: token.token, issued_at: now, expires_at: token.expires_at }
    }

    /// The token itself.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Whether a step that starts now can use it.
    pub fn is_fresh(&self, now: UnixSeconds) -> bool {
        let lifetime = self.expires_at.saturating_sub(self.issued_at);
        !self.is_from_the_future(now) && self.expires_at.saturating_sub(now) >= MARGIN.min(lifetime / 2).max(1)
    }

    /// When it is due to be refreshed: at half of its life, up to a tenth earlier by `jitter`, so that the jobs of a
    /// thousand nodes that began together do not come back together. A token that lives longer than twelve minutes has
    /// more than six left then. One that came in the future is due at once: the clock was set back, so that its end is
    /// not known.
    pub fn due(&self, now: UnixSeconds, jitter: f64) -> UnixSeconds {
        if self.is_from_the_future(now) {
            return now;
        }
        let life = self.expires_at.saturating_sub(self.issued_at);
        let earlier = (life as f64 * 0.1 * jitter) as UnixSeconds;
        self.issued_at.saturating_add(life / 2).saturating_sub(earlier)
    }

    fn is_from_the_future(&self, now: UnixSeconds) -> bool {
        self.issued_at > now.saturating_add(CLOCK_SLEW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(issued_at: UnixSeconds, expires_at: UnixSeconds) -> Token {
        Token::new(AccessToken { token: Secret::new("t".to_owned()), expires_at }, issued_at)
    }

    #[test]
    fn a_token_is_fresh_until_five_minutes_or_half_its_life_are_left() {
        let token = |lifetime: UnixSeconds| token(1000, 1000 + lifetime);
        assert!(token(3600).is_fresh(1000 + 3300));
        assert!(!token(3600).is_fresh(1000 + 3301));
        assert!(token(10).is_fresh(1005));
        assert!(!token(10).is_fresh(1006));
        assert!(!token(0).is_fresh(1000));
    }

    #[test]
    fn a_token_is_due_at_half_of_its_life_and_never_later_than_six_minutes_before_its_end() {
        let due = |issued_at, expires_at, jitter| token(issued_at, expires_at).due(issued_at, jitter);
        assert_eq!(due(0, 3600, 0.0), 1800);
        assert_eq!(due(0, 3600, 1.0), 1440);
        assert_eq!(due(0, 800, 0.0), 400);
        assert_eq!(due(0, 722, 0.0), 361);
        assert_eq!(due(100, 110, 0.0), 105);
        assert_eq!(due(0, 43_200, 0.5), 19_440);
    }

    #[test]
    fn a_token_that_came_in_the_future_is_due_at_once_and_not_fresh() {
        let token = token(9_000, 12_600);
        assert_eq!((token.due(1_800, 0.0), token.is_fresh(1_800)), (1_800, false));
        // A clock that is slewed is not set back.
        assert!(token.is_fresh(8_999) && token.due(8_999, 0.0) == 10_800);
    }
}
