//! A request to a job's port and its reply, as values.
#![forbid(unsafe_code)]

use gcp_wif_core::words::secret::Secret;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// What a client sent.
#[derive(Debug, Default)]
pub(crate) struct Call {
    /// The path, percent-decoded.
    pub path: String,
    /// The query's parameters, decoded.
    pub query: Vec<(String, String)>,
    /// The body; it can hold the handle.
    pub body: Zeroizing<Vec<u8>>,
    /// The body's type.
    pub content_type: String,
    /// Whether the header `Metadata-Flavor: Google` was there.
    pub has_flavor: bool,
    /// The token in the header Authorization, RFC 6750 section 2.1.
    pub bearer: Option<Secret>,
}

impl Call {
    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body's fields, of JSON or of a form.
    pub(crate) fn fields(&self) -> Option<Map<String, Value>> {
        if self.content_type.starts_with("application/json") {
            return serde_json::from_slice(&self.body).ok();
        }
        Some(form_urlencoded::parse(&self.body).map(|(name, value)| (name.into_owned(), value.into())).collect())
    }
}

/// What it gets.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body's type.
    pub content_type: &'static str,
    /// The body; it can hold a token.
    pub body: Zeroizing<String>,
}

impl Reply {
    /// Plain text.
    pub(crate) fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: "application/text", body: Zeroizing::new(body.into()) }
    }

    /// JSON.
    pub(crate) fn json(value: &Value) -> Self {
        Self { status: 200, content_type: "application/json", body: Zeroizing::new(value.to_string()) }
    }

    /// A refusal in plain text.
    pub(crate) fn refuse(status: u16, why: &str) -> Self {
        Self { status, ..Self::text(why) }
    }

    /// A refusal in OAuth's style, RFC 6749 section 5.2.
    pub(crate) fn oauth(error: &str, why: &str) -> Self {
        Self { status: 400, ..Self::json(&json!({"error": error, "error_description": why})) }
    }

    /// A refusal in the style of `google.rpc.Status`, <https://google.aip.dev/193>.
    pub(crate) fn status(status: u16, code: &str, why: &str) -> Self {
        let error = json!({"error": {"code": status, "message": why, "status": code}});
        Self { status, ..Self::json(&error) }
    }
}
