//! `gcp-wif explain`: shows which rule decides for a user, and why.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use serde_json::{Value, json};

use super::plugstack::Plugstack;
use super::{Screen, Status};
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::config::{Adc, Rule};
use gcp_wif_core::policy::facts::{JobFacts, Placement};
use gcp_wif_core::policy::rules::{self, Decision, Denial, Key};
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::google::ServiceAccountEmail;
use gcp_wif_core::words::names::{JobId, clip};
use gcp_wif_core::world::sys;

/// Show which rule decides for a user, and why
///
/// The groups are those that this node knows. Exit status: 0 granted, 1 denied, 2 unknown user.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The user, by name or number
    #[arg(long)]
    user: String,
    /// The Slurm account that the job would run under
    #[arg(long)]
    account: Option<String>,
    /// The partition that the job would run in
    #[arg(long)]
    partition: Option<String>,
    /// The service account that --gcp-wif-service-account would name
    #[arg(long, value_name = "EMAIL", value_parser = ServiceAccountEmail::parse)]
    service_account: Option<ServiceAccountEmail>,
    /// The site configuration [default: the one that plugstack.conf names, or /etc/slurm/gcp-wif.json]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments, json: bool, screen: &mut Screen<'_>) -> Status {
    let Some(facts) = facts(arguments) else {
        let user = clip(&arguments.user, 80);
        screen.complain(&format!("gcp-wif explain: this node has no user \"{user}\""));
        return Status::Usage;
    };
    let plugstack = Plugstack::of_node().ok();
    let site = match Site::load(&super::config_path(arguments.config.clone(), plugstack.as_ref())) {
        Ok(site) => site,
        Err(error) => {
            screen.complain(&Failure::from(error).to_string());
            return Status::Failure;
        }
    };
    let decision = rules::decide(
        site.config.rules.as_deref(),
        &site.default_identity(),
        &facts,
        arguments.service_account.as_ref(),
    );
    let explanation = Explanation {
        facts: &facts,
        rules: site.config.rules.as_deref(),
        decision: &decision,
        sites: Defaults { auto: site.config.auto, adc: site.config.adc },
    };
    if json {
        screen.json(&explanation.json());
    } else {
        explanation.lines().iter().for_each(|line| screen.line(line));
    }
    if decision.is_ok() { Status::Success } else { Status::Failure }
}

fn facts(arguments: &Arguments) -> Option<JobFacts> {
    let user = match arguments.user.parse() {
        Ok(uid) => sys::user(uid),
        Err(_) => sys::user_named(&arguments.user),
    }?;
    Some(JobFacts {
        job: JobId(0),
        uid: user.uid,
        gid: user.gid,
        groups: sys::groups(Some(&user.name), user.gid),
        user: Some(user.name),
        placement: Some(Placement { account: arguments.account.clone(), partition: arguments.partition.clone() }),
    })
}

struct Explanation<'a> {
    facts: &'a JobFacts,
    rules: Option<&'a [Rule]>,
    decision: &'a Result<Decision, Denial>,
    sites: Defaults,
}

/// The site's settings, used if a rule has none.
struct Defaults {
    auto: bool,
    adc: Adc,
}

impl Explanation<'_> {
    fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("user       {}", self.facts.user_text()),
            format!("groups     {}", self.groups()),
            format!("account    {}", self.account().unwrap_or("not given (--account)")),
            format!("partition  {}", self.partition().unwrap_or("not given (--partition)")),
        ];
        for (number, why) in self.considered() {
            let why = why.map_or_else(|| "matches, and decides".to_owned(), |key| self.reason(key));
            lines.push(format!("{:<11}{why}", format!("rule {number}")));
        }
        lines.push(match self.decision {
            Ok(granted) if granted.rule.is_some() => format!("granted    {}", granted.identity),
            Ok(granted) => format!("granted    {}: this site has one identity for all users", granted.identity),
            Err(denial) => format!("denied     {}", Failure::from(denial.clone()).text()),
        });
        lines.extend(self.auto().map(|auto| {
            format!("auto       {}", if auto { "yes: without an option" } else { "no: with --gcp-wif only" })
        }));
        lines.extend(self.adc().map(|adc| format!("adc        {adc}")));
        // The user database names users and groups, and what is asked for is the caller's.
        lines.iter().map(|line| clip(line, usize::MAX)).collect()
    }

    fn json(&self) -> Value {
        let rules: Vec<Value> = self
            .considered()
            .map(|(number, why)| json!({"rule": number, "matches": why.is_none(), "mismatch": why.map(name)}))
            .collect();
        let groups: Vec<Value> = self.facts.groups.iter().map(|g| json!({"name": g.name, "gid": g.id})).collect();
        let granted = self.decision.as_ref().ok();
        json!({
            "user": self.facts.user,
            "uid": self.facts.uid,
            "groups": groups,
            "account": self.account(),
            "partition": self.partition(),
            "rules": rules,
            "granted": granted.is_some(),
            "identity": granted.map(|decision| decision.identity.to_string()),
            "service_account": granted.and_then(|decision| decision.identity.service_account()),
            "auto": self.auto(),
            "adc": self.adc(),
            "reason": self.decision.as_ref().err().map(|denial| Failure::from(denial.clone()).text()),
        })
    }

    /// Returns the rules up to the deciding one, counted from 1, each with the first key that does not match.
    fn considered(&self) -> impl Iterator<Item = (usize, Option<Key>)> {
        let rules = self.rules.unwrap_or_default();
        let all = rules.iter().map(|rule| rules::mismatch(rule, self.facts));
        let first = rules.iter().position(|rule| rules::mismatch(rule, self.facts).is_none());
        (1..).zip(all).take(first.map_or(rules.len(), |index| index + 1))
    }

    /// Returns whether the job gets credentials without an option.
    fn auto(&self) -> Option<bool> {
        self.decision.as_ref().ok().map(|decision| decision.auto.unwrap_or(self.sites.auto))
    }

    /// Returns how clients in the job find the credentials.
    fn adc(&self) -> Option<Adc> {
        self.decision.as_ref().ok().map(|decision| decision.adc.unwrap_or(self.sites.adc))
    }

    fn reason(&self, key: Key) -> String {
        let key_name = name(key);
        let not_given = |option: &str| format!("{key_name}: the rule requires one, and none was given (--{option})");
        let not_named = |value: &str| format!("{key_name}: {value} is not among them");
        match key {
            Key::Users => not_named(&self.facts.user_text()),
            Key::Groups => format!("{key_name}: the user is in none of them"),
            Key::Accounts => self.account().map_or_else(|| not_given("account"), not_named),
            Key::Partitions => self.partition().map_or_else(|| not_given("partition"), not_named),
        }
    }

    fn groups(&self) -> String {
        let text = |group: &sys::Group| match &group.name {
            Some(name) => format!("{name} ({})", group.id),
            None => group.id.to_string(),
        };
        self.facts.groups.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    fn account(&self) -> Option<&str> {
        self.facts.placement.as_ref()?.account.as_deref()
    }

    fn partition(&self) -> Option<&str> {
        self.facts.placement.as_ref()?.partition.as_deref()
    }
}

fn name(key: Key) -> &'static str {
    match key {
        Key::Users => "users",
        Key::Groups => "groups",
        Key::Accounts => "accounts",
        Key::Partitions => "partitions",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gcp_wif_core::words::google::Identity;

    fn explanation(rules: &str, asked: Option<&str>) -> (Vec<String>, Value) {
        let rules: Vec<Rule> = serde_json::from_str(rules).unwrap();
        let group = |id, name: &str| sys::Group { id, name: Some(name.to_owned()) };
        let facts = JobFacts {
            job: JobId(0),
            uid: 1000,
            gid: 1000,
            user: Some("alice".to_owned()),
            groups: vec![group(1000, "alice"), group(1100, "ml")],
            placement: Some(Placement { account: Some("vision".to_owned()), partition: None }),
        };
        let asked = asked.map(|email| ServiceAccountEmail::parse(email).unwrap());
        let decision = rules::decide(Some(&rules), &Identity::Federated, &facts, asked.as_ref());
        let sites = Defaults { auto: true, adc: Adc::File };
        let explanation = Explanation { facts: &facts, rules: Some(&rules), decision: &decision, sites };
        (explanation.lines(), explanation.json())
    }

    #[test]
    fn each_rule_before_the_deciding_one_shows_what_does_not_match() {
        let rules = r#"[{"users": ["bob"]}, {"groups": ["wheel"]}, {"accounts": ["speech"]}, {"partitions": ["gpu"]},
            {"groups": ["ml"], "service_account": "a@p.iam.gserviceaccount.com", "auto": false, "adc": "metadata"}, {}]"#;
        let (lines, json) = explanation(rules, None);
        let expected = [
            "user       alice (1000)",
            "groups     alice (1000), ml (1100)",
            "account    vision",
            "partition  not given (--partition)",
            "rule 1     users: alice (1000) is not among them",
            "rule 2     groups: the user is in none of them",
            "rule 3     accounts: vision is not among them",
            "rule 4     partitions: the rule requires one, and none was given (--partition)",
            "rule 5     matches, and decides",
            "granted    a@p.iam.gserviceaccount.com",
            "auto       no: with --gcp-wif only",
            "adc        metadata",
        ];
        assert_eq!(lines, expected);
        assert_eq!(json["rules"].as_array().unwrap().len(), 5);
        assert_eq!(json["rules"][1], json!({"rule": 2, "matches": false, "mismatch": "groups"}));
        assert_eq!((&json["auto"], &json["adc"]), (&json!(false), &json!("metadata")));
        assert_eq!((&json["granted"], &json["service_account"]), (&json!(true), &json!("a@p.iam.gserviceaccount.com")));
    }

    #[test]
    fn names_are_shown_as_they_are() {
        let hostile = "a\n\u{1b}[2J\u{9b}\u{202e}\u{200b}b";
        let placement = Some(Placement { account: Some(hostile.to_owned()), partition: Some(hostile.to_owned()) });
        let groups = vec![sys::Group { id: 1, name: Some(hostile.to_owned()) }];
        let facts = JobFacts { job: JobId(0), uid: 1, gid: 1, user: Some(hostile.to_owned()), groups, placement };
        for rules in [r#"[{"users": ["x"]}]"#, r#"[{"accounts": ["x"]}]"#, r#"[{"partitions": ["x"]}]"#, "[{}]"] {
            let rules: Vec<Rule> = serde_json::from_str(rules).unwrap();
            let decision = rules::decide(Some(&rules), &Identity::Federated, &facts, None);
            let sites = Defaults { auto: true, adc: Adc::File };
            let explanation = Explanation { facts: &facts, rules: Some(&rules), decision: &decision, sites };
            let shown = "a\\n\\u{1b}[2J\\u{9b}\\u{202e}\\u{200b}b";
            for line in explanation.lines() {
                assert_eq!(line, clip(&line, usize::MAX));
            }
            assert!(explanation.lines()[0].contains(shown), "{:?}", explanation.lines());
        }
    }

    #[test]
    fn a_denial_has_the_same_text_as_in_a_job() {
        let (lines, json) = explanation(r#"[{"users": ["bob"]}]"#, None);
        let words = "no rule gives user alice (1000) (account vision, partition none) a service account";
        assert!(lines.last().unwrap().starts_with(&format!("denied     {words}")), "{lines:?}");
        assert!(json["reason"].as_str().unwrap().starts_with(words) && json["granted"] == json!(false));
        let (lines, _) = explanation("[{}]", Some("x@p.iam.gserviceaccount.com"));
        assert!(lines.last().unwrap().contains("alice (1000) may not use x@p.iam.gserviceaccount.com (rule 1)"));
    }
}
