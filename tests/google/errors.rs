//! Google's refusals, verbatim if they are on record.
//!
//! STS answers in OAuth's style on one line; other services answer `google.rpc.Status` as
//! indented JSON; Cloud Storage has a list `errors` of its own; unknown paths get the front end's
//! HTML page. Texts marked *inferred* are not on record: only status and style can be relied on.

use serde_json::{Value, json};

use super::wire::{Request, Response};

const JSON: &str = "application/json; charset=UTF-8";

/// `{"error": ..., "error_description": ...}` with status 400.
pub fn oauth(error: &str, description: impl Into<String>) -> Response {
    oauth_with(400, error, description)
}

pub fn oauth_with(status: u16, error: &str, description: impl Into<String>) -> Response {
    let body = json!({"error": error, "error_description": description.into()});
    Response::new(status, JSON, body.to_string())
}

/// A refusal that repeats the token of the request and the whole body, as a proxy's page for debugging does.
pub fn repeating(request: &Request) -> Response {
    let field = form_urlencoded::parse(&request.body).find(|(name, _)| name == "subject_token");
    let sent = request.header("authorization").map(str::to_owned).or(field.map(|(_, value)| value.into_owned()));
    let body = String::from_utf8_lossy(&request.body);
    oauth("invalid_request", format!("{} is not liked; {body}", sent.unwrap_or_default()))
}

/// `{"error": {"code", "message", "status", "details"}}`.
pub fn status(code: u16, name: &str, message: impl Into<String>, details: Value) -> Response {
    let mut error = json!({"code": code, "message": message.into(), "status": name});
    if !details.is_null() {
        error["details"] = details;
    }
    Response::new(code, JSON, pretty(&json!({ "error": error })))
}

/// The `details` of a `google.rpc.ErrorInfo`.
pub fn error_info(reason: &str, domain: &str, metadata: Value) -> Value {
    json!([{
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": domain,
        "metadata": metadata,
    }])
}

/// 400 with the offending field, as Google's JSON front end answers.
pub fn bad_field(field: &str, message: impl Into<String>) -> Response {
    let message = message.into();
    let details = json!([{
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"field": field, "description": message}],
    }]);
    status(400, "INVALID_ARGUMENT", message, details)
}

/// Cloud Storage's style.
pub fn storage(code: u16, reason: &str, message: impl Into<String>) -> Response {
    let message = message.into();
    let mut error = json!({"message": message, "domain": "global", "reason": reason});
    if code == 401 {
        error["locationType"] = "header".into();
        error["location"] = "Authorization".into();
    }
    let body = json!({"error": {"code": code, "message": message, "errors": [error]}});
    let response = Response::new(code, JSON, pretty(&body));
    if code == 401 {
        return response.header("WWW-Authenticate", "Bearer realm=\"https://accounts.google.com/\"");
    }
    response
}

/// The front end's page, with Google's marks.
pub fn html(code: u16, name: &str, text: &str) -> Response {
    let body = format!(
        "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n  <title>Error {code} ({name})!!1</title>\n  \
         <p><b>{code}.</b> <ins>That\u{2019}s an error.</ins>\n  <p>{text}  <ins>That\u{2019}s all we know.</ins>\n"
    );
    Response::new(code, "text/html; charset=UTF-8", body)
}

/// A front end's answer if no service behind it answers.
pub fn no_service() -> Response {
    let text = "The server encountered a temporary error and could not complete your request.<p>Please try again in 30 \
                seconds.";
    html(502, "Server Error", text)
}

pub fn not_found(path: &str) -> Response {
    let path = path.replace('<', "&lt;");
    html(404, "Not Found", &format!("The requested URL <code>{path}</code> was not found on this server."))
}

pub fn wrong_method(method: &str) -> Response {
    let text = format!("The request method <code>{method}</code> is inappropriate for the URL.");
    html(405, "Method Not Allowed", &text)
}

/// A compact 200.
pub fn json_answer(body: &Value) -> Response {
    Response::new(200, JSON, body.to_string())
}

/// An indented 200, as of services other than STS.
pub fn pretty_answer(body: &Value) -> Response {
    Response::new(200, JSON, pretty(body))
}

fn pretty(body: &Value) -> String {
    format!("{body:#}\n")
}

// STS, OAuth style. Sources: issues of google-github-actions/auth, Google's troubleshooting
// pages, and measurements of the real service published in 2026.

pub fn audience_is_no_provider() -> Response {
    oauth(
        "invalid_request",
        "Invalid value for \"audience\". This value should be the full resource name of the \
         Identity Provider. See https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token \
         for the list of possible formats.",
    )
}

pub fn no_such_provider() -> Response {
    oauth(
        "invalid_target",
        "The target service indicated by the \"audience\" parameters is invalid. This might either \
         be because the pool or provider is disabled or deleted or because it doesn't exist.",
    )
}

pub fn unparsable_token() -> Response {
    oauth("invalid_grant", "Unable to parse the ID Token.")
}

pub fn wrong_issuer(issuer: &str, expected: &str) -> Response {
    let text = format!("The issuer in ID Token {issuer} does not match the expected one in config: {expected}.");
    oauth("invalid_grant", text)
}

/// Google could not fetch the issuer's keys, or none of them has this id.
pub fn no_key_of_issuer() -> Response {
    oauth("invalid_grant", "Error connecting to the given credential's issuer.")
}

pub fn wrong_signature() -> Response {
    oauth("invalid_grant", "Unable to verify the ID Token signature.")
}

pub fn wrong_audience(audiences: &[String], expected: Option<&str>) -> Response {
    let expected = expected.map(|name| format!(" {name}")).unwrap_or_default();
    let text =
        format!("The audience in ID Token [{}] does not match the expected audience{expected}.", audiences.join(", "));
    oauth("invalid_grant", text)
}

pub fn stale(issued: Option<i64>) -> Response {
    let issued = issued.map_or_else(|| "null".to_owned(), |time| time.to_string());
    oauth("invalid_grant", format!("ID Token issued at {issued} is stale to sign-in."))
}

pub fn rejected_by_condition() -> Response {
    oauth("unauthorized_client", "The given credential is rejected by the attribute condition.")
}

pub fn long_subject() -> Response {
    oauth(
        "invalid_request",
        "The size of mapped attribute google.subject exceeds the 127 bytes limit. Either modify \
         your attribute mapping or the incoming assertion to produce a mapped attribute that is \
         less than 127 bytes.",
    )
}

/// *Inferred.*
pub fn invalid_value(parameter: &str) -> Response {
    oauth("invalid_request", format!("Invalid value for \"{parameter}\"."))
}

/// *Inferred.*
pub fn invalid_scope() -> Response {
    oauth("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
}

/// *Inferred*: a client of gcloud's own may identify itself, nobody else.
pub fn invalid_client() -> Response {
    oauth_with(401, "invalid_client", "The OAuth client was not found.")
}

/// STS's current answer, with status 429, or an earlier one with another status.
pub fn throttled(status: u16) -> Response {
    if status != 429 {
        return oauth_with(
            status,
            "rate_limit_exceeded",
            "[Security Token Service] The request was throttled due to rate limit. Please retry after a few seconds.",
        );
    }
    oauth_with(
        status,
        "quota_exceeded",
        "The request was throttled due to rate limit: sts.googleapis.com/requests. Please retry after a few seconds.",
    )
}

pub fn internal() -> Response {
    status(500, "INTERNAL", "Internal error encountered.", Value::Null)
}

// iamcredentials and others, Status style.

const EXPECTED_CREDENTIAL: &str = "Expected OAuth 2 access token, login cookie or other valid \
     authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.";

/// 401 for a missing, unknown or expired token.
pub fn unauthenticated(reason: &str, service: &str, method: &str) -> Response {
    let what = match reason {
        "CREDENTIALS_MISSING" => "Request is missing required authentication credential.",
        _ => "Request had invalid authentication credentials.",
    };
    let details = error_info(reason, "googleapis.com", json!({"service": service, "method": method}));
    status(401, "UNAUTHENTICATED", format!("{what} {EXPECTED_CREDENTIAL}"), details)
        .header("WWW-Authenticate", "Bearer realm=\"https://accounts.google.com/\"")
}

pub fn insufficient_scope(service: &str, method: &str) -> Response {
    let metadata = json!({"service": service, "method": method});
    let details = error_info("ACCESS_TOKEN_SCOPE_INSUFFICIENT", "googleapis.com", metadata);
    let text = "Request had insufficient authentication scopes.";
    status(403, "PERMISSION_DENIED", text, details)
}

pub fn permission_denied(permission: &str) -> Response {
    let details = error_info("IAM_PERMISSION_DENIED", "iam.googleapis.com", json!({"permission": permission}));
    let text = format!("Permission '{permission}' denied on resource (or it may not exist).");
    status(403, "PERMISSION_DENIED", text, details)
}

pub fn no_such_account(email: &str) -> Response {
    let text = format!("Not found; Gaia id not found for email {email}");
    status(404, "NOT_FOUND", text, Value::Null)
}

pub fn service_disabled(project: &str) -> Response {
    let service = "iamcredentials.googleapis.com";
    let url = format!("https://console.developers.google.com/apis/api/{service}/overview?project={project}");
    let text = format!(
        "IAM Service Account Credentials API has not been used in project {project} before or it \
         is disabled. Enable it by visiting {url} then retry. If you enabled this API recently, \
         wait a few minutes for the action to propagate to our systems and retry."
    );
    let metadata = json!({"consumer": format!("projects/{project}"), "service": service});
    status(403, "PERMISSION_DENIED", text, error_info("SERVICE_DISABLED", "googleapis.com", metadata))
}

pub fn invalid_argument() -> Response {
    status(400, "INVALID_ARGUMENT", "Request contains an invalid argument.", Value::Null)
}

pub fn lifetime_is_zero() -> Response {
    let text = "Lifetime of access token must be larger then zero.";
    status(400, "INVALID_ARGUMENT", text, Value::Null)
}

/// The end of this text is on record, its first words are *inferred*.
pub fn lifetime_is_too_long(email: &str) -> Response {
    let text = format!(
        "Access tokens for {email} can not have lifetimes of more than 1 hour. Use the Org Policy \
         Constraint constraints/iam.allowServiceAccountCredentialLifetimeExtension to allow up to \
         12 hours."
    );
    status(400, "INVALID_ARGUMENT", text, Value::Null)
}
