//! Cloud Storage's JSON API, as far as listing and reading: buckets, objects, ranges.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

use super::errors;
use super::iam::rfc3339;
use super::options::Bucket;
use super::server::http_date;
use super::state::{AccessToken, CLOUD_PLATFORM, State};
use super::wire::{Request, Response};

const READ_SCOPES: [&str; 4] = [
    CLOUD_PLATFORM,
    "https://www.googleapis.com/auth/cloud-platform.read-only",
    "https://www.googleapis.com/auth/devstorage.read_only",
    "https://www.googleapis.com/auth/devstorage.read_write",
];
const FULL_CONTROL: &str = "https://www.googleapis.com/auth/devstorage.full_control";
/// All objects are as old as this project.
const CREATED: i64 = 1_795_442_400;

type Refusal = Box<Response>;

/// Everything below `/storage/` and `/download/storage/`.
pub fn answer(request: &Request, state: &State) -> Response {
    route(request, state).unwrap_or_else(|refusal| *refusal)
}

fn route(request: &Request, state: &State) -> Result<Response, Refusal> {
    let not_found = || Box::new(errors::not_found(&request.path));
    let (download, path) = match request.path.strip_prefix("/download") {
        Some(path) => (true, path),
        None => (false, request.path.as_str()),
    };
    let path = path.strip_prefix("/storage/v1/b/").ok_or_else(not_found)?;
    // Object names hold slashes as %2F, but some clients send them plain.
    let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let name = percent_decode_str(name).decode_utf8_lossy().into_owned();
    let token = token(request, state)?;
    let permission = match rest {
        None => "storage.buckets.get",
        Some("o") => "storage.objects.list",
        Some(_) => "storage.objects.get",
    };
    let bucket = allowed(&name, &token, permission, state)?;
    match rest {
        None => Ok(errors::pretty_answer(&describe_bucket(&bucket, request))),
        Some("o") => Ok(errors::pretty_answer(&list(&bucket, request)?)),
        Some(rest) => {
            let object = rest.strip_prefix("o/").filter(|object| !object.is_empty());
            let object = percent_decode_str(object.ok_or_else(not_found)?).decode_utf8_lossy();
            let Some(body) = bucket.objects.get(object.as_ref()) else {
                let text = format!("No such object: {name}/{object}");
                return Err(errors::storage(404, "notFound", text).into());
            };
            if download || request.query("alt") == Some("media") {
                return media(request, body);
            }
            Ok(errors::pretty_answer(&describe(&bucket, &object, body, request)))
        }
    }
}

/// The live token of the request.
fn token(request: &Request, state: &State) -> Result<Option<AccessToken>, Refusal> {
    let Some(secret) = request.bearer() else {
        return match request.header("authorization") {
            None => Ok(None),
            Some(_) => Err(errors::storage(401, "authError", "Invalid Credentials").into()),
        };
    };
    let token = state.token(secret).filter(|token| token.expires > state.now());
    match token {
        Some(token) => Ok(Some(token)),
        None => Err(errors::storage(401, "authError", "Invalid Credentials").into()),
    }
}

/// The bucket, if the token's identity may read it and the token's scopes let it.
fn allowed(name: &str, token: &Option<AccessToken>, permission: &str, state: &State) -> Result<Bucket, Refusal> {
    let what = match permission {
        "storage.objects.get" => "object",
        _ => "bucket",
    };
    let denied = |status, reason, who: &str| {
        let text = format!(
            "{who} does not have {permission} access to the Google Cloud Storage {what}. \
             Permission '{permission}' denied on resource (or it may not exist)."
        );
        Box::new(errors::storage(status, reason, text))
    };
    let Some(token) = token else {
        return Err(denied(401, "required", "Anonymous caller"));
    };
    let scopes = READ_SCOPES.iter().chain([&FULL_CONTROL]);
    if !scopes.into_iter().any(|scope| token.has_scope(scope)) {
        let text = "Provided scope(s) are not authorized";
        return Err(errors::storage(403, "forbidden", text).into());
    }
    let bucket = state.options().buckets.iter().find(|bucket| bucket.name == name).cloned();
    let Some(bucket) = bucket else {
        return Err(errors::storage(404, "notFound", "The specified bucket does not exist.").into());
    };
    if !token.identity.is_among(&bucket.readers) {
        return Err(denied(403, "forbidden", token.identity.name()));
    }
    Ok(bucket)
}

fn describe_bucket(bucket: &Bucket, request: &Request) -> Value {
    json!({
        "kind": "storage#bucket",
        "id": bucket.name,
        "name": bucket.name,
        "selfLink": format!("{}/storage/v1/b/{}", request.base(), bucket.name),
        "location": "EUROPE-WEST4",
        "locationType": "region",
        "storageClass": "STANDARD",
        "metageneration": "1",
        "etag": "CAE=",
        "timeCreated": rfc3339(CREATED),
        "updated": rfc3339(CREATED),
    })
}

fn describe(bucket: &Bucket, name: &str, body: &[u8], request: &Request) -> Value {
    let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC);
    let path = format!("storage/v1/b/{}/o/{encoded}", bucket.name);
    json!({
        "kind": "storage#object",
        "id": format!("{}/{name}/1", bucket.name),
        "selfLink": format!("{}/{path}", request.base()),
        "mediaLink": format!("{}/download/{path}?generation=1&alt=media", request.base()),
        "name": name,
        "bucket": bucket.name,
        "generation": "1",
        "metageneration": "1",
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
        "size": body.len().to_string(),
        "crc32c": crc32c(body),
        "etag": "CAE=",
        "timeCreated": rfc3339(CREATED),
        "updated": rfc3339(CREATED),
    })
}

/// A page of names, with `prefix`, `delimiter`, `maxResults` and `pageToken`.
fn list(bucket: &Bucket, request: &Request) -> Result<Value, Refusal> {
    let prefix = request.query("prefix").unwrap_or("");
    let delimiter = request.query("delimiter").filter(|text| !text.is_empty());
    let limit = match request.query("maxResults").unwrap_or("1000").parse() {
        Ok(0) | Err(_) => {
            let text = "Invalid value for maxResults";
            return Err(errors::storage(400, "invalid", text).into());
        }
        Ok(limit) => usize::min(limit, 1000),
    };
    let after = request.query("pageToken");
    let (mut items, mut prefixes, mut last) = (Vec::new(), Vec::<String>::new(), None);
    let mut more = false;
    for (name, body) in &bucket.objects {
        let Some(rest) = name.strip_prefix(prefix) else {
            continue;
        };
        if after.is_some_and(|after| name.as_str() <= after) {
            continue;
        }
        let folder = delimiter
            .and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()))
            .map(|end| format!("{prefix}{}", &rest[..end]));
        let seen = folder.as_ref().is_some_and(|folder| prefixes.contains(folder));
        if !seen && items.len() + prefixes.len() == limit {
            more = true;
            break;
        }
        match folder {
            Some(_) if seen => {}
            Some(folder) => prefixes.push(folder),
            None => items.push(describe(bucket, name, body, request)),
        }
        last = Some(name.clone());
    }
    let mut page = json!({"kind": "storage#objects"});
    if !items.is_empty() {
        page["items"] = items.into();
    }
    if !prefixes.is_empty() {
        page["prefixes"] = prefixes.into();
    }
    if let Some(last) = last.filter(|_| more) {
        page["nextPageToken"] = last.into();
    }
    Ok(page)
}

/// The bytes of an object, or a range of them.
fn media(request: &Request, body: &[u8]) -> Result<Response, Refusal> {
    let kind = "application/octet-stream";
    let whole = |response: Response| {
        response
            .header("X-Goog-Hash", &format!("crc32c={}", crc32c(body)))
            .header("X-Goog-Generation", "1")
            .header("ETag", "CAE=")
            .header("Last-Modified", &http_date(CREATED))
    };
    let range = request.header("range").and_then(|value| value.strip_prefix("bytes="));
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else {
        return Ok(whole(Response::new(200, kind, body)));
    };
    let (from, to) = match (from.parse::<usize>(), to.parse::<usize>()) {
        (Ok(from), Ok(to)) => (from, to.saturating_add(1).min(body.len())),
        (Ok(from), Err(_)) => (from, body.len()),
        (Err(_), Ok(last)) => (body.len().saturating_sub(last), body.len()),
        (Err(_), Err(_)) => (0, body.len()),
    };
    if from >= to {
        let response = Response::new(416, "text/plain", "Requested range not satisfiable");
        return Err(response.header("Content-Range", &format!("bytes */{}", body.len())).into());
    }
    let response = Response::new(206, kind, &body[from..to]);
    Ok(whole(response.header("Content-Range", &format!("bytes {from}-{}/{}", to - 1, body.len()))))
}

/// CRC32C, big-endian, as base64: the checksum that clients compare.
fn crc32c(body: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let mut crc = !0u32;
    for &byte in body {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82F6_3B78 & (0u32.wrapping_sub(crc & 1)));
        }
    }
    STANDARD.encode((!crc).to_be_bytes())
}
