//! The grant of a job: decided once, stored in the record, and repeated by each refresh.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::config::{Adc, Config, Delivery, default_adc};
use super::facts::JobFacts;
use super::rules::{self, Denial};
use super::site::Site;
use crate::words::google::{Identity, Scope, ServiceAccountEmail};

/// The permission to use an identity, with its terms. Each exchange for a job requires one.
///
/// A grant comes from [`Grant::decide`] or from a job's record.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    asked: Option<ServiceAccountEmail>,
    identity: Identity,
    rule: Option<usize>,
    /// The rule's `auto`.
    auto: Option<bool>,
    is_sites_own: bool,
    scopes: Vec<Scope>,
    /// Whether clients may not have other scopes.
    #[serde(default)]
    limits_scopes: bool,
    lifetime: Option<u32>,
    delivery: Delivery,
    #[serde(default = "default_adc")]
    adc: Adc,
}

impl Grant {
    /// Decides whether a job gets an identity, and which one.
    ///
    /// # Errors
    /// The denial, with the facts for the user's message.
    pub fn decide(site: &Site, facts: &JobFacts, asked: Option<&ServiceAccountEmail>) -> Result<Self, Denial> {
        let default = site.default_identity();
        let decision = rules::decide(site.config.rules.as_deref(), &default, facts, asked)?;
        Ok(Self {
            asked: asked.cloned(),
            is_sites_own: decision.identity == default,
            identity: decision.identity,
            rule: decision.rule,
            auto: decision.auto,
            scopes: site.config.scopes(),
            limits_scopes: site.config.scopes.is_some(),
            lifetime: site.configuration.lifetime(),
            delivery: site.config.delivery,
            adc: decision.adc.unwrap_or(site.config.adc),
        })
    }

    /// Checks that the current rules let the job keep its grant. They cannot give it another identity.
    ///
    /// # Errors
    /// The denial, if the rules no longer grant it.
    pub fn still_holds(&self, site: &Site, facts: &JobFacts) -> Result<(), Denial> {
        let (rules, default) = (site.config.rules.as_deref(), site.default_identity());
        rules::check(rules, &default, facts, &self.identity, self.is_sites_own)
    }

    /// Returns the service account that the request named, if any.
    pub fn asked(&self) -> Option<&ServiceAccountEmail> {
        self.asked.as_ref()
    }

    /// Returns the granted identity.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the number of the rule that granted it, counted from 1, or `None` if the site has no rules.
    pub fn rule(&self) -> Option<usize> {
        self.rule
    }

    /// Returns whether a job without an option gets the grant: the rule's `auto`, or else the site's.
    pub fn is_auto(&self, config: &Config) -> bool {
        self.auto.unwrap_or(config.auto)
    }

    /// Returns the scopes of the access token.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Returns the grant for a client that requests scopes. If the site sets scopes, the client gets those of its
    /// scopes that the site lists. If none is left, or the client requests none, it gets the job's scopes, because many
    /// client libraries request more than the program needs.
    pub fn for_scopes(&self, asked: Vec<Scope>) -> Self {
        let mut scopes = asked;
        scopes.retain(|scope| !self.limits_scopes || self.scopes.contains(scope));
        if scopes.is_empty() { self.clone() } else { Self { scopes, ..self.clone() } }
    }

    /// Returns whether both grants have the same scopes.
    pub fn has_scopes_of(&self, other: &Self) -> bool {
        let set = |grant: &Self| grant.scopes.iter().cloned().collect::<BTreeSet<_>>();
        self.scopes == other.scopes || set(self) == set(other)
    }

    /// Returns the requested lifetime of the access token in seconds, if the site sets one.
    pub fn lifetime(&self) -> Option<u32> {
        self.lifetime
    }

    /// Returns how the credentials stay valid.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// Returns how clients in the job find the credentials.
    pub fn adc(&self) -> Adc {
        self.adc
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn scopes(names: &[&str]) -> Vec<Scope> {
        let url = |name: &&str| format!("https://www.googleapis.com/auth/{name}").try_into().unwrap();
        names.iter().map(url).collect()
    }

    #[test]
    fn a_client_gets_the_scopes_that_it_requests_within_the_sites_limit() {
        let default = testing::issued("ya29.t", 1601).grant;
        let limited =
            Grant { scopes: scopes(&["bigquery", "devstorage.read_only"]), limits_scopes: true, ..default.clone() };
        for (grant, asked, expected) in [
            (&default, &["drive"][..], &["drive"][..]),
            (&default, &["drive", "cloud-platform"], &["drive", "cloud-platform"]),
            (&default, &[], &["cloud-platform"]),
            (&limited, &["drive", "bigquery"], &["bigquery"]),
            (&limited, &["cloud-platform"], &["bigquery", "devstorage.read_only"]),
            (&limited, &[], &["bigquery", "devstorage.read_only"]),
        ] {
            assert_eq!(grant.for_scopes(scopes(asked)).scopes(), scopes(expected), "{asked:?}");
        }
        assert!(limited.has_scopes_of(&limited.for_scopes(scopes(&["devstorage.read_only", "bigquery", "bigquery"]))));
        assert!(!limited.has_scopes_of(&limited.for_scopes(scopes(&["bigquery"]))));
    }
}
