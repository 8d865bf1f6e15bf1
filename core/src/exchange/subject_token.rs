//! The subject token, which the node reads from a file and the workload identity pool provider trusts.
#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::credential_configuration::SubjectTokenFormat;
use crate::words::names::clip;
use crate::words::secret::Secret;

/// Longer than Google lets a subject be (127 bytes).
const LONGEST_NAME: usize = 300;

/// A subject token with its claims. Google checks its signature; this code does not.
#[derive(Debug, Clone)]
pub struct SubjectToken {
    token: Secret,
    claims: Claims,
}

/// The claims that messages use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// `iss`
    pub issuer: Option<String>,
    /// `sub`
    pub subject: Option<String>,
    /// `aud`
    pub audiences: Vec<String>,
    /// `exp`, in seconds since the Unix epoch
    pub expiry: Option<i64>,
}

impl SubjectToken {
    /// Parses the content of the file. White space around the token is removed.
    ///
    /// # Errors
    /// A message that says what is wrong with the content.
    pub fn parse(content: &[u8], format: &SubjectTokenFormat) -> Result<Self, String> {
        let text = std::str::from_utf8(content).map_err(|_| "it is not text".to_owned())?;
        let token = match format {
            SubjectTokenFormat::Text => Secret::new(text.trim().to_owned()),
            SubjectTokenFormat::Json { field } => from_field(text, field)?,
        };
        if token.expose().is_empty() {
            return Err("it is empty".to_owned());
        }
        let claims = claims(token.expose()).ok_or("it is not a JWT (three base64url parts separated by dots)")?;
        Ok(Self { token, claims })
    }

    /// Returns the token, for the STS token exchange.
    pub fn token(&self) -> &Secret {
        &self.token
    }

    /// Returns the token's claims, which are not verified.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }
}

impl Claims {
    /// Returns the federated principal's name as the job sees it: the subject, escaped for a line and for a variable.
    pub fn name(&self) -> String {
        clip(self.subject.as_deref().unwrap_or_default(), LONGEST_NAME)
    }
}

fn from_field(text: &str, field: &str) -> Result<Secret, String> {
    // Drop the parser's message, because it can quote the content.
    let value: Value =
        serde_json::from_str(text).map_err(|e| format!("it is not JSON (line {}, column {})", e.line(), e.column()))?;
    match value.get(field) {
        Some(Value::String(token)) => Ok(Secret::new(token.trim().to_owned())),
        Some(_) => Err(format!("its field \"{}\" is not a string", clip(field, 40))),
        None => Err(format!("it has no field \"{}\"", clip(field, 40))),
    }
}

pub(super) fn claims(token: &str) -> Option<Claims> {
    let mut parts = token.split('.');
    let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || signature.is_empty() {
        return None;
    }
    let decode = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    URL_SAFE_NO_PAD.decode(signature).ok()?;
    decode(header)?.as_object()?;
    let payload = decode(payload)?;
    payload.as_object()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(Claims {
        issuer: payload.get("iss").and_then(text),
        subject: payload.get("sub").and_then(text),
        audiences: match payload.get("aud") {
            Some(Value::Array(audiences)) => audiences.iter().filter_map(text).collect(),
            Some(audience) => text(audience).into_iter().collect(),
            None => Vec::new(),
        },
        expiry: payload.get("exp").and_then(Value::as_i64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::jwt;

    fn parse(content: &str) -> Result<SubjectToken, String> {
        SubjectToken::parse(content.as_bytes(), &SubjectTokenFormat::Text)
    }

    #[test]
    fn claims_are_read_from_a_projected_token() {
        let token =
            jwt(r#"{"iss":"https://i","aud":["a","b"],"exp":1700000000,"sub":"system:serviceaccount:slurm:default"}"#);
        let parsed = parse(&format!("{token}\n")).unwrap();
        assert_eq!(parsed.token().expose(), token);
        assert_eq!(parsed.claims().audiences, ["a", "b"]);
        assert_eq!(parsed.claims().issuer.as_deref(), Some("https://i"));
        assert_eq!(parsed.claims().expiry, Some(1_700_000_000));
        assert_eq!(parsed.claims().subject.as_deref(), Some("system:serviceaccount:slurm:default"));
        assert_eq!(parse(&jwt(r#"{"aud":"a"}"#)).unwrap().claims().audiences, ["a"]);
    }

    #[test]
    fn a_name_fits_a_variable() {
        let name = |subject: &str| {
            let claims = serde_json::json!({"sub": subject}).to_string();
            parse(&jwt(&claims)).unwrap().claims().name()
        };
        assert_eq!(name("system:serviceaccount:slurm:default"), "system:serviceaccount:slurm:default");
        assert_eq!(name("a\0b\nGCP_WIF=c\u{202e}"), "a\\u{0}b\\nGCP_WIF=c\\u{202e}");
        assert!(name(&"a".repeat(60_000)).len() <= LONGEST_NAME + 3);
    }

    #[test]
    fn invalid_content_is_refused_without_quoting_it() {
        for (content, expected) in [
            ("", "it is empty"),
            (" \n", "it is empty"),
            ("hunter2", "it is not a JWT"),
            ("a.b.c", "it is not a JWT"),
            (&format!("{}.more", jwt("{}")), "it is not a JWT"),
            (&jwt("[]"), "it is not a JWT"),
        ] {
            let problem = parse(content).unwrap_err();
            assert!(problem.contains(expected), "{content:?}: {problem}");
            assert!(!problem.contains("hunter2"));
        }
        let json = SubjectTokenFormat::Json { field: "token".to_owned() };
        let parse =
            |content: &str| SubjectToken::parse(content.as_bytes(), &json).map(|t| t.token().expose().to_owned());
        assert_eq!(parse(&format!(r#"{{"token": "{}"}}"#, jwt("{}"))), Ok(jwt("{}")));
        assert_eq!(parse("hunter2"), Err("it is not JSON (line 1, column 1)".to_owned()));
        assert_eq!(parse(r#"{"access": "x"}"#), Err("it has no field \"token\"".to_owned()));
        assert_eq!(parse(r#"{"token": 1}"#), Err("its field \"token\" is not a string".to_owned()));
    }
}
