//! Strict JSON.
#![forbid(unsafe_code)]

use serde::de::DeserializeOwned;

use super::names::clip;

/// Parses JSON. serde's derived code refuses duplicate keys and wrong types and, by `deny_unknown_fields`, unknown keys.
///
/// # Errors
/// The parser's sentence with its line and column, escaped and clipped. It can quote the text, so do not parse secrets
/// with it.
pub fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| clip(&error.to_string(), 300))
}
