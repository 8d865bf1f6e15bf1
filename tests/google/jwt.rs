//! RS256 keys and JSON web tokens: those of the cluster (subject tokens) and Google's own.

use std::convert::Infallible;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use ring::rsa::KeyPair;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey};
use rsa::pkcs8::EncodePrivateKey;
use rsa::rand_core::{TryCryptoRng, TryRng};
use serde_json::{Map, Value, json};

use super::options::SUBJECT;
use super::state::{State, random_text};

/// An RSA key of 2048 bits with its key id.
pub struct Signer {
    key: KeyPair,
    pkcs8: Vec<u8>,
    pub kid: String,
}

impl Signer {
    pub fn generate() -> Self {
        let key = rsa::PrivateKey::new(&mut Random, 2048).expect("a new RSA key");
        let pkcs8 = key.to_pkcs8_der().expect("an encoded RSA key").as_bytes().to_vec();
        let key = KeyPair::from_pkcs8(&pkcs8).expect("the RSA key just made");
        Self { key, pkcs8, kid: random_text(32) }
    }

    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// A compact JWT with exactly this header and these claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message.as_bytes(), &mut signature)
            .expect("an RSA signature");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Whether this key signed the token.
    pub fn verifies(&self, token: &Parsed) -> bool {
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, self.key.public().as_ref())
            .verify(token.message.as_bytes(), &token.signature)
            .is_ok()
    }
}

/// ring's random numbers, for the `rsa` crate.
struct Random;

impl TryRng for Random {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        SystemRandom::new().fill(bytes).expect("random bytes");
        Ok(())
    }
}

impl TryCryptoRng for Random {}

/// A JWT taken apart; nothing is verified yet.
pub struct Parsed {
    pub header: Value,
    pub claims: Value,
    message: String,
    signature: Vec<u8>,
}

impl Parsed {
    /// `None` for anything but three parts of strict base64url, the first two JSON objects.
    pub fn parse(token: &str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let object = |part: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice::<Value>(&bytes).ok().filter(Value::is_object)
        };
        Some(Self {
            header: object(header)?,
            claims: object(claims)?,
            message: message.to_owned(),
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        })
    }
}

/// The claims of a subject token; the default is a good one of an hour, as the kubelet's.
/// Times are seconds from the real now.
#[derive(Clone, Debug)]
pub struct Claims {
    pub subject: String,
    /// `None`: the provider's name with `https:`.
    pub audience: Option<Vec<String>>,
    /// `None`: the instance's own issuer.
    pub issuer: Option<String>,
    pub issued_in: i64,
    pub expires_in: i64,
    pub key: Key,
    /// Claims added, or replaced; `null` leaves a claim out.
    pub other: Map<String, Value>,
}

/// Who signs a subject token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Key {
    #[default]
    Own,
    /// Another key, under its own key id.
    Other,
    /// Another key that claims the cluster's key id.
    Forged,
    /// Nobody: `alg` is `none`.
    None,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            subject: SUBJECT.to_owned(),
            audience: None,
            issuer: None,
            issued_in: 0,
            expires_in: 3607,
            key: Key::Own,
            other: Map::new(),
        }
    }
}

impl Claims {
    pub fn subject(mut self, subject: &str) -> Self {
        self.subject = subject.to_owned();
        self
    }

    pub fn audience(mut self, audience: &str) -> Self {
        self.audience = Some(vec![audience.to_owned()]);
        self
    }

    pub fn issuer(mut self, issuer: &str) -> Self {
        self.issuer = Some(issuer.to_owned());
        self
    }

    pub fn issued_in(mut self, seconds: i64) -> Self {
        self.issued_in = seconds;
        self
    }

    pub fn expires_in(mut self, seconds: i64) -> Self {
        self.expires_in = seconds;
        self
    }

    pub fn key(mut self, key: Key) -> Self {
        self.key = key;
        self
    }

    /// Adds or replaces a claim; `Value::Null` leaves it out.
    pub fn with(mut self, claim: &str, value: Value) -> Self {
        self.other.insert(claim.to_owned(), value);
        self
    }

    pub(super) fn mint(&self, state: &State) -> String {
        let now = real_now();
        let options = state.options().clone();
        let uid = "8c2f6a1e-4f0b-4b7e-9d53-2f1c7b9e0a11";
        let mut claims = json!({
            "aud": self.audience.clone().unwrap_or_else(|| vec![format!("https:{}", options.audience())]),
            "exp": now + self.expires_in,
            "iat": now + self.issued_in,
            "iss": self.issuer.as_ref().unwrap_or(&options.issuer),
            "jti": random_text(16),
            "kubernetes.io": {
                "namespace": "tenant-slurm",
                "node": {"name": "node-1", "uid": uid},
                "pod": {"name": "slurmd-0", "uid": uid},
                "serviceaccount": {"name": "default", "uid": uid},
            },
            "nbf": now + self.issued_in,
            "sub": self.subject,
        });
        for (claim, value) in &self.other {
            claims[claim] = value.clone();
        }
        if let Some(claims) = claims.as_object_mut() {
            claims.retain(|_, value| !value.is_null());
        }
        let header = |algorithm: &str, kid: &str| json!({"alg": algorithm, "kid": kid});
        let kid = &state.issuer_key.kid;
        match self.key {
            Key::Own => state.issuer_key.sign(&header("RS256", kid), &claims),
            Key::Forged => Signer::generate().sign(&header("RS256", kid), &claims),
            Key::Other => {
                let other = Signer::generate();
                other.sign(&header("RS256", &other.kid), &claims)
            }
            Key::None => {
                let signed = Signer::generate().sign(&header("none", kid), &claims);
                let end = signed.rfind('.').map_or(signed.len(), |dot| dot + 1);
                signed[..end].to_owned()
            }
        }
    }
}

fn real_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or_default().as_secs() as i64
}
