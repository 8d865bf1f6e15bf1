//! Evaluates the site's rules, as a pure function: which identity a job may use.
#![forbid(unsafe_code)]

use std::fmt;

use crate::policy::config::{Adc, Principal, Rule};
use crate::policy::facts::JobFacts;
use crate::words::google::{Identity, ServiceAccountEmail};

/// The result of the rules for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The granted identity.
    pub identity: Identity,
    /// The number of the rule that granted it, counted from 1; `None` if the site has no rules.
    pub rule: Option<usize>,
    /// The rule's `auto`, if it has one.
    pub auto: Option<bool>,
    /// The rule's `adc`, if it has one.
    pub adc: Option<Adc>,
}

/// Why a job gets no identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denial {
    /// No rule matches the job.
    NoRuleMatches {
        /// The user, as text for the message.
        user: String,
        /// Account and partition, as text for the message.
        placement: String,
    },
    /// The user may not use the requested identity.
    NotAllowed {
        /// The user, as text for the message.
        user: String,
        /// The requested identity.
        identity: Identity,
        /// The number of the rule that decided, counted from 1.
        rule: Option<usize>,
    },
    /// A rule has accounts or partitions, and the prolog's record of the job's is missing.
    UnknownPlacement,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRuleMatches { user, placement } => {
                write!(f, "no rule gives user {user} {placement} a service account")
            }
            Self::NotAllowed { user, identity, rule: Some(rule) } => {
                write!(f, "user {user} may not use {identity} (rule {rule})")
            }
            Self::NotAllowed { user, identity, rule: None } => {
                write!(f, "user {user} may not use {identity}: this site has one identity for all users")
            }
            Self::UnknownPlacement => {
                f.write_str("account and partition of the job are not known on this node, because the prolog's record of them is missing")
            }
        }
    }
}

impl std::error::Error for Denial {}

impl Denial {
    /// Returns advice for the user.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::NoRuleMatches { .. } => "ask the site's administrators for one",
            Self::NotAllowed { rule: Some(_), .. } => "omit the option or name an allowed service account",
            Self::NotAllowed { rule: None, .. } => "omit the option",
            Self::UnknownPlacement => "see slurmd's log",
        }
    }
}

/// Decides which identity a job gets. The first matching rule decides; if none matches, the job is denied. Without
/// rules, all jobs have `default`, the credential configuration's identity, and no other.
///
/// # Errors
/// The denial, with the facts for the user's message.
pub fn decide(
    rules: Option<&[Rule]>,
    default: &Identity,
    facts: &JobFacts,
    asked: Option<&ServiceAccountEmail>,
) -> Result<Decision, Denial> {
    let Terms { identity: default, allow, rule, auto, adc, .. } = terms(rules, default, facts)?;
    let identity = match asked {
        Some(email) if default.service_account() != Some(email) => {
            let identity = Identity::ServiceAccount(email.clone());
            if !allow.contains(email) {
                return Err(Denial::NotAllowed { user: facts.user_text(), identity, rule });
            }
            identity
        }
        _ => default,
    };
    Ok(Decision { identity, rule, auto, adc })
}

/// Checks that a job may keep its granted identity. If the deciding rule names no service account, or if there are no
/// rules, a job with the site's default identity (`is_sites_own`) keeps it even after the credential configuration has
/// changed.
///
/// # Errors
/// The denial, if the rules no longer grant the identity.
pub(super) fn check(
    rules: Option<&[Rule]>,
    default: &Identity,
    facts: &JobFacts,
    identity: &Identity,
    is_sites_own: bool,
) -> Result<(), Denial> {
    let terms = terms(rules, default, facts)?;
    let is_allowed = identity.service_account().is_some_and(|email| terms.allow.contains(email));
    if *identity == terms.identity || is_allowed || (is_sites_own && terms.is_sites_own) {
        Ok(())
    } else {
        Err(Denial::NotAllowed { user: facts.user_text(), identity: identity.clone(), rule: terms.rule })
    }
}

/// The terms of the deciding rule, or of a site without rules.
struct Terms<'a> {
    identity: Identity,
    /// Whether the rule leaves the identity to the credential configuration.
    is_sites_own: bool,
    allow: &'a [ServiceAccountEmail],
    rule: Option<usize>,
    auto: Option<bool>,
    adc: Option<Adc>,
}

fn terms<'a>(rules: Option<&'a [Rule]>, default: &Identity, facts: &JobFacts) -> Result<Terms<'a>, Denial> {
    let Some(rules) = rules else {
        let identity = default.clone();
        return Ok(Terms { identity, is_sites_own: true, allow: &[], rule: None, auto: None, adc: None });
    };
    if facts.placement.is_none() && rules.iter().any(|rule| rule.accounts.is_some() || rule.partitions.is_some()) {
        return Err(Denial::UnknownPlacement);
    }
    let Some((index, rule)) = rules.iter().enumerate().find(|(_, rule)| mismatch(rule, facts).is_none()) else {
        return Err(Denial::NoRuleMatches { user: facts.user_text(), placement: placement_text(facts) });
    };
    let own = rule.service_account.clone().map(Identity::ServiceAccount);
    let is_sites_own = own.is_none();
    Ok(Terms {
        identity: own.unwrap_or_else(|| default.clone()),
        is_sites_own,
        allow: &rule.allow,
        rule: Some(index + 1),
        auto: rule.auto,
        adc: rule.adc,
    })
}

/// A key of a rule that restricts the jobs that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Key {
    Users,
    Groups,
    Accounts,
    Partitions,
}

/// Returns the first key of a rule that does not match, or `None` if the rule matches.
pub fn mismatch(rule: &Rule, facts: &JobFacts) -> Option<Key> {
    let names = |names: &Option<Vec<String>>, fact: Option<&String>| {
        names.as_ref().is_none_or(|names| fact.is_some_and(|fact| names.contains(fact)))
    };
    let user = |user: &Principal| is(user, facts.uid, facts.user.as_deref());
    let group = |group: &Principal| facts.groups.iter().any(|g| is(group, g.id, g.name.as_deref()));
    let placement = facts.placement.as_ref();
    let matches = [
        (Key::Users, rule.users.as_ref().is_none_or(|users| users.iter().any(user))),
        (Key::Groups, rule.groups.as_ref().is_none_or(|groups| groups.iter().any(group))),
        (Key::Accounts, names(&rule.accounts, placement.and_then(|p| p.account.as_ref()))),
        (Key::Partitions, names(&rule.partitions, placement.and_then(|p| p.partition.as_ref()))),
    ];
    matches.into_iter().find_map(|(key, matches)| (!matches).then_some(key))
}

fn is(principal: &Principal, id: u32, name: Option<&str>) -> bool {
    match principal {
        Principal::Id(number) => *number == id,
        Principal::Name(text) => name == Some(text.as_str()) || text.parse() == Ok(id),
    }
}

fn placement_text(facts: &JobFacts) -> String {
    let placement = facts.placement.clone().unwrap_or_default();
    let or_none =
        |name: Option<String>| name.map_or_else(|| "none".to_owned(), |name| crate::words::names::clip(&name, 40));
    format!("(account {}, partition {})", or_none(placement.account), or_none(placement.partition))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::facts::Placement;
    use crate::words::names::JobId;
    use crate::world::sys::Group;

    fn email(name: &str) -> ServiceAccountEmail {
        ServiceAccountEmail::parse(&format!("{name}@p.iam.gserviceaccount.com")).unwrap()
    }

    fn alice() -> JobFacts {
        let group = |id, name: &str| Group { id, name: Some(name.to_owned()) };
        JobFacts {
            job: JobId(7),
            uid: 1000,
            gid: 1000,
            user: Some("alice".to_owned()),
            groups: vec![group(1000, "alice"), group(1100, "ml")],
            placement: Some(Placement { account: Some("vision".to_owned()), partition: Some("gpu".to_owned()) }),
        }
    }

    fn rules(text: &str) -> Vec<Rule> {
        serde_json::from_str(text).unwrap()
    }

    /// Returns the rule that decides for `facts`, or `None` if the job is denied.
    fn deciding(text: &str, facts: &JobFacts) -> Option<usize> {
        decide(Some(&rules(text)), &Identity::Federated, facts, None).ok().and_then(|decision| decision.rule)
    }

    #[test]
    fn without_rules_all_jobs_have_the_configurations_identity_and_no_other() {
        let default = Identity::ServiceAccount(email("site"));
        let granted =
            |asked: Option<&str>| decide(None, &default, &alice(), asked.map(email).as_ref()).map(|g| g.identity);
        assert_eq!(granted(None), Ok(default.clone()));
        assert_eq!(granted(Some("site")), Ok(default.clone()));
        let denial = granted(Some("other")).unwrap_err();
        assert!(
            denial.to_string().starts_with("user alice (1000) may not use other@p.iam.gserviceaccount.com"),
            "{denial}"
        );
    }

    #[test]
    fn each_key_that_a_rule_has_must_match() {
        for (rule, matches) in [
            (r#"{}"#, true),
            (r#"{"users": ["alice"]}"#, true),
            (r#"{"users": [1000]}"#, true),
            (r#"{"users": ["1000"]}"#, true),
            (r#"{"users": ["bob", "alice"]}"#, true),
            (r#"{"users": ["bob"]}"#, false),
            (r#"{"users": []}"#, false),
            (r#"{"groups": ["ml"]}"#, true),
            (r#"{"groups": [1100]}"#, true),
            (r#"{"groups": ["wheel"]}"#, false),
            (r#"{"accounts": ["vision"]}"#, true),
            (r#"{"accounts": ["speech"]}"#, false),
            (r#"{"partitions": ["gpu"], "accounts": ["vision"], "groups": ["ml"], "users": ["alice"]}"#, true),
            (r#"{"partitions": ["cpu"], "accounts": ["vision"], "groups": ["ml"], "users": ["alice"]}"#, false),
        ] {
            assert_eq!(deciding(&format!("[{rule}]"), &alice()), matches.then_some(1), "{rule}");
        }
    }

    #[test]
    fn the_first_key_that_does_not_match_is_named() {
        for (rule, key) in [
            (r#"{"users": ["alice"], "groups": ["wheel"], "accounts": ["x"]}"#, Some(Key::Groups)),
            (r#"{"users": ["bob"], "groups": ["wheel"]}"#, Some(Key::Users)),
            (r#"{"accounts": ["vision"], "partitions": ["cpu"]}"#, Some(Key::Partitions)),
            (r#"{"accounts": []}"#, Some(Key::Accounts)),
            (r#"{"users": ["alice"], "groups": ["ml"]}"#, None),
        ] {
            assert_eq!(mismatch(&rules(&format!("[{rule}]"))[0], &alice()), key, "{rule}");
        }
    }

    #[test]
    fn the_first_match_decides_and_no_match_denies() {
        assert_eq!(deciding(r#"[{"users": ["bob"]}, {"groups": ["ml"]}, {}]"#, &alice()), Some(2));
        assert_eq!(deciding("[]", &alice()), None);
        let text = r#"[{"service_account": "a@p.iam.gserviceaccount.com", "allow": ["b@p.iam.gserviceaccount.com"]}]"#;
        let granted = |asked: Option<&str>| {
            decide(Some(&rules(text)), &Identity::Federated, &alice(), asked.map(email).as_ref()).map(|g| g.identity)
        };
        assert_eq!(granted(None), Ok(Identity::ServiceAccount(email("a"))));
        assert_eq!(granted(Some("b")), Ok(Identity::ServiceAccount(email("b"))));
        assert!(matches!(granted(Some("c")), Err(Denial::NotAllowed { rule: Some(1), .. })));
    }

    #[test]
    fn rules_on_the_placement_deny_a_job_whose_placement_is_unknown() {
        let facts = JobFacts { placement: None, ..alice() };
        let text = r#"[{"accounts": ["guests"], "service_account": "a@p.iam.gserviceaccount.com"}, {}]"#;
        assert_eq!(decide(Some(&rules(text)), &Identity::Federated, &facts, None), Err(Denial::UnknownPlacement));
        assert_eq!(deciding(r#"[{"users": ["alice"]}]"#, &facts), Some(1));
    }

    #[test]
    fn a_grant_holds_while_the_rules_grant_the_same_identity() {
        let (old, new) = (Identity::ServiceAccount(email("old")), Identity::ServiceAccount(email("new")));
        let holds = |text: Option<&str>, identity: &Identity, is_sites_own: bool| {
            let rules = text.map(rules);
            check(rules.as_deref(), &new, &alice(), identity, is_sites_own).is_ok()
        };
        let x = Identity::ServiceAccount(email("x"));
        let names_x = r#"[{"service_account": "x@p.iam.gserviceaccount.com"}]"#;
        let allows_old =
            r#"[{"service_account": "x@p.iam.gserviceaccount.com", "allow": ["old@p.iam.gserviceaccount.com"]}]"#;
        for (text, identity, is_sites_own, expected) in [
            (None, &old, true, true),
            (None, &new, true, true),
            (None, &x, false, false),
            (Some("[{}]"), &old, true, true),
            (Some("[{}]"), &x, false, false),
            (Some(names_x), &old, true, false),
            (Some(names_x), &x, false, true),
            (Some(allows_old), &old, true, true),
            (Some(r#"[{"users": ["bob"]}]"#), &old, true, false),
        ] {
            assert_eq!(holds(text, identity, is_sites_own), expected, "{text:?} {identity}");
        }
    }
}
