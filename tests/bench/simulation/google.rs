//! Google's quotas, as its documentation states them, and its answers.

use std::time::Duration;

use gcp_wif_core::world::http::{Body, Response};

/// STS exchanges for each project, or for each project and region, and minute.
pub const STS_QUOTA: u32 = 6000;
/// Tokens of IAM Credentials for each project and minute.
pub const IAM_QUOTA: u32 = 60_000;

const MINUTE: Duration = Duration::from_secs(60);

/// How Google might count a quota for each minute. Google does not document it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// A count that restarts every minute. The first minute begins with the first job, which is the worst case.
    ByMinute,
    /// A bucket that is refilled steadily and holds the amount of one second.
    Steadily,
}

/// A quota. Refused requests do not count.
#[derive(Clone, Debug)]
pub struct Quota {
    kept: Kept,
    each_minute: f64,
    left: f64,
    since: Duration,
}

impl Quota {
    pub fn new(kept: Kept, each_minute: u32) -> Self {
        let each_minute = f64::from(each_minute);
        let left = match kept {
            Kept::ByMinute => each_minute,
            Kept::Steadily => each_minute / 60.0,
        };
        Self { kept, each_minute, left, since: Duration::ZERO }
    }

    /// Whether one more request may pass.
    pub fn take(&mut self, now: Duration) -> bool {
        match self.kept {
            Kept::ByMinute => {
                if now >= self.since + MINUTE {
                    self.left = self.each_minute;
                    self.since = MINUTE * (now.as_secs() / 60) as u32;
                }
            }
            Kept::Steadily => {
                let each_second = self.each_minute / 60.0;
                self.left = (self.left + (now - self.since).as_secs_f64() * each_second).min(each_second);
                self.since = now;
            }
        }
        let passes = self.left >= 1.0;
        if passes {
            self.left -= 1.0;
        }
        passes
    }
}

pub fn federated() -> Response {
    let kind = "urn:ietf:params:oauth:token-type:access_token";
    let body = format!(
        r#"{{"access_token":"federated","issued_token_type":"{kind}","token_type":"Bearer","expires_in":3599}}"#
    );
    answer(200, body)
}

pub fn access_token() -> Response {
    answer(200, r#"{"accessToken":"ya29.c.simulated","expireTime":"2100-01-01T00:00:00Z"}"#.to_owned())
}

/// What STS and IAM Credentials say when a quota is used up.
pub fn throttled(service: &str) -> Response {
    let text =
        format!("The request was throttled due to rate limit: {service}/requests. Please retry after a few seconds.");
    answer(429, format!(r#"{{"error":"quota_exceeded","error_description":"{text}"}}"#))
}

fn answer(status: u16, body: String) -> Response {
    let content_type = "application/json; charset=UTF-8".to_owned();
    Response { status, content_type, retry_after: None, date: None, body: Body::new(body.into_bytes()) }
}
