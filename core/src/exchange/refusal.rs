//! Error responses: in OAuth format (STS), as a `google.rpc.Status` (IAM Credentials API), or as a page from a front
//! end.
#![forbid(unsafe_code)]

use std::fmt;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::words::names::clip;
use crate::words::secret::Secret;
use crate::world::http::Response;

/// The number of characters of Google's text that a message quotes.
const QUOTED: usize = 500;
/// Replaces a token that the response repeats. A page from a proxy or a front end may show the request.
const REPEATED: &str = "[a token]";
/// Phrases in STS's responses to throttled requests. The status is 429 with the code `quota_exceeded`; earlier
/// responses had 400 or 403.
const THROTTLED: [&str; 2] = ["throttled due to rate limit", "Please retry after"];

/// STS responds with this text if it cannot fetch the issuer's discovery document or keys, or if none of the keys is
/// the token's.
const NO_KEY: &str = "Error connecting to the given credential's issuer";

/// An error response, with Google's own text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The error code, for example `invalid_grant` (OAuth) or `PERMISSION_DENIED` (`google.rpc.Status`).
    pub code: Option<String>,
    /// The reason from the ErrorInfo of a `google.rpc.Status`, for example `SERVICE_DISABLED`.
    pub reason: Option<String>,
    /// The error text, escaped and clipped.
    pub text: String,
    /// The Retry-After header, in seconds.
    pub retry_after: Option<u64>,
}

impl Refusal {
    /// Parses an error response.
    pub fn of(response: &Response, sent: &Secret) -> Self {
        let (code, reason, text) = parse(response, sent);
        Self { status: response.status, code, reason, text: clip(&text, QUOTED), retry_after: response.retry_after }
    }

    /// Returns whether the response is a redirect.
    pub fn is_redirect(&self) -> bool {
        (300..400).contains(&self.status)
    }

    /// Returns whether a retry can succeed, as after a timeout, an exhausted quota, or a failure of Google's or the
    /// issuer's server.
    pub fn is_transient(&self) -> bool {
        matches!(self.status, 408 | 500 | 502 | 503 | 504)
            || self.code.as_deref() == Some("internal_failure")
            || self.is_throttled()
            || self.is_of_issuer()
    }

    /// Returns whether Google could not get the subject token's key from its issuer.
    pub fn is_of_issuer(&self) -> bool {
        self.code.as_deref() == Some("invalid_grant") && self.text.contains(NO_KEY)
    }

    /// Returns whether a quota is exhausted. Quotas are per minute, so this passes within seconds. The IAM Credentials
    /// API reports it by status (`RESOURCE_EXHAUSTED`), STS by status or text.
    pub fn is_throttled(&self) -> bool {
        self.status == 429 || THROTTLED.iter().any(|throttled| self.text.contains(throttled))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HTTP {}", self.status)?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(reason) = self.reason.as_ref().filter(|reason| Some(*reason) != self.code.as_ref()) {
            write!(f, " ({reason})")?;
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        Ok(())
    }
}

fn parse(response: &Response, sent: &Secret) -> (Option<String>, Option<String>, String) {
    if (300..400).contains(&response.status) {
        return (
            None,
            None,
            "it redirects elsewhere, which Google's endpoints never do; redirects are not followed".to_owned(),
        );
    }
    let encoded = Zeroizing::new(utf8_percent_encode(sent.expose(), NON_ALPHANUMERIC).to_string());
    let body = String::from_utf8_lossy(response.body.expose());
    let body = body.replace(sent.expose(), REPEATED).replace(&**encoded, REPEATED);
    let word = |value: &Value| value.as_str().map(|text| clip(text, 60));
    let sentence = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let Ok(json) = serde_json::from_str::<Value>(&body) else {
        return (None, None, page(&body));
    };
    match json.get("error") {
        Some(Value::String(code)) => (Some(clip(code, 60)), None, sentence(json.get("error_description"))),
        Some(Value::Object(status)) => {
            let details = status.get("details").and_then(Value::as_array);
            let reason = details.and_then(|all| all.iter().find_map(|detail| detail.get("reason").and_then(word)));
            (status.get("status").and_then(word), reason, sentence(status.get("message")))
        }
        _ => (None, None, page(&body)),
    }
}

/// Returns the text of an HTML page on one line.
fn page(body: &str) -> String {
    let (mut text, mut in_tag, mut hidden) = (String::new(), false, false);
    for part in body.split_inclusive(['<', '>']) {
        if in_tag {
            let tag = part.trim_start_matches('/').to_ascii_lowercase();
            if ["style", "script"].iter().any(|name| tag.starts_with(name)) {
                hidden = !part.starts_with('/');
            }
            text.push(' ');
        } else if !hidden {
            text.push_str(part.trim_end_matches('<'));
        }
        in_tag = if part.ends_with('<') { true } else { in_tag && !part.ends_with('>') };
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::http::Body;

    fn refusal(status: u16, body: &str) -> Refusal {
        let body = Body::new(body.into());
        let response = Response { status, content_type: String::new(), retry_after: None, date: None, body };
        Refusal::of(&response, &Secret::new("eyJh.eyJp.c2ln".to_owned()))
    }

    #[test]
    fn both_error_formats_and_pages_are_parsed() {
        for (status, body, expected) in [
            (
                400,
                r#"{"error":"invalid_grant","error_description":"ID Token is stale."}"#,
                "HTTP 400 invalid_grant: ID Token is stale.",
            ),
            (400, r#"{"error":"invalid_grant"}"#, "HTTP 400 invalid_grant"),
            (
                403,
                r#"{"error":{"code":403,"message":"Permission denied.","status":"PERMISSION_DENIED","details":[{"@type":"x"},{"reason":"IAM_PERMISSION_DENIED"}]}}"#,
                "HTTP 403 PERMISSION_DENIED (IAM_PERMISSION_DENIED): Permission denied.",
            ),
            (
                502,
                "<html><style>p {color: red}</style><body><h1>502</h1>\n<p>Bad   Gateway</body>",
                "HTTP 502: 502 Bad Gateway",
            ),
            (500, "", "HTTP 500"),
            (500, r#"{"message": "x"}"#, r#"HTTP 500: {"message": "x"}"#),
            (418, "a\u{1b}[2Jb", "HTTP 418: a\\u{1b}[2Jb"),
        ] {
            assert_eq!(refusal(status, body).to_string(), expected);
        }
        assert!(refusal(500, &"x".repeat(100_000)).to_string().len() < 600);
        assert!(refusal(302, "https://evil.org").to_string().contains("redirects are not followed"));
    }

    #[test]
    fn a_token_that_an_answer_repeats_is_left_out() {
        for (body, expected) in [
            (r#"{"error":"invalid_grant","error_description":"eyJh.eyJp.c2ln is bad"}"#, "[a token] is bad"),
            ("<pre>scope=x&amp;subject_token=eyJh%2EeyJp%2Ec2ln</pre>", "scope=x&amp;subject_token=[a token]"),
            (r#"{"error":{"message":"Bearer eyJh.eyJp.c2ln","status":"UNAUTHENTICATED"}}"#, "Bearer [a token]"),
        ] {
            assert_eq!(refusal(401, body).text, expected);
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let transient = |status, body: &str| refusal(status, body).is_transient();
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(transient(status, ""), "{status}");
        }
        for status in [302, 400, 401, 403, 404, 501] {
            assert!(!transient(status, ""), "{status}");
        }
        assert!(transient(400, r#"{"error":"internal_failure"}"#));
        let invalid = |text: &str| format!(r#"{{"error":"invalid_grant","error_description":"{text}"}}"#);
        assert!(transient(400, &invalid("Error connecting to the given credential's issuer.")));
        assert!(!transient(400, &invalid("ID Token issued at 1 is stale to sign-in.")));
    }

    #[test]
    fn throttling_is_recognized_by_status_or_text() {
        let older = r#"{"error":"invalid_request","error_description":"[Security Token Service] The request was throttled due to rate limit. Please retry after a few seconds."}"#;
        let iam = r#"{"error":{"code":429,"message":"Quota exceeded.","status":"RESOURCE_EXHAUSTED"}}"#;
        for (status, body) in [(429, ""), (429, iam), (429, "<html>"), (400, older), (403, older)] {
            let refusal = refusal(status, body);
            assert!(refusal.is_throttled() && refusal.is_transient(), "{status} {body}");
        }
        for (status, body) in
            [(503, ""), (403, r#"{"error":"access_denied"}"#), (400, r#"{"error":"internal_failure"}"#)]
        {
            assert!(!refusal(status, body).is_throttled(), "{status} {body}");
        }
    }
}
