//! What becomes of a request to a job's port: a reply, or a token that is looked for first.
#![forbid(unsafe_code)]

use gcp_wif_core::plan::report::{Blame, Failure, Stage};
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::google::Scope;
use gcp_wif_core::words::time::UnixSeconds;

use super::reply::Reply;
use super::served::Served;

/// Makes the reply of a token, or of the failure to have one. The grant says which scopes were asked for.
pub(crate) type ToReply = fn(Result<Token, Failure>, &Grant, UnixSeconds) -> Reply;

/// What becomes of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    /// This reply.
    Now(Reply),
    /// A token is looked for first.
    Later(Wanted),
}

/// A token that a client asks for and that is not the job's own.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The job's grant, for the client's scopes.
    pub(crate) grant: Grant,
    /// For whom an OpenID token is; none for an access token.
    pub(crate) audience: Option<String>,
    /// Makes the reply.
    pub(crate) to_reply: ToReply,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Now(reply)
    }
}

impl Answer {
    /// An access token with these scopes; the job's own if it has the same, or without scopes.
    pub(crate) fn access_token(served: &Served, scopes: Vec<Scope>, to_reply: ToReply, now: UnixSeconds) -> Self {
        let other = (!scopes.is_empty()).then(|| served.grant.for_scopes(scopes));
        match other.filter(|grant| !grant.has_scopes_of(&served.grant)) {
            Some(grant) => Self::Later(Wanted { grant, audience: None, to_reply }),
            None => Self::Now(to_reply(served.own(now), &served.grant, now)),
        }
    }

    /// An OpenID token for an audience.
    pub(crate) fn id_token(served: &Served, audience: &str, to_reply: ToReply) -> Self {
        Self::Later(Wanted { grant: served.grant.clone(), audience: Some(audience.to_owned()), to_reply })
    }
}

/// The HTTP status of a failure. The libraries ask again after 429 and 503, and after no other.
pub(crate) fn status(failure: &Failure) -> u16 {
    match (failure.stage, failure.blame) {
        (Stage::Rules, _) => 403,
        (Stage::Agent, Blame::User) => 429,
        (_, Blame::Google { is_final: true }) => 400,
        _ => 503,
    }
}

/// Reads scopes that are separated by blanks, RFC 6749 section 3.3, or by commas.
///
/// # Errors
/// The first one that is none.
pub(crate) fn scopes(text: &str) -> Result<Vec<Scope>, String> {
    let parts = text.split([' ', ',']).filter(|part| !part.is_empty());
    parts.map(|part| Scope::try_from(part.to_owned()).map_err(|error| error.to_string())).collect()
}
