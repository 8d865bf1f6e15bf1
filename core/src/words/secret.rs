//! Text that must not be seen: subject tokens, federated tokens, access tokens.
#![forbid(unsafe_code)]

use std::fmt;

use zeroize::Zeroizing;

/// A secret text.
///
/// It has no `Display`, its `Debug` prints `[redacted]`, and its memory is wiped when it is dropped.
/// The only way to the text is [`Secret::expose`], so that every use is found by searching for that word.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for a request, a file or an environment variable of its owner, nothing else.
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

/// A secret's text, for root's own files and for the pipe to its own child only.
pub mod exposed {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Secret;

    /// For `#[serde(with = "exposed")]`.
    ///
    /// # Errors
    /// The format's.
    pub fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    /// For `#[serde(with = "exposed")]`.
    ///
    /// # Errors
    /// The format's.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_does_not_show_the_text() {
        let secret = Secret::new("ya29.abc".to_owned());
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "[redacted] Some([redacted])");
        assert_eq!(secret.expose(), "ya29.abc");
    }
}
