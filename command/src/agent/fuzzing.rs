//! What the agent does with a client's bytes, for `fuzz/`.
#![forbid(unsafe_code)]
#![allow(unreachable_pub, reason = "the library exports it, and the program for the manual pages does not")]

use std::net::SocketAddr;

use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::google::Scope;
use gcp_wif_core::words::time::Moment;
use http::request::Parts;
use zeroize::Zeroizing;

use super::answer::{self, Answer};
use super::reply::{Call, Reply};
use super::serve::route;
use super::served::Served;

/// A job, as its port serves it.
#[derive(Debug)]
pub struct Job(Served);

/// What becomes of a request.
#[derive(Debug)]
pub enum Outcome {
    /// This reply: status, type and body.
    Reply(u16, &'static str, String),
    /// A token is looked for, with these scopes or for this audience. With it, and with a failure, this is replied.
    Later {
        /// The scopes.
        scopes: Vec<Scope>,
        /// The audience of an OpenID token.
        audience: Option<String>,
        /// The replies, as above.
        replies: Vec<(u16, &'static str, String)>,
    },
}

impl Job {
    /// What a record says of its first identity; none if that one has no port.
    pub fn of(record: &JobRecord) -> Option<Self> {
        Served::of(record, record.issued.first()?).map(|(_, served)| Self(served))
    }

    /// Answers a request at a port. A token that is looked for is this one, or cannot be had because of the failures.
    pub fn answer(
        &self,
        (parts, body): (&Parts, &[u8]),
        here: SocketAddr,
        now: Moment,
        token: &Token,
        failures: &[Failure],
    ) -> Outcome {
        let mut call = match Call::read(parts, here) {
            Ok(call) => call,
            Err(refusal) => return Outcome::of(refusal),
        };
        call.body = Zeroizing::new(body.to_vec());
        match route(&parts.method, &call, &self.0, now) {
            Answer::Now(reply) => Outcome::of(reply),
            Answer::Later(wanted) => {
                let failures = failures.iter().map(|failure| Err(failure.clone()));
                let results = failures.chain([Ok(token.clone())]);
                let replies = results.map(|result| values((wanted.to_reply)(result, &wanted.grant, now)));
                let replies = replies.collect();
                Outcome::Later { scopes: wanted.grant.scopes().to_vec(), audience: wanted.audience, replies }
            }
        }
    }
}

impl Outcome {
    fn of(reply: Reply) -> Self {
        let (status, content_type, body) = values(reply);
        Self::Reply(status, content_type, body)
    }
}

fn values(reply: Reply) -> (u16, &'static str, String) {
    (reply.status, reply.content_type, reply.body.to_string())
}

/// Scopes as clients list them.
///
/// # Errors
/// The first one that is none.
pub fn scopes(text: &str) -> Result<Vec<Scope>, String> {
    answer::scopes(text)
}
