//! The answer to a request at a job's port: a reply, or a token that must be obtained first.
#![forbid(unsafe_code)]

use gcp_wif_core::plan::report::{Blame, Failure, Stage};
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::google::Scope;
use gcp_wif_core::words::time::Moment;

use super::reply::Reply;
use super::served::Served;

/// Builds the reply from a token or a failure. The grant has the scopes of the token.
pub(crate) type ToReply = fn(Result<Token, Failure>, &Grant, Moment) -> Reply;

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The reply.
    Now(Reply),
    /// A token that must be obtained before the reply can be built.
    Later(Wanted),
}

/// A requested token that is not the job's access token.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The job's grant, with the scopes that the client requests.
    pub(crate) grant: Grant,
    /// The audience of an OpenID token; `None` for an access token.
    pub(crate) audience: Option<String>,
    /// Builds the reply.
    pub(crate) to_reply: ToReply,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Now(reply)
    }
}

impl Answer {
    /// Answers with an access token with these scopes. It is the job's access token if that has the same scopes, or if
    /// there are none.
    pub(crate) fn access_token(served: &Served, scopes: Vec<Scope>, to_reply: ToReply, now: Moment) -> Self {
        let other = (!scopes.is_empty()).then(|| served.grant.for_scopes(scopes));
        match other.filter(|grant| !grant.has_scopes_of(&served.grant)) {
            Some(grant) => Self::Later(Wanted { grant, audience: None, to_reply }),
            None => Self::Now(to_reply(served.own(now), &served.grant, now)),
        }
    }

    /// Answers with an OpenID token for an audience.
    pub(crate) fn id_token(served: &Served, audience: &str, to_reply: ToReply) -> Self {
        Self::Later(Wanted { grant: served.grant.clone(), audience: Some(audience.to_owned()), to_reply })
    }
}

/// Returns the HTTP status for a failure. Client libraries retry after 429 and 503 only.
pub(crate) fn status(failure: &Failure) -> u16 {
    match (failure.stage, failure.blame) {
        (Stage::Rules, _) => 403,
        (Stage::Agent, Blame::User) => 429,
        (_, Blame::Google { is_final: true }) => 400,
        _ => 503,
    }
}

/// Parses scopes that are separated by blanks (RFC 6749 section 3.3) or by commas.
///
/// # Errors
/// A message that quotes the first invalid scope.
pub(crate) fn scopes(text: &str) -> Result<Vec<Scope>, String> {
    let parts = text.split([' ', ',']).filter(|part| !part.is_empty());
    parts.map(|part| Scope::try_from(part.to_owned()).map_err(|error| error.to_string())).collect()
}
