//! Service accounts, pools and providers. Removed pools and providers stay for thirty days, and keep their names.

use serde_json::{Map, Value, json};

use super::server::{Answer, Ask, Refusal};
use super::world::{NUMBER, PROJECT, World};
use super::{errors, policies};
use crate::google::errors as words;

/// `projects/P/serviceAccounts/...`
pub fn account(ask: &Ask<'_>, world: &mut World) -> Answer {
    let project = ask.path[1];
    let Some(&email) = ask.path.get(3) else {
        ask.only(&["accountId", "serviceAccount"])?;
        let id = ask.text("accountId");
        let is_valid = (6..=30).contains(&id.len())
            && id.starts_with(|first: char| first.is_ascii_lowercase())
            && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if project != PROJECT || !is_valid {
            return Err(errors::invalid(format!("The account ID \"{id}\" does not have a valid form.")));
        }
        let email = format!("{id}@{PROJECT}.iam.gserviceaccount.com");
        if world.accounts.contains_key(&email) {
            return Err(errors::exists(&format!("Service account {id} already exists within project {PROJECT}.")));
        }
        world.make(&format!("member {email}"));
        let number = world.make(&email);
        let mut made = ask.body["serviceAccount"].clone();
        made["email"] = email.clone().into();
        made["uniqueId"] = format!("1{number:020}").into();
        world.accounts.insert(email, made.clone());
        return Ok(made);
    };
    let found = world.accounts.get(email).cloned();
    let Some(found) = found.filter(|_| (project == PROJECT || project == "-") && world.sees(email)) else {
        return Err(errors::unknown_account(email));
    };
    match (ask.method, ask.verb) {
        ("GET", "") => Ok(found),
        (_, "getIamPolicy" | "setIamPolicy") => policies::answer(ask, email, world),
        ("DELETE", "") => {
            world.accounts.remove(email);
            world.policies.remove(email);
            policies::mark_removed(email, found["uniqueId"].as_str().unwrap_or(""), world);
            Ok(json!({}))
        }
        _ => Err(Box::new(words::wrong_method(ask.method))),
    }
}

/// `projects/P/locations/global/workloadIdentityPools/...`
pub fn pool(ask: &Ask<'_>, world: &mut World) -> Answer {
    let below = format!("projects/{NUMBER}/locations/global/workloadIdentityPools");
    let Some(&id) = ask.path.get(5) else {
        let id = ask.query("workloadIdentityPoolId")?.to_owned();
        check_id(&id)?;
        ask.only(&["description", "disabled", "displayName"])?;
        let name = format!("{below}/{id}");
        if world.pools.contains_key(&id) {
            return Err(errors::exists(&name));
        }
        world.pools.insert(id.clone(), new(&ask.body, &name));
        world.make(&name);
        return Ok(world.begin(&format!("{below}/{id}/")));
    };
    let name = format!("{below}/{id}");
    if !world.pools.contains_key(id) || !world.sees(&name) {
        return Err(errors::not_found(&name));
    }
    if ask.path.len() > 6 {
        return provider(ask, id, &name, world);
    }
    let operation = world.begin(&format!("{name}/"));
    change(ask, world.pools.get_mut(id), &name, operation)
}

fn provider(ask: &Ask<'_>, pool: &str, below: &str, world: &mut World) -> Answer {
    if world.pools[pool]["state"] == "DELETED" {
        return Err(errors::not_found(below));
    }
    let Some(&id) = ask.path.get(7) else {
        let start = format!("{pool}/");
        let live =
            |provider: &&Value| provider["state"] == "ACTIVE" || ask.request.query("showDeleted") == Some("True");
        let of_pool = world.providers.iter().filter(|(key, _)| key.starts_with(&start)).map(|(_, value)| value);
        if ask.method == "GET" {
            let list: Vec<&Value> = of_pool.filter(live).collect();
            return Ok(json!({ "workloadIdentityPoolProviders": list }));
        }
        let id = ask.query("workloadIdentityPoolProviderId")?.to_owned();
        check_id(&id)?;
        let key = format!("{pool}/{id}");
        let name = format!("{below}/providers/{id}");
        if world.providers.contains_key(&key) {
            return Err(errors::exists(&name));
        }
        check_provider(&ask.body)?;
        world.providers.insert(key, new(&ask.body, &name));
        world.make(&name);
        return Ok(world.begin(&format!("{name}/")));
    };
    let name = format!("{below}/providers/{id}");
    let key = format!("{pool}/{id}");
    if !world.providers.contains_key(&key) || !world.sees(&name) {
        return Err(errors::not_found(&name));
    }
    let operation = world.begin(&format!("{name}/"));
    change(ask, world.providers.get_mut(&key), &name, operation)
}

fn new(body: &Value, name: &str) -> Value {
    let mut made = body.clone();
    made["name"] = name.into();
    made["state"] = "ACTIVE".into();
    // protobuf omits false values.
    if let Some(fields) = made.as_object_mut() {
        fields.retain(|_, value| *value != json!(false));
    }
    made
}

/// What pools and providers have in common.
fn change(ask: &Ask<'_>, resource: Option<&mut Value>, name: &str, operation: Value) -> Answer {
    let resource = resource.ok_or_else(|| errors::not_found(name))?;
    let is_deleted = resource["state"] == "DELETED";
    match (ask.method, ask.verb) {
        ("GET", "") => Ok(resource.clone()),
        ("DELETE", "") if !is_deleted => {
            resource["state"] = "DELETED".into();
            Ok(operation)
        }
        ("POST", "undelete") if is_deleted => {
            resource["state"] = "ACTIVE".into();
            Ok(operation)
        }
        ("PATCH", "") if !is_deleted => {
            let mut changed = resource.clone();
            for path in ask.query("updateMask")?.split(',') {
                let pointer = format!("/{}", path.replace('.', "/"));
                let value = ask.body.pointer(&pointer).cloned().unwrap_or(Value::Null);
                match path.split_once('.') {
                    Some((outer, inner)) => changed[outer][inner] = value,
                    None => changed[path] = value,
                }
            }
            remove_nulls(&mut changed);
            if name.contains("/providers/") {
                check_provider(&changed)?;
            }
            *resource = changed;
            Ok(operation)
        }
        _ => Err(errors::precondition(format!("{name} is in a state that does not allow this."))),
    }
}

fn remove_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null() && *value != json!("") && *value != json!([]));
        fields.values_mut().for_each(remove_nulls);
    }
}

fn check_id(id: &str) -> Result<(), Refusal> {
    let is_valid = (4..=32).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if is_valid && !id.starts_with("gcp-") {
        Ok(())
    } else {
        Err(errors::invalid(format!("The ID {id} is not valid.")))
    }
}

fn check_provider(body: &Value) -> Result<(), Refusal> {
    let empty = Map::new();
    let mapping = body["attributeMapping"].as_object().unwrap_or(&empty);
    if !mapping.contains_key("google.subject") {
        return Err(errors::invalid("The attribute mapping must contain google.subject."));
    }
    let issuer = body["oidc"]["issuerUri"].as_str().unwrap_or("");
    if !issuer.starts_with("https://") {
        return Err(errors::invalid("The issuer URI must be an https URL."));
    }
    let audiences = body["oidc"]["allowedAudiences"].as_array().map_or(0, Vec::len);
    if audiences > 10 {
        return Err(errors::invalid("There are more than 10 allowed audiences."));
    }
    let is_set = |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|value| value["keys"].is_array());
    if body["oidc"]["jwksJson"].as_str().is_some_and(|text| !is_set(text)) {
        return Err(errors::invalid("The JWKS is not valid."));
    }
    let condition = body["attributeCondition"].as_str().unwrap_or("");
    if condition.matches('(').count() != condition.matches(')').count() || condition.ends_with('=') {
        return Err(errors::invalid(format!("Error parsing attribute condition: {condition}")));
    }
    Ok(())
}
