//! Every request that is sent, in this order. Google answers each of the first kind with a token, and refuses the
//! others without remembering anything.

use gcp_wif_core::words::secret::Secret;
use serde_json::{Map, Value, json};

use super::client::Request;
use super::side::Side;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const REFRESH_TOKEN: &str = "urn:ietf:params:oauth:token-type:refresh_token";
const CLOUD_PLATFORM: &str = "https://www.googleapis.com/auth/cloud-platform";
const NO_SCOPE: &str = "https://www.googleapis.com/auth/no-such-scope";
/// The lifetime of tokens that nobody uses.
const LIFETIME: &str = "600s";

/// Makes a request for one of the two sides, or says why it is not possible.
pub type Make = fn(&Side) -> Result<Request, &'static str>;

pub const PATHS: [(&str, Make); 26] = [
    ("token exchange", |side| exchange(side, &[])),
    ("token exchange as JSON", exchange_as_json),
    ("token exchange, another grant_type", |side| exchange(side, &[("grant_type", "client_credentials")])),
    ("token exchange, another requested_token_type", |side| exchange(side, &[("requested_token_type", REFRESH_TOKEN)])),
    ("token exchange, another subject_token_type", |side| exchange(side, &[("subject_token_type", ACCESS_TOKEN)])),
    ("token exchange, malformed audience", |side| exchange(side, &[("audience", "https://example.com")])),
    ("token exchange, unknown provider", |side| {
        exchange(side, &[("audience", &side.audience(None, Some("no-such-provider")))])
    }),
    ("token exchange, unknown pool", |side| {
        exchange(side, &[("audience", &side.audience(Some("no-such-pool"), None))])
    }),
    ("token exchange, no scope", |side| exchange(side, &[("scope", "")])),
    ("token exchange, unknown scope", |side| exchange(side, &[("scope", NO_SCOPE)])),
    ("token exchange, altered subject token", |side| {
        exchange(side, &[("subject_token", side.altered_token().expose())])
    }),
    ("token exchange, badly signed subject token", |side| {
        exchange(side, &[("subject_token", side.badly_signed_token().expose())])
    }),
    ("token exchange, expired subject token", |side| {
        let token = side.expired_token.as_ref().ok_or("no --expired-token")?;
        exchange(side, &[("subject_token", token.expose())])
    }),
    ("token exchange, GET", |side| Ok(Request { is_get: true, ..exchange(side, &[])? })),
    ("introspection without a client", introspect),
    ("generateAccessToken", |side| access_token(side, json!({}))),
    ("generateAccessToken, unknown service account", |side| {
        Ok(Request {
            url: side.impersonation_url(Some("no-such-account"))?.to_string(),
            ..access_token(side, json!({}))?
        })
    }),
    ("generateAccessToken, no scope", |side| access_token(side, json!({"scope": null}))),
    ("generateAccessToken, unknown scope", |side| access_token(side, json!({"scope": [NO_SCOPE]}))),
    ("generateAccessToken, 3601 seconds", |side| access_token(side, json!({"lifetime": "3601s"}))),
    ("generateAccessToken, 43201 seconds", |side| access_token(side, json!({"lifetime": "43201s"}))),
    ("generateAccessToken, no authorization", |side| Ok(Request { bearer: None, ..access_token(side, json!({}))? })),
    ("generateAccessToken, a bearer token of nobody's", |side| {
        Ok(Request { bearer: Some(Secret::new("ya29.c.nobodys".to_owned())), ..access_token(side, json!({}))? })
    }),
    ("generateAccessToken, a project in the path", |side| {
        let request = access_token(side, json!({}))?;
        let named = format!("/projects/{}/", side.configuration.audience.project_number());
        Ok(Request { url: request.url.replace("/projects/-/", &named), ..request })
    }),
    ("generateIdToken", |side| id_token(side, json!({"audience": "https://example.com", "includeEmail": true}))),
    ("generateIdToken, no audience", |side| id_token(side, json!({"includeEmail": true}))),
];

/// The right fields of an exchange, with others instead of some; an empty one is left out.
fn fields(side: &Side, instead: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let right = [
        ("grant_type", GRANT_TYPE),
        ("requested_token_type", ACCESS_TOKEN),
        ("audience", side.configuration.audience.as_str()),
        ("scope", CLOUD_PLATFORM),
        ("subject_token_type", &side.configuration.subject_token_type),
        ("subject_token", side.subject_token.expose()),
    ];
    let chosen = right.map(|(name, value)| {
        let other = instead.iter().find(|(other, _)| *other == name);
        (name, other.map_or(value, |(_, value)| value).to_owned())
    });
    chosen.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn exchange(side: &Side, instead: &[(&'static str, &str)]) -> Result<Request, &'static str> {
    let fields = fields(side, instead);
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    Ok(post(side.configuration.token_url.as_str(), FORM, None, body))
}

fn exchange_as_json(side: &Side) -> Result<Request, &'static str> {
    let names = ["grantType", "requestedTokenType", "audience", "scope", "subjectTokenType", "subjectToken"];
    let values = fields(side, &[]).into_iter().map(|(_, value)| Value::from(value));
    let body: Map<String, Value> = names.map(str::to_owned).into_iter().zip(values).collect();
    Ok(post(side.configuration.token_url.as_str(), JSON, None, Value::from(body).to_string()))
}

/// Only gcloud uses this, with direct federation, and identifies itself.
fn introspect(side: &Side) -> Result<Request, &'static str> {
    let url = side.configuration.token_info_url.as_ref().ok_or("no token_info_url")?;
    let token = side.federated.as_ref().ok_or("no federated token")?;
    let body = form_urlencoded::Serializer::new(String::new()).append_pair("token", token.expose()).finish();
    Ok(post(url.as_str(), FORM, None, body))
}

/// generateAccessToken with these fields instead of the right ones; null leaves one out.
fn access_token(side: &Side, instead: Value) -> Result<Request, &'static str> {
    let url = side.impersonation_url(None)?;
    let mut body = json!({"scope": [CLOUD_PLATFORM], "lifetime": LIFETIME});
    if let (Some(body), Value::Object(instead)) = (body.as_object_mut(), instead) {
        body.extend(instead);
        body.retain(|_, value| !value.is_null());
    }
    let bearer = side.federated.clone().ok_or("no federated token")?;
    Ok(post(url.as_str(), JSON, Some(bearer), body.to_string()))
}

fn id_token(side: &Side, body: Value) -> Result<Request, &'static str> {
    let url = side.impersonation_url(None)?.with_method("generateIdToken");
    let bearer = side.federated.clone().ok_or("no federated token")?;
    Ok(post(url.as_str(), JSON, Some(bearer), body.to_string()))
}

fn post(url: &str, content_type: &'static str, bearer: Option<Secret>, body: String) -> Request {
    Request { is_get: false, url: url.to_owned(), content_type, bearer, body: Secret::new(body) }
}
