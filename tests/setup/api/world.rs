//! The resources of a project.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::errors;
use super::server::Refusal;

pub const PROJECT: &str = "my-project";
pub const NUMBER: &str = "123456789012";

/// A policy, with the number of its version.
#[derive(Clone, Default)]
pub struct Policy {
    pub bindings: Vec<Value>,
    pub version: u64,
}

/// Public fields: a test changes what it needs.
#[derive(Clone)]
pub struct World {
    pub services: BTreeSet<String>,
    pub pools: BTreeMap<String, Value>,
    /// By `POOL/ID`.
    pub providers: BTreeMap<String, Value>,
    /// By email.
    pub accounts: BTreeMap<String, Value>,
    pub buckets: BTreeSet<String>,
    /// By `LOCATION/NAME`.
    pub repositories: BTreeMap<String, Value>,
    /// Repositories with an image.
    pub filled: BTreeSet<String>,
    /// By the resource's name: an email, `gs://BUCKET`, `LOCATION/NAME` or the project.
    pub policies: BTreeMap<String, Policy>,
    /// Parts of paths that the caller may not use, with the missing permission.
    pub denied: Vec<(&'static str, &'static str)>,
    /// How many requests do not see a new resource.
    pub lag: u32,
    unseen: BTreeMap<String, u32>,
    /// Whether somebody else changes each policy once, between reading and writing.
    pub interferes: bool,
    pub interfered: BTreeSet<String>,
    /// Operations end only when a client asks for them.
    pub slow: bool,
    made: u64,
}

impl World {
    /// A new project with one bucket, and with the APIs that are enabled in every new project.
    pub fn new() -> Self {
        Self {
            services: ["serviceusage.googleapis.com", "cloudresourcemanager.googleapis.com", "storage.googleapis.com"]
                .map(str::to_owned)
                .into(),
            pools: BTreeMap::new(),
            providers: BTreeMap::new(),
            accounts: BTreeMap::new(),
            buckets: ["training-data".to_owned()].into(),
            repositories: BTreeMap::new(),
            filled: BTreeSet::new(),
            policies: [(
                "gs://training-data".to_owned(),
                Policy {
                    bindings: vec![json!({"role": "roles/storage.admin", "members": ["user:owner@example.net"]})],
                    version: 1,
                },
            )]
            .into(),
            denied: Vec::new(),
            lag: 0,
            unseen: BTreeMap::new(),
            interferes: false,
            interfered: BTreeSet::new(),
            slow: false,
            made: 0,
        }
    }

    /// Notes that a resource was made.
    pub fn make(&mut self, name: &str) -> u64 {
        if self.lag > 0 {
            self.unseen.insert(name.to_owned(), self.lag);
        }
        self.made += 1;
        self.made
    }

    /// Whether this request sees a resource already.
    pub fn sees(&mut self, name: &str) -> bool {
        match self.unseen.get_mut(name) {
            None | Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        }
    }

    /// Time passes, and everything becomes visible.
    pub fn settle(&mut self) {
        self.unseen.clear();
        (self.lag, self.interferes) = (0, false);
    }

    /// Refuses what belongs to an API that is off.
    pub fn check_service(&self, path: &[&str], is_storage: bool) -> Result<(), Refusal> {
        let service = match path {
            _ if is_storage => "storage.googleapis.com",
            [_, _, "serviceAccounts", ..] | [_, _, _, _, "workloadIdentityPools", ..] => "iam.googleapis.com",
            [_, _, _, _, "repositories", ..] => "artifactregistry.googleapis.com",
            _ => return Ok(()),
        };
        if self.services.contains(service) { Ok(()) } else { Err(errors::disabled(service, NUMBER)) }
    }

    /// The answer to a request for which an operation runs.
    pub fn begin(&self, below: &str) -> Value {
        let name = format!("{below}operations/{}", self.made);
        if self.slow { json!({"name": name}) } else { Self::done(&name) }
    }

    /// The answer to a client that asks for an operation.
    pub fn operation(&self, name: &str) -> Value {
        Self::done(name)
    }

    fn done(name: &str) -> Value {
        json!({"name": name, "done": true, "response": {}})
    }

    /// The members who have a role on a resource.
    pub fn members(&self, resource: &str, role: &str) -> Vec<String> {
        let bindings = self.policies.get(resource).map(|policy| policy.bindings.as_slice()).unwrap_or_default();
        let with_role = bindings.iter().filter(|binding| binding["role"] == role && binding["condition"].is_null());
        let members = with_role.filter_map(|binding| binding["members"].as_array()).flatten();
        members.filter_map(|member| member.as_str().map(str::to_owned)).collect()
    }

    /// Everything, without what differs from run to run.
    pub fn dump(&self) -> Value {
        let of_resources = |all: &BTreeMap<String, Value>| {
            let without_id = |value: &Value| {
                let mut value = value.clone();
                if let Some(fields) = value.as_object_mut() {
                    fields.remove("uniqueId");
                }
                value
            };
            Value::Object(all.iter().map(|(name, value)| (name.clone(), without_id(value))).collect())
        };
        let mut policies = Map::new();
        for (name, policy) in self.policies.iter().filter(|(_, policy)| !policy.bindings.is_empty()) {
            let mut lines: Vec<String> = Vec::new();
            for binding in &policy.bindings {
                for member in binding["members"].as_array().into_iter().flatten() {
                    let condition = binding["condition"]["expression"].as_str().map(|text| format!(" if {text}"));
                    let member = member.as_str().unwrap_or("");
                    // A removed account's number.
                    let member = member.split("?uid=").next().unwrap_or("");
                    lines.push(format!(
                        "{} {member}{}",
                        binding["role"].as_str().unwrap_or(""),
                        condition.unwrap_or_default()
                    ));
                }
            }
            lines.sort();
            policies.insert(name.clone(), lines.into());
        }
        json!({
            "services": self.services,
            "pools": of_resources(&self.pools),
            "providers": of_resources(&self.providers),
            "accounts": of_resources(&self.accounts),
            "repositories": of_resources(&self.repositories),
            "policies": policies,
        })
    }
}
