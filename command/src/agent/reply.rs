//! A request to a job's port and its reply, as values.
#![forbid(unsafe_code)]

use gcp_wif_core::words::secret::Secret;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

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
