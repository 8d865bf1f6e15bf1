//! What a job was granted: decided once, remembered whole, repeated by each refresh.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::config::{Adc, Config, Delivery, default_adc};
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
    /// What the rule says of `auto`.
    auto: Option<bool>,
    is_sites_own: bool,
    scopes: Vec<Scope>,
    /// Whether a client may have no others.
    #[serde(default)]
    limits_scopes: bool,
    lifetime: Option<u32>,
    delivery: Delivery,
    #[serde(default = "default_adc")]
    adc: Adc,
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
            auto: decision.auto,
            scopes: site.config.scopes(),
            limits_scopes: site.config.scopes.is_some(),
            lifetime: site.configuration.lifetime(),
            delivery: site.config.delivery,
            adc: decision.adc.unwrap_or(site.config.adc),
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

    /// Whether a job that asks for nothing has it: as its rule says, else as the site does.
    pub fn is_auto(&self, config: &Config) -> bool {
        self.auto.unwrap_or(config.auto)
    }

    /// Scopes of the access token.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// The grant for a client that asks for scopes by itself. Where the site sets scopes it gets those of them that the
    /// site lists, or, if there is none, the job's own: many libraries ask for more than the program needs. Without
    /// scopes it is the grant itself.
    pub fn for_scopes(&self, asked: Vec<Scope>) -> Self {
        let mut scopes = asked;
        scopes.retain(|scope| !self.limits_scopes || self.scopes.contains(scope));
        if scopes.is_empty() { self.clone() } else { Self { scopes, ..self.clone() } }
    }

    /// Whether another grant has the same scopes.
    pub fn has_scopes_of(&self, other: &Self) -> bool {
        let set = |grant: &Self| grant.scopes.iter().cloned().collect::<BTreeSet<_>>();
        self.scopes == other.scopes || set(self) == set(other)
    }

    /// Requested lifetime of the access token in seconds, if the site sets one.
    pub fn lifetime(&self) -> Option<u32> {
        self.lifetime
    }

    /// How the credentials reach the job.
    pub fn delivery(&self) -> Delivery {
        self.delivery
    }

    /// How clients in the job find them.
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
    fn a_client_gets_the_scopes_that_it_asks_for_within_what_the_site_sets() {
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
