//! Cloud Storage: buckets and objects by the JSON API, and objects by the XML API.

mod md5;
mod read;
mod upload;
mod xml;

use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde_json::{Value, json};

pub use self::upload::Upload;
use super::errors;
use super::iam::rfc3339;
use super::options::{Bucket, Object};
use super::state::{AccessToken, CLOUD_PLATFORM, State};
use super::wire::{Request, Response};

const WRITE_SCOPES: [&str; 3] = [
    CLOUD_PLATFORM,
    "https://www.googleapis.com/auth/devstorage.read_write",
    "https://www.googleapis.com/auth/devstorage.full_control",
];
const READ_SCOPES: [&str; 2] = [
    "https://www.googleapis.com/auth/cloud-platform.read-only",
    "https://www.googleapis.com/auth/devstorage.read_only",
];
/// The creation time of all objects.
const CREATED: i64 = 1_795_442_400;

type Refusal = Box<Response>;

/// Everything below `/storage/`, `/download/storage/`, `/upload/storage/` and `/xml/`.
pub fn answer(request: &Request, state: &State) -> Response {
    route(request, state).unwrap_or_else(|refusal| *refusal)
}

/// The target of a request.
struct Place<'a> {
    bucket: String,
    /// What follows the bucket's name: none, `o`, or `o/` and an object's name, which is still encoded.
    rest: Option<&'a str>,
}

impl<'a> Place<'a> {
    /// None if it is not a bucket.
    fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix("/storage/v1/b/")?;
        // Object names hold slashes as %2F, but some clients send them plain.
        let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
        Some(Self { bucket: decoded(name), rest })
    }

    fn object(&self) -> Option<String> {
        self.rest?.strip_prefix("o/").filter(|object| !object.is_empty()).map(decoded)
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn route(request: &Request, state: &State) -> Result<Response, Refusal> {
    let not_found = || Box::new(errors::not_found(&request.path));
    let method = request.method.as_str();
    if let Some(path) = request.path.strip_prefix("/xml/") {
        return xml::answer(request, path, state);
    }
    if let Some(path) = request.path.strip_prefix("/upload") {
        let place = Place::of(path).filter(|place| place.rest == Some("o")).ok_or_else(not_found)?;
        return upload::answer(request, &place.bucket, state);
    }
    let (download, path) = match request.path.strip_prefix("/download") {
        Some(path) => (true, path),
        None => (false, request.path.as_str()),
    };
    let place = Place::of(path).ok_or_else(not_found)?;
    let token = token(request, state)?;
    let object = place.object();
    match (method, place.rest, object) {
        ("GET", None, _) => {
            let bucket = allowed(&place.bucket, &token, "storage.buckets.get", state)?;
            Ok(errors::pretty_answer(&describe_bucket(&bucket, request)))
        }
        ("GET", Some("o"), _) => {
            let bucket = allowed(&place.bucket, &token, "storage.objects.list", state)?;
            Ok(errors::pretty_answer(&read::list(&bucket, request)?))
        }
        ("GET", _, Some(name)) => {
            let bucket = allowed(&place.bucket, &token, "storage.objects.get", state)?;
            let object = existing(&bucket, &name, request)?;
            if download || request.query("alt") == Some("media") {
                return read::media(request, object);
            }
            Ok(errors::pretty_answer(&describe(&bucket.name, &name, object, request)))
        }
        ("DELETE", _, Some(name)) => {
            let bucket = allowed(&place.bucket, &token, "storage.objects.delete", state)?;
            existing(&bucket, &name, request)?;
            state.change_bucket(&bucket.name, |bucket| bucket.objects.remove(&name));
            Ok(Response::new(204, "application/json; charset=UTF-8", ""))
        }
        ("GET" | "DELETE", ..) => Err(not_found()),
        _ => Err(errors::wrong_method(method).into()),
    }
}

/// The object, if it exists and fulfills the request's preconditions.
fn existing<'a>(bucket: &'a Bucket, name: &str, request: &Request) -> Result<&'a Object, Refusal> {
    let wanted = |object: &&Object| {
        request.query("generation").is_none_or(|generation| generation == object.generation.to_string())
    };
    let Some(object) = bucket.objects.get(name).filter(wanted) else {
        let text = format!("No such object: {}/{name}", bucket.name);
        return Err(errors::storage(404, "notFound", text).into());
    };
    check_preconditions(Some(object), request)?;
    Ok(object)
}

/// `ifGenerationMatch` and `ifGenerationNotMatch`. A missing object has the generation 0.
fn check_preconditions(object: Option<&Object>, request: &Request) -> Result<(), Refusal> {
    let generation = object.map_or(0, |object| object.generation).to_string();
    if request.query("ifGenerationMatch").is_some_and(|wanted| wanted != generation) {
        return Err(not_met());
    }
    if request.query("ifGenerationNotMatch") == Some(&*generation) {
        // RFC 9110 section 13.1.2.
        let reads = request.method == "GET";
        return Err(if reads { Response::new(304, "application/json; charset=UTF-8", "").into() } else { not_met() });
    }
    Ok(())
}

fn not_met() -> Refusal {
    let text = "At least one of the pre-conditions you specified did not hold.";
    errors::storage(412, "conditionNotMet", text).into()
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

/// The bucket, if the token's identity may do this in it and the token's scopes let it.
fn allowed(name: &str, token: &Option<AccessToken>, permission: &str, state: &State) -> Result<Bucket, Refusal> {
    let writes = matches!(permission, "storage.objects.create" | "storage.objects.delete");
    let what = if writes || permission == "storage.objects.get" { "object" } else { "bucket" };
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
    let reads: &[&str] = if writes { &[] } else { &READ_SCOPES };
    if !WRITE_SCOPES.iter().chain(reads).any(|scope| token.has_scope(scope)) {
        let text = "Provided scope(s) are not authorized";
        return Err(errors::storage(403, "forbidden", text).into());
    }
    let bucket = state.options().buckets.iter().find(|bucket| bucket.name == name).cloned();
    let Some(bucket) = bucket else {
        return Err(errors::storage(404, "notFound", "The specified bucket does not exist.").into());
    };
    if !token.identity.is_among(&bucket.readers) || writes && !bucket.is_writable {
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

fn describe(bucket: &str, name: &str, object: &Object, request: &Request) -> Value {
    let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC);
    let path = format!("storage/v1/b/{bucket}/o/{encoded}");
    let generation = object.generation.to_string();
    json!({
        "kind": "storage#object",
        "id": format!("{bucket}/{name}/{generation}"),
        "selfLink": format!("{}/{path}", request.base()),
        "mediaLink": format!("{}/download/{path}?generation={generation}&alt=media", request.base()),
        "name": name,
        "bucket": bucket,
        "generation": generation,
        "metageneration": "1",
        "contentType": object.content_type,
        "storageClass": "STANDARD",
        "size": object.body.len().to_string(),
        "crc32c": read::crc32c(&object.body),
        "md5Hash": STANDARD.encode(md5::md5(&object.body)),
        "etag": format!("CAE{generation}="),
        "timeCreated": rfc3339(CREATED),
        "updated": rfc3339(CREATED),
    })
}
