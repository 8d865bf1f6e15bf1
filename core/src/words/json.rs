//! Strict JSON, and JSON that a terminal can show.
#![forbid(unsafe_code)]

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::names::{clip, is_shown};

/// Parses JSON. The code that serde derives refuses duplicate keys and wrong types and, with `deny_unknown_fields`,
/// unknown keys.
///
/// # Errors
/// The parser's message with line and column, escaped and clipped. It can quote the text, so do not parse secrets with
/// this function.
pub fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| clip(&error.to_string(), 300))
}

/// A value as one line that a terminal can show. JSON lets most characters stand for themselves, also those that turn or
/// hide text; here they are escaped. Programs read the same value.
pub fn to_line(value: &Value) -> String {
    escaped(&value.to_string())
}

/// The same over several lines.
pub fn to_lines(value: &Value) -> String {
    escaped(&format!("{value:#}\n"))
}

/// In a text of JSON, what a terminal does not show can only be within strings, but for the ends of lines.
fn escaped(json: &str) -> String {
    let mut text = String::new();
    for c in json.chars() {
        if is_shown(c) || c == '\n' {
            text.push(c);
        } else {
            text.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_has_the_same_value_and_shows_all_of_it() {
        let value = json!({"a\u{9b}": "\n\u{7f} \u{202e}\u{e0041}é\"\\", "b": [1, null]});
        let line = to_line(&value);
        assert_eq!(line, r#"{"a\u009b":"\n\u007f \u202e\udb40\udc41é\"\\","b":[1,null]}"#);
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
        let lines = to_lines(&value);
        assert_eq!((lines.lines().count(), serde_json::from_str::<Value>(&lines).unwrap()), (7, value));
        assert!(lines.contains("\\u202e") && lines.ends_with("}\n"), "{lines}");
    }
}
