//! The XML API, as object_store speaks it: an object is read, looked at, written or deleted.
//! <https://cloud.google.com/storage/docs/xml-api/reference-methods>

use super::super::errors;
use super::super::options::Bucket;
use super::super::state::State;
use super::super::wire::{Request, Response};
use super::{Refusal, allowed, decoded, read, token, upload};

const XML: &str = "application/xml; charset=UTF-8";

/// Everything below `/xml/`.
pub(super) fn answer(request: &Request, path: &str, state: &State) -> Result<Response, Refusal> {
    let Some((bucket, name)) = path.split_once('/').filter(|(_, name)| !name.is_empty()) else {
        return Err(errors::not_found(&request.path).into());
    };
    let (bucket, name) = (decoded(bucket), decoded(name));
    let permission = match request.method.as_str() {
        "GET" | "HEAD" => "storage.objects.get",
        "PUT" => "storage.objects.create",
        "DELETE" => "storage.objects.delete",
        _ => return Err(errors::wrong_method(&request.method).into()),
    };
    let known = find(&bucket, permission, request, state)?;
    match request.method.as_str() {
        "PUT" => {
            if known.objects.contains_key(&name) {
                find(&bucket, "storage.objects.delete", request, state)?;
            }
            let Some(object) = upload::put(&bucket, &name, request.header("content-type"), &request.body, state) else {
                return Err(no_such_key());
            };
            Ok(Response::new(200, "text/html; charset=UTF-8", "")
                .header("ETag", &format!("\"{}\"", object.generation))
                .header("X-Goog-Generation", &object.generation.to_string())
                .header("X-Goog-Hash", &format!("crc32c={}", read::crc32c(&object.body))))
        }
        "DELETE" => {
            state.change_bucket(&bucket, |bucket| bucket.objects.remove(&name)).flatten().ok_or_else(no_such_key)?;
            Ok(Response::new(204, "text/html; charset=UTF-8", ""))
        }
        _ => read::media(request, known.objects.get(&name).ok_or_else(no_such_key)?),
    }
}

/// The bucket, refused in the words of this API.
fn find(bucket: &str, permission: &str, request: &Request, state: &State) -> Result<Bucket, Refusal> {
    let found = token(request, state).and_then(|token| allowed(bucket, &token, permission, state));
    found.map_err(|refusal| match refusal.status {
        401 => error(401, "AuthenticationRequired", "Authentication required."),
        404 => error(404, "NoSuchBucket", "The specified bucket does not exist."),
        status => error(status, "AccessDenied", "Access denied."),
    })
}

fn no_such_key() -> Refusal {
    error(404, "NoSuchKey", "The specified key does not exist.")
}

fn error(status: u16, code: &str, message: &str) -> Refusal {
    let body =
        format!("<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>");
    Response::new(status, XML, body).into()
}
