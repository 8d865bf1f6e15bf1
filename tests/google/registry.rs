//! The token service of Artifact Registry, by the distribution project's token specification.
//!
//! A real docker-registry accepts these tokens with `auth: token: rootcertbundle:` set to
//! [`super::Google::registry_certificate`]: the tokens are RS256 and carry that certificate in
//! their `x5c` header.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, DnType, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};

use super::errors;
use super::iam::rfc3339;
use super::state::{CLOUD_PLATFORM, State, random_text};
use super::wire::{Request, Response};

/// The issuer to name in docker-registry's `auth.token.issuer`.
pub const ISSUER: &str = "embedded-google";
const USER: &str = "oauth2accesstoken";
const LIFE: i64 = 3600;

/// `GET /token?service=S&scope=repository:NAME:pull[,push]`, with basic authentication.
pub fn token(request: &Request, state: &State) -> Response {
    let Some(secret) = password(request) else {
        return refused(401, "UNAUTHORIZED", "authentication required");
    };
    let Some(token) = state.token(&secret).filter(|token| token.expires > state.now()) else {
        return refused(401, "UNAUTHORIZED", "authentication failed");
    };
    if !token.has_scope(CLOUD_PLATFORM) {
        return refused(403, "DENIED", "Request had insufficient authentication scopes.");
    }
    let reader = token.identity.is_among(&state.options().registry_readers);
    let scopes = request.query.iter().filter(|(name, _)| name == "scope");
    let scopes = scopes.flat_map(|(_, value)| value.split(' ')).filter(|scope| !scope.is_empty());
    // Actions without permission are left out, as the specification says. The registry then refuses them.
    let access: Vec<Value> = scopes
        .filter_map(|scope| {
            let (rest, actions) = scope.rsplit_once(':')?;
            let (kind, name) = rest.split_once(':')?;
            let pull = reader && kind == "repository" && actions.split(',').any(|one| one == "pull");
            Some(json!({"type": kind, "name": name, "actions": if pull { vec!["pull"] } else { vec![] }}))
        })
        .collect();
    let now = state.now();
    let claims = json!({
        "iss": ISSUER,
        "sub": token.identity.name(),
        "aud": request.query("service").unwrap_or(""),
        "exp": now + LIFE,
        "nbf": now - 10,
        "iat": now,
        "jti": random_text(12),
        "access": access,
    });
    let certificate = certificate(state);
    let header = json!({"alg": "RS256", "typ": "JWT", "x5c": [certificate]});
    let minted = state.google_key().sign(&header, &claims);
    state.remember(&minted);
    errors::json_answer(&json!({
        "token": minted,
        "access_token": minted,
        "expires_in": LIFE,
        "issued_at": rfc3339(now),
    }))
}

/// The certificate of the key that signs, as PEM.
pub fn root_certificate(state: &State) -> String {
    let lines: Vec<String> =
        certificate(state).as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// The same as base64 of its DER.
fn certificate(state: &State) -> &str {
    state.registry_certificate.get_or_init(|| {
        let key = PrivatePkcs8KeyDer::from(state.google_key().pkcs8());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_RSA_SHA256).expect("an RSA key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, ISSUER);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        STANDARD.encode(params.self_signed(&key).expect("a certificate").der())
    })
}

/// The password of user `oauth2accesstoken`.
fn password(request: &Request) -> Option<String> {
    let (scheme, text) = request.header("authorization")?.split_once(' ')?;
    let text = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    (scheme.eq_ignore_ascii_case("basic") && user == USER).then(|| password.to_owned())
}

fn refused(status: u16, code: &str, message: &str) -> Response {
    let body = json!({"errors": [{"code": code, "message": message}]});
    let response = Response::new(status, "application/json", body.to_string());
    if status == 401 {
        return response.header("WWW-Authenticate", "Basic realm=\"https://artifactregistry.googleapis.com/\"");
    }
    response
}
