//! The project itself, its APIs, and its repositories of images.

use serde_json::{Value, json};

use super::server::{Answer, Ask};
use super::world::{NUMBER, PROJECT, World};
use super::{errors, policies};
use crate::google::errors as words;

/// APIs that exist.
const KNOWN: [&str; 5] = [
    "artifactregistry.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "storage.googleapis.com",
    "sts.googleapis.com",
];

pub fn answer(ask: &Ask<'_>, world: &mut World) -> Answer {
    let project = ask.path.get(1).copied().unwrap_or("");
    if project != PROJECT {
        return Err(errors::denied("resourcemanager.projects.get", &format!("projects/{project}")));
    }
    match (ask.method, &ask.path[2..], ask.verb) {
        ("GET", [], "") => Ok(json!({
            "projectId": PROJECT, "projectNumber": NUMBER, "name": "My project", "lifecycleState": "ACTIVE",
        })),
        ("POST", [], "getIamPolicy" | "setIamPolicy") => policies::answer(ask, PROJECT, world),
        ("GET", ["services"], "") => {
            if ask.request.query("filter") != Some("state:ENABLED") {
                return Err(errors::invalid("This filter is not supported."));
            }
            let services: Vec<Value> = world
                .services
                .iter()
                .map(|name| {
                    let full = format!("projects/{NUMBER}/services/{name}");
                    json!({"name": full, "config": {"name": name}, "state": "ENABLED"})
                })
                .collect();
            Ok(json!({ "services": services }))
        }
        ("POST", ["services"], "batchEnable") => {
            ask.only(&["serviceIds"])?;
            let names = ask.body["serviceIds"].as_array().cloned().unwrap_or_default();
            enable(names.iter().filter_map(Value::as_str), world)
        }
        ("POST", ["services", name], "enable") => enable([*name].into_iter(), world),
        _ => Err(Box::new(words::not_found(&ask.request.path))),
    }
}

fn enable<'a>(names: impl Iterator<Item = &'a str>, world: &mut World) -> Answer {
    for name in names {
        if !KNOWN.contains(&name) {
            return Err(errors::invalid(format!("Not found or permission denied for service(s): {name}.")));
        }
        world.services.insert(name.to_owned());
        world.make(name);
    }
    Ok(world.begin(""))
}

/// `projects/P/locations/L/repositories/...`
pub fn repository(ask: &Ask<'_>, world: &mut World) -> Answer {
    let (location, rest) = (ask.path[3], &ask.path[5..]);
    let below = format!("projects/{PROJECT}/locations/{location}/");
    if !["europe", "us", "asia"].iter().any(|start| location.starts_with(start)) {
        return Err(errors::invalid(format!("Location {location} is not found.")));
    }
    let Some(&id) = rest.first() else {
        ask.only(&["description", "format", "mode", "name"])?;
        let id = ask.query("repositoryId")?.to_owned();
        let name = format!("{below}repositories/{id}");
        if ask.text("format") != "DOCKER" || ask.text("name") != name {
            return Err(errors::invalid("The format or the name of the repository is wrong."));
        }
        if world.repositories.contains_key(&format!("{location}/{id}")) {
            return Err(errors::exists(&name));
        }
        let made = json!({"name": name, "format": "DOCKER", "description": ask.text("description")});
        world.repositories.insert(format!("{location}/{id}"), made);
        world.make(&name);
        return Ok(world.begin(&below));
    };
    let key = format!("{location}/{id}");
    let Some(found) = world.repositories.get(&key).cloned() else {
        return Err(errors::not_found(&format!("{below}repositories/{id}")));
    };
    match (ask.method, &rest[1..], ask.verb) {
        ("GET", [], "") => Ok(found),
        (_, [], "getIamPolicy" | "setIamPolicy") => policies::answer(ask, &key, world),
        ("GET", ["packages"], "") if world.filled.contains(&key) => {
            Ok(json!({"packages": [{"name": format!("{below}repositories/{id}/packages/trainer")}]}))
        }
        ("GET", ["packages"], "") => Ok(json!({})),
        ("DELETE", [], "") => {
            world.repositories.remove(&key);
            world.policies.remove(&key);
            Ok(world.begin(&below))
        }
        _ => Err(Box::new(words::not_found(&ask.request.path))),
    }
}
