//! Tokens that a job's clients request: access tokens with other scopes than the job's, and OpenID tokens.
//!
//! The node keeps them for all jobs of the user ([`crate::job::obtain`]), like the jobs' access tokens. The agent does
//! not refresh them, because a client requests a new token before the old one expires.
#![forbid(unsafe_code)]

use crate::exchange::Purpose;
use crate::job::issuance::LEAST;
use crate::job::node::{Log, Node, TokenRequest};
use crate::job::obtain::{Looked, Need, Obtain};
use crate::job::tell::tell;
use crate::plan::audit::{Asked, Entry, Event, Source};
use crate::plan::record::RunId;
use crate::plan::report::Failure;
use crate::policy::facts::JobFacts;
use crate::policy::grant::Grant;
use crate::policy::site::Site;
use crate::tokens::{Key, Token};
use crate::words::google::Scope;
use crate::world::fs::RuntimeDirectory;

/// The limit of tokens that a node keeps for a user. Each further token costs the project two requests of its quota.
const OF_USER: usize = 256;

/// A client's request for a token.
pub struct Requested<'a> {
    /// The node.
    pub node: &'a Node<'a>,
    /// The log for audit records.
    pub log: &'a dyn Log,
    /// The runtime directory with the kept tokens.
    pub runtime: &'a RuntimeDirectory,
    /// The client's job.
    pub facts: &'a JobFacts,
    /// The run of the job.
    pub run: RunId,
    /// The job's grant, with the scopes that the client requests.
    pub grant: &'a Grant,
    /// The kind of token.
    pub purpose: Purpose<'a>,
}

/// The result of looking for a kept token.
#[derive(Debug)]
pub enum Had {
    /// A token to hand out.
    Token(Token),
    /// There is no token, and an exchange has just failed.
    Failure(Failure),
    /// A token that expires soon, or none.
    Ending(Option<Token>),
}

impl Requested<'_> {
    /// Looks for a kept token. Neither performs an exchange nor waits for one.
    ///
    /// # Errors
    /// When the lookup fails, or when the rules no longer grant the identity of an OpenID token.
    pub fn had(&self) -> Result<Had, Failure> {
        let site = Site::load(self.node.config_path)?;
        if matches!(self.purpose, Purpose::IdToken(_)) {
            self.grant.still_holds(&site, self.facts)?;
        }
        let key = self.key(&site);
        if !self.runtime.kept().contains(&key.name()) {
            return Ok(Had::Ending(None));
        }
        let (known, living) = self.at(&key).kept()?;
        Ok(match (known.map(|answer| answer.result), living) {
            (Some(Ok(exchanged)), _) => Had::Token(exchanged.token),
            // An unexpired token is better than a failure to get a newer one.
            (Some(Err(_)), Some(token)) => Had::Token(token),
            (Some(Err(failure)), None) => Had::Failure(failure),
            (None, living) => Had::Ending(living),
        })
    }

    /// Performs an exchange, unless another process has done so meanwhile.
    ///
    /// # Errors
    /// The failure, or the denial if the rules no longer grant the identity.
    pub fn obtain(&self) -> Result<Token, Failure> {
        let site = Site::load(self.node.config_path)?;
        let key = self.key(&site);
        let (obtain, budget) = (self.at(&key), site.config.timeout());
        self.check_share(&key)?;
        let answer = match obtain.look(budget + LEAST)? {
            Looked::Known(answer) => answer,
            Looked::Busy => return Err(Failure::of_wait()),
            Looked::Ask(lock) => {
                if let Err(denial) = self.grant.still_holds(&site, self.facts) {
                    lock.release();
                    return Err(denial.into());
                }
                let begun = self.node.clock.elapsed();
                let request = TokenRequest { site: &site, grant: self.grant, purpose: self.purpose, facts: self.facts };
                let answer = obtain.ask(lock, budget, |limits| self.node.exchanger.exchange(request, limits));
                let outcome = answer.result.as_ref().map(|exchanged| exchanged.token.expires_at);
                let (identity, duration) = (self.grant.identity(), self.node.clock.elapsed().saturating_sub(begun));
                let JobFacts { job, uid, .. } = *self.facts;
                let (event, asked, source) = (Event::Request, Some(self.asked()), Source::Google);
                let entry = Entry { event, job, uid, identity, asked, source, outcome, duration };
                tell(self.log, self.runtime, site.config.audit, &entry, self.node.clock.now());
                answer
            }
        };
        answer.result.map(|exchanged| exchanged.token)
    }

    fn key(&self, site: &Site) -> Key {
        let key = Key::new(self.facts.uid, self.grant, site);
        match self.purpose {
            Purpose::AccessToken => key,
            Purpose::IdToken(audience) => key.for_id_token(audience),
        }
    }

    fn at<'b>(&'b self, key: &'b Key) -> Obtain<'b> {
        Obtain { node: self.node, runtime: self.runtime, key, run: self.run, need: Need::HandOut }
    }

    /// Limits the number of a user's tokens, so that new scopes and audiences can neither fill the directory nor
    /// exhaust the quota.
    fn check_share(&self, key: &Key) -> Result<(), Failure> {
        let (name, mut kept) = (key.name(), self.runtime.kept());
        let users = key.users();
        kept.retain(|kept| kept.starts_with(&users));
        if kept.len() < OF_USER || kept.contains(&name) { Ok(()) } else { Err(Failure::of_share(OF_USER)) }
    }

    /// Returns the request for the audit record.
    fn asked(&self) -> Asked {
        match self.purpose {
            Purpose::AccessToken => {
                Asked::Scopes(self.grant.scopes().iter().map(Scope::as_str).collect::<Vec<_>>().join(","))
            }
            Purpose::IdToken(audience) => Asked::Audience(audience.to_owned()),
        }
    }
}
