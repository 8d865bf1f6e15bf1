//! Refusals of Google's administrative endpoints, `google.rpc.Status` as JSON.

use serde_json::{Value, json};

use super::server::Refusal;
use crate::google::errors::{error_info, status};

pub fn invalid(message: impl Into<String>) -> Refusal {
    Box::new(status(400, "INVALID_ARGUMENT", message, Value::Null))
}

pub fn not_found(name: &str) -> Refusal {
    Box::new(status(404, "NOT_FOUND", format!("Requested entity was not found: {name}."), Value::Null))
}

pub fn unknown_account(email: &str) -> Refusal {
    Box::new(status(404, "NOT_FOUND", format!("Unknown service account: {email}"), Value::Null))
}

pub fn exists(name: &str) -> Refusal {
    Box::new(status(409, "ALREADY_EXISTS", format!("Requested entity already exists: {name}"), Value::Null))
}

pub fn precondition(message: impl Into<String>) -> Refusal {
    Box::new(status(400, "FAILED_PRECONDITION", message, Value::Null))
}

pub fn concurrent() -> Refusal {
    let text =
        "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff.";
    Box::new(status(409, "ABORTED", text, Value::Null))
}

pub fn unauthenticated() -> Refusal {
    let text = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other \
                valid authentication credential.";
    Box::new(status(401, "UNAUTHENTICATED", text, Value::Null))
}

pub fn denied(permission: &str, resource: &str) -> Refusal {
    let text = format!("Permission '{permission}' denied on resource '//{resource}' (or it may not exist).");
    let details = error_info("IAM_PERMISSION_DENIED", "iam.googleapis.com", json!({"permission": permission}));
    Box::new(status(403, "PERMISSION_DENIED", text, details))
}

pub fn disabled(service: &str, number: &str) -> Refusal {
    let text = format!(
        "{service} has not been used in project {number} before or it is disabled. Enable it by visiting \
         https://console.developers.google.com/apis/api/{service}/overview?project={number} then retry. If you enabled this \
         API recently, wait a few minutes for the action to propagate to our systems and retry."
    );
    let details = error_info(
        "SERVICE_DISABLED",
        "googleapis.com",
        json!({"service": service, "consumer": format!("projects/{number}")}),
    );
    Box::new(status(403, "PERMISSION_DENIED", text, details))
}
