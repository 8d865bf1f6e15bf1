//! A request to a job's port and its reply, as values.
#![forbid(unsafe_code)]

use zeroize::Zeroizing;

/// What a client sent.
#[derive(Debug)]
pub(crate) struct Call {
    /// The method.
    pub method: String,
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
}

impl Call {
    /// A parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
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
    pub(crate) fn json(value: &serde_json::Value) -> Self {
        Self { status: 200, content_type: "application/json", body: Zeroizing::new(value.to_string()) }
    }

    /// A refusal in plain text.
    pub(crate) fn refuse(status: u16, why: &str) -> Self {
        Self { status, ..Self::text(why) }
    }

    /// A refusal in OAuth's style, RFC 6749 section 5.2.
    pub(crate) fn oauth(error: &str, why: &str) -> Self {
        Self { status: 400, ..Self::json(&serde_json::json!({"error": error, "error_description": why})) }
    }
}
