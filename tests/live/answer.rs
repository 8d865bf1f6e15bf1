//! The comparable parts of an answer: status, content type, error code, reason, and the text without variable parts.

use gcp_wif_core::words::secret::Secret;
use serde_json::Value;

use super::client::Reply;

/// Longer words of base64url can be tokens.
const LONGEST_WORD: usize = 64;
/// Shorter numbers are neither project numbers nor times.
const SHORTEST_NUMBER: usize = 6;
const LONGEST_TEXT: usize = 600;

/// Names of one side, and their replacements.
#[derive(Default)]
pub struct Known {
    secrets: Vec<Secret>,
    names: Vec<(String, &'static str)>,
}

impl Known {
    pub fn is_secret(&mut self, secret: &Secret) {
        self.secrets.push(secret.clone());
    }

    pub fn stands_for(&mut self, name: &str, word: &'static str) {
        if !name.is_empty() {
            self.names.push((name.to_owned(), word));
        }
    }
}

/// An answer in a form that can be compared, and printed.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    /// The parts to compare, each with its name.
    parts: [(&'static str, String); 5],
}

impl Seen {
    pub fn of(reply: &Reply, known: &Known) -> Self {
        let body: Option<Value> = serde_json::from_slice(&reply.body).ok();
        let [error, reason, text] = match &body {
            Some(body) if reply.status < 300 => [String::new(), String::new(), shape(body)],
            Some(body) => refusal(body),
            None => [String::new(), String::new(), title(&String::from_utf8_lossy(&reply.body))],
        };
        let content_type = reply.content_type.to_ascii_lowercase().replace(' ', "");
        let stable = |text: &str| stable(text, known);
        Self {
            parts: [
                ("status", reply.status.to_string()),
                ("content type", stable(&content_type)),
                ("error", stable(&error)),
                ("reason", stable(&reason)),
                ("text", stable(&text)),
            ],
        }
    }

    pub fn no_answer(problem: &str) -> Self {
        let mut parts = ["status", "content type", "error", "reason", "text"].map(|name| (name, String::new()));
        parts[0].1 = format!("no answer: {problem}");
        Self { parts }
    }

    /// The differences between another answer and this one of the embedded Google.
    pub fn differences(&self, theirs: &Self) -> Vec<String> {
        let pairs = self.parts.iter().zip(&theirs.parts);
        let quoted = |text: &str| if text.is_empty() { "none".to_owned() } else { format!("{text:?}") };
        pairs
            .filter(|((_, ours), (_, theirs))| ours != theirs)
            .map(|((name, ours), (_, theirs))| format!("{name} embedded {} Google {}", quoted(ours), quoted(theirs)))
            .collect()
    }
}

/// Error code, reason and text of OAuth's style or of `google.rpc.Status`.
fn refusal(body: &Value) -> [String; 3] {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match &body["error"] {
        Value::Object(error) => {
            let details = error.get("details").and_then(Value::as_array).into_iter().flatten();
            let reasons: Vec<String> = details.map(detail).collect();
            let field = |name: &str| error.get(name).map(text).unwrap_or_default();
            [field("status"), reasons.join(", "), field("message")]
        }
        code => [text(code), String::new(), text(&body["error_description"])],
    }
}

/// The reason of an ErrorInfo with its domain, or the detail's type.
fn detail(detail: &Value) -> String {
    let text = |name: &str| detail[name].as_str().unwrap_or_default();
    match text("reason") {
        "" => text("@type").rsplit('/').next().unwrap_or_default().to_owned(),
        reason => format!("{reason} of {}", text("domain")),
    }
}

/// The fields of a success, sorted, with values only where each Google has the same.
fn shape(body: &Value) -> String {
    let Value::Object(fields) = body else { return "no object".to_owned() };
    let mut shape: Vec<String> = fields
        .iter()
        .map(|(name, value)| match value {
            Value::String(text) if matches!(name.as_str(), "token_type" | "issued_token_type") => {
                format!("{name}={text}")
            }
            Value::String(text) if name == "expireTime" => {
                // Digits by their count only, so that fractions and offsets show.
                format!("{name}={}", text.replace(|c: char| c.is_ascii_digit(), "0"))
            }
            Value::String(_) => format!("{name}: text"),
            Value::Number(_) => format!("{name}: number"),
            _ => format!("{name}: something else"),
        })
        .collect();
    shape.sort();
    shape.join(", ")
}

/// A page's title, or the whole text.
fn title(text: &str) -> String {
    let title = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    title.map_or(text, |(title, _)| title).trim().to_owned()
}

/// A text without tokens, and with words for what differs from project to project and from time to time.
fn stable(text: &str, known: &Known) -> String {
    let mut text = text.to_owned();
    for secret in known.secrets.iter().filter(|secret| !secret.expose().is_empty()) {
        text = text.replace(secret.expose(), "TOKEN");
    }
    for (name, word) in &known.names {
        text = text.replace(name, word);
    }
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || "-_.@+=".contains(c);
    let mut stable = String::new();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let word = rest.split_at(rest.find(|c| !is_of_word(c)).unwrap_or(rest.len()));
        let (word, after) =
            if word.0.is_empty() { rest.split_at(rest.chars().next().map_or(0, char::len_utf8)) } else { word };
        stable.push_str(&stable_word(word));
        rest = after;
    }
    if stable.chars().count() > LONGEST_TEXT {
        stable = stable.chars().take(LONGEST_TEXT).chain("...".chars()).collect();
    }
    stable
}

fn stable_word(word: &str) -> String {
    if word.len() > LONGEST_WORD {
        return "TOKEN".to_owned();
    }
    if word.find('@').is_some_and(|at| at > 0) {
        // The period at the end of a sentence is not part of the address.
        return format!("EMAIL{}", if word.ends_with('.') { "." } else { "" });
    }
    let mut stable = String::new();
    let mut rest = word;
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, digits) = rest.split_at(start);
        let (number, after) = digits.split_at(digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()));
        stable.push_str(before);
        stable.push_str(if number.len() < SHORTEST_NUMBER { number } else { "NUMBER" });
        rest = after;
    }
    stable + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_by_nature_is_the_same_and_tokens_are_left_out() {
        let mut known = Known::default();
        known.is_secret(&Secret::new("short-secret".to_owned()));
        known.stands_for("https://oidc.example/id/1", "ISSUER");
        for (text, expected) in [
            ("ID Token issued at 1790552633 is stale to sign-in.", "ID Token issued at NUMBER is stale to sign-in."),
            ("not found for email a-b@p.iam.gserviceaccount.com", "not found for email EMAIL"),
            ("for a@p.iam.gserviceaccount.com. Try", "for EMAIL. Try"),
            ("project 123456789012 before", "project NUMBER before"),
            ("more than 1 hour, 43200s", "more than 1 hour, 43200s"),
            ("The issuer in ID Token https://oidc.example/id/1 does", "The issuer in ID Token ISSUER does"),
            ("[short-secret]", "[TOKEN]"),
            (&format!("got ey.{}.s, sorry", "aB3_-".repeat(20)), "got TOKEN, sorry"),
            ("mot \u{e9}t\u{e9}", "mot \u{e9}t\u{e9}"),
        ] {
            assert_eq!(stable(text, &known), expected);
        }
    }

    #[test]
    fn each_part_that_differs_is_named() {
        let reply = |status, body: &str| {
            let content_type = "application/json; charset=UTF-8".to_owned();
            Seen::of(&Reply { status, content_type, body: body.as_bytes().to_vec() }, &Known::default())
        };
        let denied = r#"{"error": {"status": "PERMISSION_DENIED", "message": "m", "details": [{"reason": "R", "domain": "d"}]}}"#;
        let other = denied.replace("\"R\"", "\"S\"").replace("\"m\"", "\"n\"");
        assert_eq!(reply(403, denied).differences(&reply(403, denied)), Vec::<String>::new());
        assert_eq!(
            reply(403, denied).differences(&reply(404, &other)),
            [
                "status embedded \"403\" Google \"404\"",
                "reason embedded \"R of d\" Google \"S of d\"",
                "text embedded \"m\" Google \"n\""
            ]
        );
        let success = |time: &str| reply(200, &format!(r#"{{"accessToken": "ya29", "expireTime": "{time}"}}"#));
        assert_eq!(success("2026-11-24T00:00:00Z"), success("2027-01-02T03:04:05Z"));
        assert_eq!(
            success("2026-11-24T00:00:00Z").differences(&success("2026-11-24T00:00:00.5Z")),
            ["text embedded \"accessToken: text, expireTime=0000-00-00T00:00:00Z\" Google \
              \"accessToken: text, expireTime=0000-00-00T00:00:00.0Z\""]
        );
    }
}
