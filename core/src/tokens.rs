//! Tokens that the node keeps: which jobs share one, when it is due for a refresh, and whether it has enough life left
//! for a job, a step or a client.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::exchange::AccessToken;
use crate::policy::config::Delivery;
use crate::policy::grant::Grant;
use crate::policy::site::Site;
use crate::words::google::{Identity, Scope};
use crate::words::secret::{Secret, exposed};
use crate::words::time::{Moment, UnixSeconds};

/// The minimum remaining life of a token for a step, in seconds, unless a quarter of its lifetime is less.
const MARGIN: UnixSeconds = 300;
/// The minimum remaining life of a token for a client, in seconds: a minute more than the largest refresh margin of
/// Google's client libraries (Node, C++).
const HANDED_OUT: UnixSeconds = 360;
/// The difference between the two clocks, in seconds, up to which the clock counts as not set. A thousandth of the
/// elapsed time is added, because NTP slews a clock by up to half of that.
const CLOCK_SLEW: UnixSeconds = 5;

/// An access token or OpenID token with its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    #[serde(with = "exposed")]
    secret: Secret,
    /// When it was issued, by the node's clock.
    pub issued_at: UnixSeconds,
    /// Its expiry.
    pub expires_at: UnixSeconds,
    /// When it was issued, in seconds since boot.
    since_boot: i64,
}

/// The properties of a requested token. Jobs on a node share a token only if all of them are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    uid: u32,
    identity: Identity,
    scopes: Vec<Scope>,
    lifetime: Option<u32>,
    /// The audience of an OpenID token; `None` for an access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audience: Option<String>,
    /// The workload identity pool provider.
    provider: String,
    /// The path of the subject token, which determines the federated principal.
    subject_token: PathBuf,
}

impl Key {
    /// Creates the key of a user's access token under a grant.
    pub fn new(uid: u32, grant: &Grant, site: &Site) -> Self {
        let mut scopes = grant.scopes().to_vec();
        scopes.sort_unstable();
        scopes.dedup();
        Self {
            uid,
            identity: grant.identity().clone(),
            scopes,
            lifetime: grant.lifetime(),
            audience: None,
            provider: site.configuration.audience.as_str().to_owned(),
            subject_token: site.configuration.subject_token_file.clone(),
        }
    }

    /// Returns the key of an OpenID token for an audience. It has no scopes, and Google sets its lifetime.
    pub fn for_id_token(self, audience: &str) -> Self {
        Self { scopes: Vec::new(), lifetime: None, audience: Some(audience.to_owned()), ..self }
    }

    /// Returns a file name for the key: the uid and a digest of all properties.
    pub fn name(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest = ring::digest::digest(&ring::digest::SHA256, &text);
        let digest: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{}{digest}", self.users())
    }

    /// Returns the prefix of the names of all of the user's keys.
    pub fn users(&self) -> String {
        format!("{}-", self.uid)
    }
}

impl Token {
    /// Creates a token that was issued at `now`.
    pub fn new(token: AccessToken, now: Moment) -> Self {
        let Moment { unix, since_boot } = now;
        Self { secret: token.token, issued_at: unix, expires_at: token.expires_at, since_boot }
    }

    /// Returns the token's text.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Returns whether a step can start with this token of its job.
    pub fn is_fresh(&self, now: Moment) -> bool {
        !self.is_of_another_clock(now) && self.left(now) >= MARGIN.min(self.life() / 4).max(1)
    }

    /// Returns whether a job can start with it. With agent delivery, half of the lifetime must be left, which is when
    /// the agent refreshes it. With direct delivery, nothing refreshes a step's environment variable, so nine tenths
    /// must be left.
    pub fn can_begin(&self, now: Moment, delivery: Delivery) -> bool {
        let (parts, of) = match delivery {
            Delivery::Agent => (1, 2),
            Delivery::Direct => (9, 10),
        };
        self.lives(now) && self.left(now).saturating_mul(of) >= self.life().saturating_mul(parts)
    }

    /// Returns whether a client gets this token rather than a new one. Client libraries refresh when at most five
    /// minutes are left. Of a short lifetime, half must be left.
    pub fn can_be_handed_out(&self, now: Moment) -> bool {
        self.lives(now) && self.left(now) >= HANDED_OUT.min(self.life() / 2)
    }

    /// Returns whether the token is unexpired.
    pub fn lives(&self, now: Moment) -> bool {
        !self.is_of_another_clock(now) && self.left(now) > 0
    }

    /// Returns the remaining life of the token in seconds, while a job has it. If the clock was set since the token was
    /// issued, the clock since boot tells the token's age: jobs do not outlive a boot.
    pub fn left_of_job(&self, now: Moment) -> UnixSeconds {
        if self.is_of_another_clock(now) {
            let age = now.since_boot.saturating_sub(self.since_boot);
            return if age < 0 { 0 } else { self.life().saturating_sub(age) };
        }
        self.left(now)
    }

    /// Returns when the token is due for a refresh: at half of its lifetime, minus up to a tenth by `jitter`, so that
    /// jobs that start together on a thousand nodes do not refresh together. A token with a lifetime of more than
    /// twelve minutes then has more than six left. If the clock was set since the token was issued, its expiry is
    /// uncertain, and it is due at once.
    pub fn due(&self, now: Moment, jitter: f64) -> UnixSeconds {
        if self.is_of_another_clock(now) {
            return now.unix;
        }
        let earlier = (self.life() as f64 * 0.1 * jitter) as UnixSeconds;
        self.issued_at.saturating_add(self.life() / 2).saturating_sub(earlier)
    }

    fn life(&self) -> UnixSeconds {
        self.expires_at.saturating_sub(self.issued_at)
    }

    fn left(&self, now: Moment) -> UnixSeconds {
        self.expires_at.saturating_sub(now.unix)
    }

    /// Returns whether the clock was set, or the machine rebooted, since the token was issued.
    fn is_of_another_clock(&self, now: Moment) -> bool {
        let by_day = now.unix.saturating_sub(self.issued_at);
        let by_machine = now.since_boot.saturating_sub(self.since_boot);
        by_day.abs_diff(by_machine) > CLOCK_SLEW.unsigned_abs() + by_machine.unsigned_abs() / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment on a machine that booted at time 0 and whose clock was never set.
    fn at(unix: UnixSeconds) -> Moment {
        Moment { unix, since_boot: unix }
    }

    fn token(issued_at: UnixSeconds, expires_at: UnixSeconds) -> Token {
        Token::new(AccessToken { token: Secret::new("t".to_owned()), expires_at }, at(issued_at))
    }

    #[test]
    fn a_token_is_fresh_until_five_minutes_or_a_quarter_of_its_life_are_left() {
        let token = |lifetime: UnixSeconds| token(1000, 1000 + lifetime);
        assert!(token(3600).is_fresh(at(1000 + 3300)));
        assert!(!token(3600).is_fresh(at(1000 + 3301)));
        assert!(token(12).is_fresh(at(1009)));
        assert!(!token(12).is_fresh(at(1010)));
        assert!(!token(0).is_fresh(at(1000)));
    }

    #[test]
    fn a_client_gets_a_token_until_six_minutes_or_half_of_its_life_are_left() {
        let token = |lifetime: UnixSeconds| token(1000, 1000 + lifetime);
        for (lifetime, last) in [(3600, 4240), (700, 1350), (10, 1005)] {
            let token = token(lifetime);
            assert!(token.can_be_handed_out(at(last)) && !token.can_be_handed_out(at(last + 1)), "{lifetime}");
        }
        assert!(!token(0).can_be_handed_out(at(1000)));
        assert!(!token(3600).can_be_handed_out(Moment { unix: 1000, since_boot: 0 }), "the clock was set");
    }

    #[test]
    fn a_token_is_due_at_half_of_its_life_minus_jitter() {
        let due = |issued_at, expires_at, jitter| token(issued_at, expires_at).due(at(issued_at), jitter);
        assert_eq!(due(0, 3600, 0.0), 1800);
        assert_eq!(due(0, 3600, 1.0), 1440);
        assert_eq!(due(0, 800, 0.0), 400);
        assert_eq!(due(0, 722, 0.0), 361);
        assert_eq!(due(100, 110, 0.0), 105);
        assert_eq!(due(0, 43_200, 0.5), 19_440);
    }

    #[test]
    fn a_token_from_before_the_clock_was_set_is_due_at_once_and_not_fresh() {
        let token = token(9_000, 12_600);
        for (name, now) in [
            ("set back, so that it is from the future", Moment { unix: 1_800, since_boot: 9_100 }),
            ("set back by less than its age", Moment { unix: 9_050, since_boot: 9_100 }),
            ("set ahead", Moment { unix: 9_150, since_boot: 9_100 }),
            ("started anew", Moment { unix: 9_100, since_boot: 50 }),
        ] {
            assert_eq!((token.due(now, 0.0), token.is_fresh(now)), (now.unix, false), "{name}");
        }
        // Google has not set its clock.
        assert_eq!(token.left_of_job(Moment { unix: 1_800, since_boot: 9_100 }), 3_500);
        assert_eq!(token.left_of_job(Moment { unix: 16_300, since_boot: 9_100 }), 3_500);
        assert_eq!(token.left_of_job(Moment { unix: 9_100, since_boot: 50 }), 0);
        assert_eq!(token.left_of_job(at(9_100)), 3_500);
        // Slewing a clock does not count as setting it.
        for now in [Moment { unix: 8_996, since_boot: 9_000 }, Moment { unix: 10_795, since_boot: 10_801 }] {
            assert!(token.is_fresh(now) && token.due(now, 0.0) == 10_800, "{now:?}");
        }
    }
}
