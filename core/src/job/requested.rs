//! Tokens that a job's clients ask for by themselves: access tokens with other scopes than the job's own, and OpenID
//! tokens.
//!
//! They are kept on the node as the job's own token is ([`crate::job::obtain`]), for all jobs of the user. Nobody
//! refreshes them: a client asks again before its token ends.
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

/// How many tokens of a user are kept on a node. Each one more costs the project two requests of its quota.
const OF_USER: usize = 256;

/// What a client asks for.
pub struct Requested<'a> {
    /// The node.
    pub node: &'a Node<'a>,
    /// Where a line for each issuance goes.
    pub log: &'a dyn Log,
    /// Where tokens are kept.
    pub runtime: &'a RuntimeDirectory,
    /// Whose client it is.
    pub facts: &'a JobFacts,
    /// For which run of the job.
    pub run: RunId,
    /// The job's grant, for the scopes that the client asks for.
    pub grant: &'a Grant,
    /// What for.
    pub purpose: Purpose<'a>,
}

/// What the node has of it, without asking Google.
#[derive(Debug)]
pub enum Had {
    /// A token that will do.
    Token(Token),
    /// No such token, and Google just refused, or could not be asked.
    Failure(Failure),
    /// A token that will end soon, or none.
    Ending(Option<Token>),
}

impl Requested<'_> {
    /// Looks for what is kept. Asks nobody, and waits for nobody.
    ///
    /// # Errors
    /// When it cannot be looked for, or the rules no longer let the user have OpenID tokens.
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
            // A token is better than the news that Google gives no other at this moment.
            (Some(Err(_)), Some(token)) => Had::Token(token),
            (Some(Err(failure)), None) => Had::Failure(failure),
            (None, living) => Had::Ending(living),
        })
    }

    /// Asks Google, unless another process was first.
    ///
    /// # Errors
    /// The failure; the denial, where the rules would not grant the identity any more.
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

    /// Keeps a user from filling the directory, and from using up the quota, with ever new scopes and audiences.
    fn check_share(&self, key: &Key) -> Result<(), Failure> {
        let (name, mut kept) = (key.name(), self.runtime.kept());
        let users = key.users();
        kept.retain(|kept| kept.starts_with(&users));
        if kept.len() < OF_USER || kept.contains(&name) { Ok(()) } else { Err(Failure::of_share(OF_USER)) }
    }

    /// What was asked for.
    fn asked(&self) -> Asked {
        match self.purpose {
            Purpose::AccessToken => {
                Asked::Scopes(self.grant.scopes().iter().map(Scope::as_str).collect::<Vec<_>>().join(","))
            }
            Purpose::IdToken(audience) => Asked::Audience(audience.to_owned()),
        }
    }
}
