//! Access tokens as the node keeps them: who shares one, how long it lives, when it is due, whether a job or a step can
//! begin with it.
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

/// A token is handed to a step only with at least this many seconds of life, or a quarter of its own.
const MARGIN: UnixSeconds = 300;
/// Seconds of life with which a token is handed out: a minute more than the greatest margin of Google's libraries (Node,
/// C++).
const HANDED_OUT: UnixSeconds = 360;
/// Two clocks that are not set differ by no more than this many seconds, and by a thousandth of the time between: NTP
/// slews a clock by up to half of that.
const CLOCK_SLEW: UnixSeconds = 5;

/// An access token and its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    #[serde(with = "exposed")]
    secret: Secret,
    /// When it came.
    pub issued_at: UnixSeconds,
    /// When it ends.
    pub expires_at: UnixSeconds,
    /// When it came, in seconds since the machine was started.
    since_boot: i64,
}

/// What a token was asked for. Jobs of a node share a token only where all of this is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    uid: u32,
    identity: Identity,
    scopes: Vec<Scope>,
    lifetime: Option<u32>,
    /// For whom an OpenID token is; none for an access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    audience: Option<String>,
    /// The workload identity pool's provider, which trusts the subject token.
    provider: String,
    /// Where the subject token is. A federated principal is the one of that token.
    subject_token: PathBuf,
}

impl Key {
    /// The key for what a user is granted.
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

    /// The key for an OpenID token, which has no scopes and whose lifetime is Google's.
    pub fn for_id_token(self, audience: &str) -> Self {
        Self { scopes: Vec::new(), lifetime: None, audience: Some(audience.to_owned()), ..self }
    }

    /// A file name for it: the uid, and a digest of all of it.
    pub fn name(&self) -> String {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let digest = ring::digest::digest(&ring::digest::SHA256, &text);
        let digest: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("{}{digest}", self.users())
    }

    /// What the names of all keys of the user begin with.
    pub fn users(&self) -> String {
        format!("{}-", self.uid)
    }
}

impl Token {
    /// A token that came just now.
    pub fn new(token: AccessToken, now: Moment) -> Self {
        let Moment { unix, since_boot } = now;
        Self { secret: token.token, issued_at: unix, expires_at: token.expires_at, since_boot }
    }

    /// The token itself.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Whether a step of a job that has this token can begin with it.
    pub fn is_fresh(&self, now: Moment) -> bool {
        !self.is_of_another_clock(now) && self.left(now) >= MARGIN.min(self.life() / 4).max(1)
    }

    /// Whether a job can begin with it. Under the agent, which refreshes it at half of its life, it has at least that.
    /// Under direct delivery nobody refreshes the variable that a step is given, and it has nine tenths.
    pub fn can_begin(&self, now: Moment, delivery: Delivery) -> bool {
        let (parts, of) = match delivery {
            Delivery::Agent => (1, 2),
            Delivery::Direct => (9, 10),
        };
        self.lives(now) && self.left(now).saturating_mul(of) >= self.life().saturating_mul(parts)
    }

    /// Whether a client that asks for it gets it, rather than a new one. The libraries ask again when at most five minutes
    /// are left; of a short life, half must be left.
    pub fn can_be_handed_out(&self, now: Moment) -> bool {
        self.lives(now) && self.left(now) >= HANDED_OUT.min(self.life() / 2)
    }

    /// Whether it has not ended yet.
    pub fn lives(&self, now: Moment) -> bool {
        !self.is_of_another_clock(now) && self.left(now) > 0
    }

    /// When it is due to be refreshed: at half of its life, up to a tenth earlier by `jitter`, so that the jobs of a
    /// thousand nodes that began together do not come back together. A token that lives longer than twelve minutes has
    /// more than six left then. It is due at once if the clock was set since it came, so that its end is not known.
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

    /// Whether the clock was set since it came, or the machine started anew.
    fn is_of_another_clock(&self, now: Moment) -> bool {
        let by_day = now.unix.saturating_sub(self.issued_at);
        let by_machine = now.since_boot.saturating_sub(self.since_boot);
        by_day.abs_diff(by_machine) > CLOCK_SLEW.unsigned_abs() + by_machine.unsigned_abs() / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine that was started at 0, and whose clock was not set since.
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
    fn a_token_is_handed_out_until_six_minutes_or_half_of_its_life_are_left() {
        let token = |lifetime: UnixSeconds| token(1000, 1000 + lifetime);
        for (lifetime, last) in [(3600, 4240), (700, 1350), (10, 1005)] {
            let token = token(lifetime);
            assert!(token.can_be_handed_out(at(last)) && !token.can_be_handed_out(at(last + 1)), "{lifetime}");
        }
        assert!(!token(0).can_be_handed_out(at(1000)));
        assert!(!token(3600).can_be_handed_out(Moment { unix: 1000, since_boot: 0 }), "the clock was set");
    }

    #[test]
    fn a_token_is_due_at_half_of_its_life_and_never_later_than_six_minutes_before_its_end() {
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
        // A clock that is slewed is not set.
        for now in [Moment { unix: 8_996, since_boot: 9_000 }, Moment { unix: 10_795, since_boot: 10_801 }] {
            assert!(token.is_fresh(now) && token.due(now, 0.0) == 10_800, "{now:?}");
        }
    }
}
