//! Lists of names, and the bytes of objects.

use serde_json::{Value, json};

use super::super::errors;
use super::super::options::{Bucket, Object};
use super::super::server::http_date;
use super::super::wire::{Request, Response};
use super::{CREATED, Refusal, describe};

/// A page of names, with `prefix`, `delimiter`, `maxResults` and `pageToken`.
pub(super) fn list(bucket: &Bucket, request: &Request) -> Result<Value, Refusal> {
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
    for (name, object) in &bucket.objects {
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
            None => items.push(describe(&bucket.name, name, object, request)),
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
pub(super) fn media(request: &Request, object: &Object) -> Result<Response, Refusal> {
    let (kind, body) = (object.content_type.as_str(), object.body.as_slice());
    let whole = |response: Response| {
        response
            .header("X-Goog-Hash", &format!("crc32c={}", crc32c(body)))
            .header("X-Goog-Generation", &object.generation.to_string())
            .header("ETag", &format!("CAE{}=", object.generation))
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
pub(super) fn crc32c(body: &[u8]) -> String {
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
