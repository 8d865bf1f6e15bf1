//! The Security Token Service: `POST /v1/token` and `POST /v1/introspect`.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::errors;
use super::jwt::Parsed;
use super::options::Options;
use super::state::{AccessToken, Identity, State};
use super::wire::{Request, Response};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const SUBJECT_TOKEN_TYPES: [&str; 2] =
    ["urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token"];
/// The greatest mapped `google.subject`, in bytes.
const SUBJECT_LIMIT: usize = 127;
/// The clock skew that Google tolerates.
const SKEW: i64 = 60;
const DAY: i64 = 24 * 3600;
/// Prefixes of scopes: those of Google Cloud, and others that its clients ask for.
/// <https://developers.google.com/identity/protocols/oauth2/scopes>
const SCOPES: [&str; 32] = [
    "accounts",
    "appengine",
    "bigquery",
    "bigtable",
    "cloud-bigtable",
    "cloud-billing",
    "cloud-healthcare",
    "cloud-identity",
    "cloud-language",
    "cloud-platform",
    "cloud-translation",
    "cloud-vision",
    "cloud_debugger",
    "cloudkms",
    "cloudruntimeconfig",
    "compute",
    "datastore",
    "devstorage",
    "drive",
    "firebase",
    "iam",
    "logging",
    "monitoring",
    "ndev",
    "pubsub",
    "service",
    "servicecontrol",
    "source",
    "spanner",
    "sqlservice",
    "trace",
    "userinfo",
];
/// gcloud identifies itself with the client id in its public source code.
const GCLOUD_CLIENT: &str = "32555940559.apps.googleusercontent.com:";

/// RFC 8693's token exchange, for the instance's one provider.
pub fn token(request: &Request, state: &State) -> Response {
    exchange(request, state).unwrap_or_else(|refusal| *refusal)
}

/// A refusal is boxed: it is far greater than an answer's usual error.
type Refusal = Box<Response>;

fn exchange(request: &Request, state: &State) -> Result<Response, Refusal> {
    if request.header("authorization").is_some() && !is_gcloud(request) {
        return Err(errors::invalid_client().into());
    }
    let fields = fields(request)?;
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let expect = |name: &'static str, good: bool| {
        if good { Ok(()) } else { Err(Box::new(errors::invalid_value(name))) }
    };
    expect("grant_type", field("grant_type") == GRANT_TYPE)?;
    expect("requested_token_type", field("requested_token_type") == ACCESS_TOKEN)?;
    take_from_quota(&mut state.options())?;
    let options = state.options().clone();
    check_audience(field("audience"), &options)?;
    let scopes: Vec<String> = field("scope").split_whitespace().map(str::to_owned).collect();
    if scopes.is_empty() || !scopes.iter().all(|scope| is_scope(scope)) {
        return Err(errors::invalid_scope().into());
    }
    expect("subject_token_type", SUBJECT_TOKEN_TYPES.contains(&field("subject_token_type")))?;
    expect("options", field("options").is_empty() || is_json(field("options")))?;
    expect("subject_token", !field("subject_token").is_empty())?;
    let now = state.now();
    let (subject, remaining) = verify(field("subject_token"), &options, state, now)?;
    let life = life(remaining, options.federated_life).ok_or_else(errors::internal)?;
    let token = state.issue(AccessToken {
        identity: Identity::Federated { principal: options.principal(&subject), subject },
        scopes,
        issued: now,
        expires: now + life,
    });
    let mut answer = json!({
        "access_token": token,
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
    });
    if life > 0 {
        answer["expires_in"] = life.into();
    }
    Ok(errors::json_answer(&answer))
}

/// Counts an exchange, whatever its result.
fn take_from_quota(options: &mut Options) -> Result<(), Refusal> {
    match &mut options.exchanges_left {
        Some(0) => Err(errors::throttled(429).into()),
        Some(left) => {
            *left -= 1;
            Ok(())
        }
        None => Ok(()),
    }
}

/// The life of a federated token: at most an hour, and no longer than the subject token's, less
/// the second or two that Google takes off. Zero is left out of the answer, as protobuf does;
/// less is an internal error, as measured on the real service.
fn life(remaining: i64, cap: Option<i64>) -> Option<i64> {
    let life = if remaining < 0 { -remaining } else { (remaining - 2).min(3599) };
    let life = cap.map_or(life, |cap| life.min(cap));
    (life >= 0).then_some(life)
}

/// The parameters under their names of RFC 8693, from a form or from JSON in camel case.
fn fields(request: &Request) -> Result<std::collections::HashMap<String, String>, Refusal> {
    if request.is_form() {
        return Ok(form_urlencoded::parse(&request.body).into_owned().collect());
    }
    let unexpected = || Box::new(errors::bad_field("", "Invalid JSON payload received. Unexpected token."));
    if !request.is_json() {
        return Err(unexpected());
    }
    let body: Map<String, Value> = serde_json::from_slice(&request.body).map_err(|_| unexpected())?;
    let mut fields = std::collections::HashMap::new();
    for (name, value) in body {
        let Some((known, _)) = [
            ("grant_type", "grantType"),
            ("requested_token_type", "requestedTokenType"),
            ("audience", "audience"),
            ("scope", "scope"),
            ("subject_token_type", "subjectTokenType"),
            ("subject_token", "subjectToken"),
            ("options", "options"),
        ]
        .into_iter()
        .find(|(snake, camel)| name == *snake || name == *camel) else {
            let text = format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot find field.");
            return Err(errors::bad_field("", text).into());
        };
        let Value::String(value) = value else {
            return Err(errors::bad_field(&name, format!("Invalid value at '{known}' (TYPE_STRING), {value}")).into());
        };
        fields.insert(known.to_owned(), value);
    }
    Ok(fields)
}

/// A name that is not a provider's name is malformed. A provider's name must be that of the existing one.
fn check_audience(audience: &str, options: &Options) -> Result<(), Refusal> {
    let parts: Vec<&str> = audience.split('/').collect();
    let [
        "",
        "",
        "iam.googleapis.com",
        "projects",
        project,
        "locations",
        "global",
        "workloadIdentityPools",
        pool,
        "providers",
        provider,
    ] = parts[..]
    else {
        return Err(errors::audience_is_no_provider().into());
    };
    let number = !project.is_empty() && project.bytes().all(|byte| byte.is_ascii_digit());
    if !number || pool.is_empty() || provider.is_empty() {
        return Err(errors::audience_is_no_provider().into());
    }
    if audience != options.audience() || !options.provider_enabled {
        return Err(errors::no_such_provider().into());
    }
    Ok(())
}

/// Checks a subject token against the provider's settings. Returns its subject and its remaining lifetime.
fn verify(token: &str, options: &Options, state: &State, now: i64) -> Result<(String, i64), Refusal> {
    let token = Parsed::parse(token).ok_or_else(errors::unparsable_token)?;
    let claims = &token.claims;
    let issuer = claims["iss"].as_str().unwrap_or("null");
    if issuer != options.issuer {
        return Err(errors::wrong_issuer(issuer, &options.issuer).into());
    }
    if !options.issuer_reachable {
        return Err(errors::no_key_of_issuer().into());
    }
    let algorithm = token.header["alg"].as_str().unwrap_or("none");
    let kid = token.header["kid"].as_str().unwrap_or("");
    if algorithm != "none" && (algorithm != "RS256" || kid != state.issuer_key.kid) {
        return Err(errors::no_key_of_issuer().into());
    }
    if algorithm == "none" || !state.issuer_key.verifies(&token) {
        return Err(errors::wrong_signature().into());
    }
    let audiences: Vec<String> = match &claims["aud"] {
        Value::String(one) => vec![one.clone()],
        Value::Array(all) => all.iter().filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    };
    let expected = options.expected_audiences();
    if !audiences.iter().any(|audience| expected.contains(audience)) {
        let named = expected.first().filter(|_| options.names_expected_audience);
        return Err(errors::wrong_audience(&audiences, named.map(String::as_str)).into());
    }
    let issued = claims["iat"].as_i64();
    let (Some(from), Some(until)) = (issued, claims["exp"].as_i64()) else {
        return Err(errors::stale(issued).into());
    };
    if from > now + SKEW || from <= now - DAY || until < now - SKEW {
        return Err(errors::stale(issued).into());
    }
    let subject = claims["sub"].as_str().unwrap_or("");
    if subject.is_empty() {
        return Err(errors::rejected_by_condition().into());
    }
    if subject.len() > SUBJECT_LIMIT {
        return Err(errors::long_subject().into());
    }
    if options.attribute_condition.as_ref().is_some_and(|condition| !condition(claims)) {
        return Err(errors::rejected_by_condition().into());
    }
    Ok((subject.to_owned(), until - now))
}

/// RFC 7662's introspection, only for gcloud, which asks for the principal of its federated token.
pub fn introspect(request: &Request, state: &State) -> Response {
    if !is_gcloud(request) {
        return errors::invalid_client();
    }
    let mut fields = form_urlencoded::parse(&request.body);
    let token = fields.find(|(name, _)| name == "token").map(|(_, value)| value.into_owned());
    let token = token.and_then(|token| state.token(&token));
    let live = token.filter(|token| token.expires > state.now());
    errors::json_answer(&match live {
        None => json!({"active": false}),
        Some(token) => json!({
            "active": true,
            "scope": token.scopes.join(" "),
            "client_id": GCLOUD_CLIENT.trim_end_matches(':'),
            "username": token.identity.name(),
            "iss": "https://sts.googleapis.com/",
            "iat": token.issued,
            "exp": token.expires,
        }),
    })
}

fn is_gcloud(request: &Request) -> bool {
    let credentials = request.header("authorization").and_then(|value| value.strip_prefix("Basic "));
    let credentials = credentials.and_then(|text| STANDARD.decode(text).ok());
    credentials.is_some_and(|text| text.starts_with(GCLOUD_CLIENT.as_bytes()))
}

/// A scope that Google would know.
pub fn is_scope(scope: &str) -> bool {
    let first_word = |rest: &str| rest.split('.').next().is_some_and(|word| SCOPES.contains(&word));
    matches!(scope, "openid" | "email" | "profile")
        || scope.strip_prefix("https://www.googleapis.com/auth/").is_some_and(|rest| {
            first_word(rest) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        })
}

/// Whether `options` is JSON, plain or URL-encoded once more (google-auth for Python does that).
fn is_json(text: &str) -> bool {
    let parses = |text: &str| serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object());
    parses(text) || parses(&percent_encoding::percent_decode_str(text).decode_utf8_lossy())
}
