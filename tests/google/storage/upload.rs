//! Uploads of objects: in one request, with metadata or without, or in pieces that can be resumed.
//! <https://cloud.google.com/storage/docs/uploads-downloads#uploads>

use serde_json::Value;

use super::super::errors;
use super::super::options::Object;
use super::super::state::{State, random_text};
use super::super::wire::{Request, Response};
use super::{Refusal, allowed, check_preconditions, describe, not_met, token};

/// Every piece of a resumable upload, except the last one, is a multiple of this.
const PIECE: usize = 256 << 10;

/// Where a piece begins and where it ends.
type Piece = (usize, usize);

/// A resumable upload in progress.
#[derive(Debug)]
pub struct Upload {
    bucket: String,
    name: String,
    content_type: Option<String>,
    body: Vec<u8>,
}

/// Everything below `/upload/`.
pub(super) fn answer(request: &Request, bucket: &str, state: &State) -> Result<Response, Refusal> {
    match (request.method.as_str(), request.query("uploadType")) {
        // gcsfs sends its pieces by POST.
        ("PUT" | "POST", _) if request.query("upload_id").is_some() => go_on(request, state),
        ("POST", Some("media")) => {
            let name = name(request, None)?;
            check(request, bucket, &name, state)?;
            store(request, bucket, &name, request.header("content-type"), &request.body, state)
        }
        ("POST", Some("multipart")) => {
            let (metadata, content_type, body) = parts(request)?;
            let name = name(request, Some(&metadata))?;
            check(request, bucket, &name, state)?;
            let content_type = metadata["contentType"].as_str().or(content_type.as_deref());
            store(request, bucket, &name, content_type, body, state)
        }
        ("POST", Some("resumable")) => begin(request, bucket, state),
        ("POST", _) => Err(invalid("Invalid value for uploadType")),
        _ => Err(errors::wrong_method(&request.method).into()),
    }
}

fn invalid(text: &str) -> Refusal {
    errors::storage(400, "invalid", text).into()
}

/// The name, which the metadata or the query has.
fn name(request: &Request, metadata: Option<&Value>) -> Result<String, Refusal> {
    let own = metadata.and_then(|metadata| metadata["name"].as_str());
    let name = own.or_else(|| request.query("name")).filter(|name| !name.is_empty());
    name.map(str::to_owned).ok_or_else(|| errors::storage(400, "required", "Required").into())
}

/// Whether the object may be written.
fn check(request: &Request, bucket: &str, name: &str, state: &State) -> Result<(), Refusal> {
    let token = token(request, state)?;
    let bucket = allowed(bucket, &token, "storage.objects.create", state)?;
    let object = bucket.objects.get(name);
    if object.is_some() {
        allowed(&bucket.name, &token, "storage.objects.delete", state)?;
    }
    check_preconditions(object, request)
}

fn store(
    request: &Request,
    bucket: &str,
    name: &str,
    content_type: Option<&str>,
    body: &[u8],
    state: &State,
) -> Result<Response, Refusal> {
    let object = put(bucket, name, content_type, body, state).ok_or_else(not_met)?;
    Ok(errors::pretty_answer(&describe(bucket, name, &object, request)))
}

/// None if the bucket is gone meanwhile.
pub(super) fn put(bucket: &str, name: &str, content_type: Option<&str>, body: &[u8], state: &State) -> Option<Object> {
    state.change_bucket(bucket, |bucket| {
        let mut object = Object::new(body, bucket.objects.get(name).map_or(1, |old| old.generation + 1));
        if let Some(content_type) = content_type {
            content_type.clone_into(&mut object.content_type);
        }
        bucket.objects.insert(name.to_owned(), object.clone());
        object
    })
}

/// RFC 2387, as the JSON API wants it: metadata as JSON, then the object.
fn parts(request: &Request) -> Result<(Value, Option<String>, &[u8]), Refusal> {
    let wrong = || invalid("Malformed multipart body.");
    let kind = request.header("content-type").filter(|kind| kind.starts_with("multipart/")).ok_or_else(wrong)?;
    let boundary = kind.split(';').find_map(|part| part.trim().strip_prefix("boundary=")).ok_or_else(wrong)?;
    let delimiter = format!("--{}", boundary.trim_matches(['"', '\'']));
    let (before, rest) = split(&request.body, delimiter.as_bytes()).ok_or_else(wrong)?;
    let (metadata, rest) = split(rest, format!("\r\n{delimiter}").as_bytes())
        .or_else(|| split(rest, format!("\n{delimiter}").as_bytes()))
        .ok_or_else(wrong)?;
    // The object itself may hold anything, the delimiter of a client's choice apart.
    let (object, end) = split(rest, format!("\r\n{delimiter}--").as_bytes())
        .or_else(|| split(rest, format!("\n{delimiter}--").as_bytes()))
        .ok_or_else(wrong)?;
    if !before.trim_ascii().is_empty() || !end.trim_ascii().is_empty() {
        return Err(wrong());
    }
    let (head, metadata) = part(metadata).ok_or_else(wrong)?;
    if !content_type(head).is_some_and(|kind| kind.starts_with("application/json")) {
        return Err(wrong());
    }
    let metadata = serde_json::from_slice(metadata).map_err(|_| errors::storage(400, "parseError", "Parse Error"))?;
    let (head, object) = part(object).ok_or_else(wrong)?;
    Ok((metadata, content_type(head), object))
}

/// The bytes before and after the first of these.
fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..start], &bytes[start + at.len()..]))
}

/// Head and body of a part.
fn part(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    split(bytes, b"\r\n\r\n").or_else(|| split(bytes, b"\n\n"))
}

fn content_type(head: &[u8]) -> Option<String> {
    String::from_utf8_lossy(head).lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-type").then(|| value.trim().to_owned())
    })
}

/// Opens a session. Its address is sufficient permission to write this one object.
fn begin(request: &Request, bucket: &str, state: &State) -> Result<Response, Refusal> {
    let metadata = match request.body.as_slice() {
        [] => None,
        body => Some(serde_json::from_slice(body).map_err(|_| errors::storage(400, "parseError", "Parse Error"))?),
    };
    let name = name(request, metadata.as_ref())?;
    check(request, bucket, &name, state)?;
    let own = metadata.as_ref().and_then(|metadata| metadata["contentType"].as_str());
    let content_type = own.or_else(|| request.header("x-upload-content-type")).map(str::to_owned);
    let id = random_text(48);
    let location = format!("{}{}?uploadType=resumable&upload_id={id}", request.base(), request.path);
    let upload = Upload { bucket: bucket.to_owned(), name, content_type, body: Vec::new() };
    state.uploads().insert(id, upload);
    Ok(Response::new(200, "text/plain; charset=utf-8", "").header("Location", &location))
}

/// A piece of an upload, or the question how much of it has arrived.
fn go_on(request: &Request, state: &State) -> Result<Response, Refusal> {
    // A token that is sent to a session's address must be valid.
    token(request, state)?;
    let id = request.query("upload_id").unwrap_or_default();
    let mut uploads = state.uploads();
    let Some(upload) = uploads.get_mut(id) else {
        return Err(errors::storage(404, "notFound", "Not Found").into());
    };
    let range = match request.header("content-range") {
        Some(text) => text.strip_prefix("bytes ").and_then(range).ok_or_else(|| invalid("Invalid Content-Range"))?,
        None => (Some((0, request.body.len())), Some(request.body.len())),
    };
    let (piece, total) = range;
    if let Some((from, to)) = piece {
        let is_whole = total == Some(to);
        if to.checked_sub(from) != Some(request.body.len()) || !is_whole && !request.body.len().is_multiple_of(PIECE) {
            return Err(invalid("Invalid request. The number of bytes uploaded is wrong."));
        }
        // What a client sends twice counts once.
        let Some(new) = upload.body.len().checked_sub(from).and_then(|known| request.body.get(known..)) else {
            return Err(errors::storage(503, "backendError", "The piece begins after the last one's end").into());
        };
        upload.body.extend_from_slice(new);
    }
    if total != Some(upload.body.len()) {
        let response = Response::new(308, "text/plain; charset=utf-8", "");
        return Ok(match upload.body.len() {
            0 => response,
            length => response.header("Range", &format!("bytes=0-{}", length - 1)),
        });
    }
    let Some(Upload { bucket, name, content_type, body }) = uploads.remove(id) else { return Err(not_met()) };
    store(request, &bucket, &name, content_type.as_deref(), &body, state)
}

/// `FROM-LAST/TOTAL`, `*/TOTAL` or with a total of `*`: the piece with its end, and the total.
fn range(text: &str) -> Option<(Option<Piece>, Option<usize>)> {
    let (piece, total) = text.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    if piece == "*" {
        return Some((None, total));
    }
    let (from, last) = piece.split_once('-')?;
    let end = last.parse::<usize>().ok()?.checked_add(1)?;
    Some((Some((from.parse().ok()?, end)), total))
}
