//! Policies: clients read them, change them, and write them with the etag that they read.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::errors;
use super::server::{Answer, Ask, Refusal};
use super::world::{NUMBER, Policy, World};
use crate::google::errors as words;

/// What each resource's policy may have.
const ROLES: [&str; 8] = [
    "roles/artifactregistry.reader",
    "roles/iam.workloadIdentityUser",
    "roles/serviceusage.serviceUsageConsumer",
    "roles/storage.admin",
    "roles/storage.objectCreator",
    "roles/storage.objectUser",
    "roles/storage.objectViewer",
    "roles/viewer",
];

/// Reads or writes the policy of a resource, as the verb says.
pub fn answer(ask: &Ask<'_>, resource: &str, world: &mut World) -> Answer {
    match ask.verb {
        "getIamPolicy" => Ok(read(resource, world)),
        "setIamPolicy" => {
            ask.only(&["policy", "updateMask"])?;
            write(&ask.body["policy"], resource, world, errors::concurrent)
        }
        _ => Err(errors::invalid(format!("There is no {}.", ask.verb))),
    }
}

/// `GET` and `PUT /storage/v1/b/BUCKET/iam`.
pub fn bucket(ask: &Ask<'_>, world: &mut World) -> Answer {
    let ["b", name, "iam"] = ask.path[..] else {
        return Err(Box::new(words::not_found(&ask.request.path)));
    };
    if !world.buckets.contains(name) {
        return Err(Box::new(words::storage(404, "notFound", "The specified bucket does not exist.")));
    }
    let resource = format!("gs://{name}");
    match ask.method {
        "GET" => Ok(read(&resource, world)),
        "PUT" => {
            let stale = || {
                let text = "At least one of the pre-conditions you specified did not hold.";
                Box::new(words::storage(412, "conditionNotMet", text))
            };
            write(&ask.body, &resource, world, stale)
        }
        _ => Err(Box::new(words::wrong_method(ask.method))),
    }
}

fn etag(version: u64) -> String {
    STANDARD.encode(version.to_be_bytes())
}

fn read(resource: &str, world: &World) -> Value {
    let policy = world.policies.get(resource).cloned().unwrap_or_default();
    let mut answer = json!({"etag": etag(policy.version), "version": 1});
    if !policy.bindings.is_empty() {
        answer["bindings"] = policy.bindings.into();
    }
    answer
}

fn write(policy: &Value, resource: &str, world: &mut World, stale: fn() -> Refusal) -> Answer {
    let old = world.policies.get(resource).cloned().unwrap_or_default();
    if world.interferes && world.interfered.insert(resource.to_owned()) {
        world.policies.insert(resource.to_owned(), Policy { version: old.version + 1, ..old });
        return Err(stale());
    }
    if policy["etag"] != etag(old.version) {
        return Err(stale());
    }
    let bindings = policy["bindings"].as_array().cloned().unwrap_or_default();
    for binding in &bindings {
        let role = binding["role"].as_str().unwrap_or("");
        if !ROLES.contains(&role) {
            return Err(errors::invalid(format!("Role {role} is not supported for this resource.")));
        }
        let members = binding["members"].as_array().filter(|members| !members.is_empty());
        for member in members.ok_or_else(|| errors::invalid("A binding has no members."))? {
            check_member(member.as_str().unwrap_or(""), role, world)?;
        }
    }
    world.policies.insert(resource.to_owned(), Policy { bindings, version: old.version + 1 });
    Ok(read(resource, world))
}

/// Refuses members that Google does not know, and members that nobody should admit.
fn check_member(member: &str, role: &str, world: &mut World) -> Result<(), Refusal> {
    let wrong = |text: &str| Err(errors::invalid(format!("{text}: {member}")));
    if let Some(email) = member.strip_prefix("serviceAccount:") {
        if !world.accounts.contains_key(email) || !world.sees(&format!("member {email}")) {
            return Err(errors::invalid(format!("Service account {email} does not exist.")));
        }
        return Ok(());
    }
    if let Some(name) = member.strip_prefix("principal://iam.googleapis.com/") {
        let parts: Vec<&str> = name.splitn(8, '/').collect();
        let ["projects", number, "locations", "global", "workloadIdentityPools", pool, "subject", subject] = parts[..]
        else {
            return wrong("Principal is not of a valid form");
        };
        // Google takes a pool's name unseen; here it has to be a real one.
        if number != NUMBER || !world.pools.contains_key(pool) || subject.is_empty() || subject.contains('*') {
            return wrong("Principal is of no pool");
        }
        return Ok(());
    }
    let is_removed = member.starts_with("deleted:serviceAccount:");
    let is_human = member.starts_with("user:") && role != "roles/iam.workloadIdentityUser";
    // principalSet is valid at Google, and never what these nodes need.
    if is_removed || is_human { Ok(()) } else { wrong("Member is not supported here") }
}

/// Updates an account's roles when it is removed.
pub fn mark_removed(email: &str, id: &str, world: &mut World) {
    for policy in world.policies.values_mut() {
        for binding in &mut policy.bindings {
            for member in binding["members"].as_array_mut().into_iter().flatten() {
                if *member == format!("serviceAccount:{email}") {
                    *member = format!("deleted:serviceAccount:{email}?uid={id}").into();
                    policy.version += 1;
                }
            }
        }
    }
}
