//! The IAM Service Account Credentials API: `generateAccessToken` and `generateIdToken`.

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use super::errors;
use super::state::{AccessToken, CLOUD_PLATFORM, Identity, State};
use super::sts::is_scope;
use super::wire::{Request, Response};

const SERVICE: &str = "iamcredentials.googleapis.com";
const IAM: &str = "https://www.googleapis.com/auth/iam";
const HOUR: i64 = 3600;
const TWELVE_HOURS: i64 = 12 * HOUR;

type Refusal = Box<Response>;

/// An access token of a service account, for a federated token that may impersonate it.
pub fn generate_access_token(request: &Request, state: &State) -> Response {
    access_token(request, state).unwrap_or_else(|refusal| *refusal)
}

/// A JWT that proves the service account to an audience.
pub fn generate_id_token(request: &Request, state: &State) -> Response {
    id_token(request, state).unwrap_or_else(|refusal| *refusal)
}

fn access_token(request: &Request, state: &State) -> Result<Response, Refusal> {
    let known = ["delegates", "scope", "lifetime"];
    let body = body(request, &known)?;
    let email = impersonated(request, state, "GenerateAccessToken", "getAccessToken")?;
    let scopes = scopes(&body)?;
    let lifetime = lifetime(&body)?.unwrap_or(HOUR);
    let options = state.options().clone();
    let extended = options.service_account(&email).is_some_and(|account| account.extended_lifetime);
    if lifetime <= 0 {
        return Err(errors::lifetime_is_zero().into());
    }
    if lifetime > if extended { TWELVE_HOURS } else { HOUR } {
        return Err(errors::lifetime_is_too_long(&email).into());
    }
    let now = state.now();
    let expires = now + options.access_token_life.map_or(lifetime, |cap| lifetime.min(cap));
    let identity = Identity::ServiceAccount { email };
    let token = state.issue(AccessToken { identity, scopes, issued: now, expires });
    Ok(errors::pretty_answer(&json!({"accessToken": token, "expireTime": rfc3339(expires)})))
}

fn id_token(request: &Request, state: &State) -> Result<Response, Refusal> {
    let known = ["delegates", "audience", "includeEmail", "organizationNumberIncluded", "useEmailAzp"];
    let body = body(request, &known)?;
    let email = impersonated(request, state, "GenerateIdToken", "getOpenIdToken")?;
    let Some(audience) = body.get("audience").and_then(Value::as_str).filter(|text| !text.is_empty()) else {
        return Err(errors::invalid_argument().into());
    };
    let now = state.now();
    // A service account's unique id; any stable number of its shape will do.
    let id = format!("1{:020}", email.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())));
    let mut claims = json!({
        "aud": audience,
        "azp": id,
        "exp": now + HOUR,
        "iat": now,
        "iss": "https://accounts.google.com",
        "sub": id,
    });
    if matches!(body.get("includeEmail"), Some(Value::Bool(true))) {
        claims["email"] = email.into();
        claims["email_verified"] = true.into();
    }
    let key = state.google_key();
    let token = key.sign(&json!({"alg": "RS256", "kid": key.kid, "typ": "JWT"}), &claims);
    state.remember(&token);
    Ok(errors::pretty_answer(&json!({ "token": token })))
}

/// The service account of the path, if the caller may act for it.
fn impersonated(request: &Request, state: &State, rpc: &str, permission: &str) -> Result<String, Refusal> {
    let method = format!("google.iam.credentials.v1.IAMCredentials.{rpc}");
    let unauthenticated = |reason| Box::new(errors::unauthenticated(reason, SERVICE, &method));
    let secret = request.bearer().ok_or_else(|| unauthenticated("CREDENTIALS_MISSING"))?;
    let token = state.token(secret).ok_or_else(|| unauthenticated("ACCESS_TOKEN_TYPE_UNSUPPORTED"))?;
    if token.expires <= state.now() {
        return Err(unauthenticated("ACCESS_TOKEN_EXPIRED"));
    }
    let options = state.options().clone();
    if !options.iam_credentials_enabled {
        return Err(errors::service_disabled(&options.project_number).into());
    }
    if !token.has_scope(CLOUD_PLATFORM) && !token.has_scope(IAM) {
        return Err(errors::insufficient_scope(SERVICE, &method).into());
    }
    let email = email(&request.path)?;
    let account = options.service_account(&email).ok_or_else(|| errors::no_such_account(&email))?;
    if !token.identity.is_among(&account.subjects) {
        let permission = format!("iam.serviceAccounts.{permission}");
        return Err(errors::permission_denied(&permission).into());
    }
    Ok(email)
}

/// `/v1/projects/-/serviceAccounts/EMAIL:METHOD`, with `-` for the project.
fn email(path: &str) -> Result<String, Refusal> {
    let path = percent_decode_str(path).decode_utf8_lossy().into_owned();
    let rest = path.strip_prefix("/v1/projects/").ok_or_else(|| errors::not_found(&path))?;
    let (project, account) = rest.split_once("/serviceAccounts/").ok_or_else(|| errors::not_found(&path))?;
    let (email, _) = account.rsplit_once(':').ok_or_else(|| errors::not_found(&path))?;
    if project != "-" || email.is_empty() || email.contains('/') {
        return Err(errors::invalid_argument().into());
    }
    Ok(email.to_owned())
}

/// The message's fields, from JSON or from the form that gRPC sends.
fn body(request: &Request, known: &[&str]) -> Result<Map<String, Value>, Refusal> {
    let mut body = Map::new();
    if request.is_form() {
        for (name, value) in form_urlencoded::parse(&request.body) {
            let value = Value::from(value.into_owned());
            if name == "scope" || name == "delegates" {
                let list = body.entry(name).or_insert_with(|| json!([]));
                list.as_array_mut().expect("a list").push(value);
            } else {
                body.insert(name.into_owned(), value);
            }
        }
    } else if !request.body.is_empty() {
        let text = "Invalid JSON payload received. Unexpected token.";
        body = serde_json::from_slice(&request.body).map_err(|_| errors::bad_field("", text))?;
    }
    match body.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(body),
        Some(name) => {
            let text = format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot find field.");
            Err(errors::bad_field("", text).into())
        }
    }
}

/// `scope` is required; an empty text in it stands for cloud-platform.
fn scopes(body: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    let list = match body.get("scope") {
        Some(Value::Array(list)) => list.clone(),
        Some(Value::String(one)) => vec![Value::from(one.as_str())],
        _ => Vec::new(),
    };
    let mut scopes = Vec::new();
    for scope in &list {
        match scope.as_str() {
            Some("") => scopes.push(CLOUD_PLATFORM.to_owned()),
            Some(scope) if is_scope(scope) => scopes.push(scope.to_owned()),
            _ => return Err(errors::invalid_argument().into()),
        }
    }
    if scopes.is_empty() { Err(errors::invalid_argument().into()) } else { Ok(scopes) }
}

/// `lifetime` is a protobuf duration in JSON: seconds, with an `s` at the end.
fn lifetime(body: &Map<String, Value>) -> Result<Option<i64>, Refusal> {
    let Some(value) = body.get("lifetime").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let illegal = || {
        let text = "Invalid value at 'lifetime' (type.googleapis.com/google.protobuf.Duration), \
                    Field 'lifetime', Illegal duration format; duration must end with 's'";
        Box::new(errors::bad_field("lifetime", text))
    };
    let seconds = value.as_str().and_then(|text| text.strip_suffix('s')).ok_or_else(illegal)?;
    let seconds: f64 = seconds.parse().map_err(|_| illegal())?;
    if seconds.is_finite() { Ok(Some(seconds as i64)) } else { Err(illegal()) }
}

/// `2026-11-23T14:17:05Z`: no fractions, as google-auth for Python and for Java demand.
pub fn rfc3339(time: i64) -> String {
    let (days, second) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    // Days since 1970 to a civil date, by Howard Hinnant's algorithm: years begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}
