//! A request to a job's port and its reply, as values.
#![forbid(unsafe_code)]

use std::net::SocketAddr;

use gcp_wif_core::words::secret::Secret;
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// Headers with which browsers name the page that sends a request. Sec-Fetch-Mode is not in the list, because Node's
/// fetch sends it too.
const FROM_PAGES: [&str; 4] = ["origin", "referer", "sec-fetch-site", "sec-fetch-dest"];

/// A client's request.
#[derive(Debug, Default)]
pub(crate) struct Call {
    /// The path, percent-decoded.
    pub path: String,
    /// The decoded query parameters.
    pub query: Vec<(String, String)>,
    /// The body, which can contain the handle.
    pub body: Zeroizing<Vec<u8>>,
    /// The content type of the body.
    pub content_type: String,
    /// Whether the request has the header `Metadata-Flavor: Google`.
    pub has_flavor: bool,
    /// The bearer token in the Authorization header (RFC 6750 section 2.1).
    pub bearer: Option<Secret>,
}

impl Call {
    /// Reads the request line and the headers of a request to the port `here`.
    ///
    /// # Errors
    /// The refusal of a request that is meant for another server, or that a proxy or a web page sends.
    pub(crate) fn read(parts: &Parts, here: SocketAddr) -> Result<Self, Reply> {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if parts.headers.contains_key("x-forwarded-for") {
            return Err(Reply::refuse(403, "requests from proxies are not accepted"));
        }
        let hosts = [here.to_string(), format!("localhost:{}", here.port()), "metadata.google.internal".to_owned()];
        if !hosts.iter().any(|host| host == header("host")) {
            return Err(Reply::refuse(403, "the Host header names another host"));
        }
        if FROM_PAGES.iter().any(|name| parts.headers.contains_key(*name)) {
            return Err(Reply::refuse(403, "requests from web pages are not accepted"));
        }
        let bearer = header("authorization").split_once(' ');
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        Ok(Self {
            path: percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned(),
            query: query.into_owned().collect(),
            body: Zeroizing::default(),
            content_type: header("content-type").to_owned(),
            has_flavor: header("metadata-flavor") == "Google",
            bearer: bearer.map(|(_, token)| Secret::new(token.trim().to_owned())),
        })
    }

    /// Returns a query parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Parses the fields of a JSON or form body.
    pub(crate) fn fields(&self) -> Option<Map<String, Value>> {
        if self.content_type.starts_with("application/json") {
            return serde_json::from_slice(&self.body).ok();
        }
        Some(form_urlencoded::parse(&self.body).map(|(name, value)| (name.into_owned(), value.into())).collect())
    }
}

/// The reply to a client.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The content type of the body.
    pub content_type: &'static str,
    /// The body, which can contain a token.
    pub body: Zeroizing<String>,
}

impl Reply {
    /// Builds a plain-text reply.
    pub(crate) fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: "application/text", body: Zeroizing::new(body.into()) }
    }

    /// Builds a JSON reply.
    pub(crate) fn json(value: &Value) -> Self {
        Self { status: 200, content_type: "application/json", body: Zeroizing::new(value.to_string()) }
    }

    /// Builds a refusal in plain text.
    pub(crate) fn refuse(status: u16, why: &str) -> Self {
        Self { status, ..Self::text(why) }
    }

    /// Builds a refusal in OAuth format (RFC 6749 section 5.2).
    pub(crate) fn oauth(error: &str, why: &str) -> Self {
        Self { status: 400, ..Self::json(&json!({"error": error, "error_description": why})) }
    }

    /// Builds a refusal as a `google.rpc.Status`, <https://google.aip.dev/193>.
    pub(crate) fn status(status: u16, code: &str, why: &str) -> Self {
        let error = json!({"error": {"code": status, "message": why, "status": code}});
        Self { status, ..Self::json(&error) }
    }
}
