//! Secret text: subject tokens, federated tokens, access tokens.
#![forbid(unsafe_code)]

use std::fmt;

use zeroize::Zeroizing;

/// A secret text.
///
/// The type has no `Display`, its `Debug` prints `[redacted]`, and its memory is wiped on drop. [`Secret::expose`] is
/// the only way to the text, so a search for that word finds every use.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of the text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Returns the text. Use it only for a request to Google, or for a file or an environment variable of its owner.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// Serializes the text of a secret. Only for files that root alone can read, and for the pipe to a child process.
pub mod exposed {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Secret;

    /// Used by `#[serde(with = "exposed")]`.
    ///
    /// # Errors
    /// The errors of the format.
    pub fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    /// Used by `#[serde(with = "exposed")]`.
    ///
    /// # Errors
    /// The errors of the format.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_text() {
        let secret = Secret::new("ya29.abc".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "[redacted] Some([redacted])");
        assert_eq!(secret.expose(), "ya29.abc");
    }
}
