//! What a job was granted: decided once, remembered whole, repeated by each refresh.
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::config::Delivery;
use super::facts::JobFacts;
use super::rules::{self, Denial};
use super::site::Site;
use crate::words::google::{Identity, Scope, ServiceAccountEmail};

/// The permission to have an identity, and its terms. Each exchange for a job needs one.
///
/// It comes from [`Grant::decide`], or from the record that root keeps of a job.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    asked: Option<ServiceAccountEmail>,
    identity: Identity,
    rule: Option<usize>,
    is_sites_own: bool,
    scopes: Vec<Scope>,
    lifetime: Option<u32>,
    delivery: Delivery,
}

impl Grant {
    /// Decides what a job gets.
    ///
    /// # Errors
    /// The denial, with what the user needs to know.
    pub fn decide(site: &Site, facts: &JobFacts, asked: Option<&ServiceAccountEmail>) -> Result<Self, Denial> {
        let default = site.default_identity();
        let decision = rules::decide(site.config.rules.as_deref(), &default, facts, asked)?;
        Ok(Self {
            asked: asked.cloned(),
            is_sites_own: decision.identity == default,
            identity: decision.identity,
            rule: decision.rule,
            scopes: site.config.scopes.clone(),
            lifetime: site.configuration.lifetime(),
            delivery: site.config.delivery,
        })
    }

    /// Checks that today's rules let the job keep what it was granted. They never give it another identity.
    ///
    /// # Errors
    /// The denial, if they would not grant it any more.
    pub fn still_holds(&self, site: &Site, facts: &JobFacts) -> Result<(), Denial> {
        let (rules, default) = (site.config.rules.as_deref(), site.default_identity());
        rules::check(rules, &default, facts, &self.identity, self.is_sites_own)
    }

    /// The service account that the grant was asked with, if one was named.
    pub fn asked(&self) -> Option<&ServiceAccountEmail> {
        self.asked.as_ref()
    }

    /// The identity granted.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The rule that granted it, counted from 1; none where the site has no rules.
    pub fn rule(&self) -> Option<usize> {
        self.rule
    }

    /// Scopes of the access token.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Requested lifetime of the access token in seconds, if the site sets one.
    pub fn lifetime(&self) -> Option<u32> {
        self.lifetime
    }

    /// How the credentials reach the job.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }
}
