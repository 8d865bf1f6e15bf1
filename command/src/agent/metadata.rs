//! The metadata protocol of Google Compute Engine, as far as Google's clients ask for it.
//!
//! <https://cloud.google.com/compute/docs/metadata/overview>
#![forbid(unsafe_code)]

use serde_json::{Value, json};

use super::reply::{Call, Reply};
use super::served::Served;
use gcp_wif_core::words::google::Scope;
use gcp_wif_core::words::time::UnixSeconds;

const ROOT: &str = "/computeMetadata/v1";

/// Answers a GET below the metadata root, or `/`, by which clients look for the server.
pub(crate) fn answer(call: &Call, served: &Served, now: UnixSeconds) -> Reply {
    if call.path == "/" || call.path == ROOT {
        return Reply::text("computeMetadata/\n");
    }
    let Some(path) = call.path.strip_prefix(ROOT) else { return not_found() };
    if !call.has_flavor {
        return Reply::refuse(403, "the header Metadata-Flavor: Google is missing");
    }
    let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let recursive = call.parameter("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    match path.as_slice() {
        [] => Reply::text("instance/\nproject/\nuniverse/\n"),
        ["instance"] => Reply::text("id\nname\nservice-accounts/\nzone\n"),
        ["instance", "service-accounts"] if recursive => Reply::json(&accounts(served)),
        ["instance", "service-accounts"] => Reply::text(format!("default/\n{}/\n", served.metadata.email)),
        ["instance", "service-accounts", account, rest @ ..]
            if *account == "default" || *account == served.metadata.email =>
        {
            account_answer(rest, call, served, now)
        }
        ["project", "project-id"] => served.metadata.project.as_deref().map_or_else(not_found, Reply::text),
        ["project", "numeric-project-id"] => Reply::text(&*served.metadata.project_number),
        ["universe", "universe-domain" | "universe_domain"] => Reply::text(&*served.metadata.universe_domain),
        _ => not_found(),
    }
}

/// The audience of a well-formed request for an OpenID token of a service account.
pub(crate) fn wants_identity(call: &Call, served: &Served) -> Option<String> {
    let rest = call.path.strip_prefix(ROOT)?.strip_prefix("/instance/service-accounts/")?;
    let account = rest.trim_end_matches('/').strip_suffix("/identity")?;
    let audience = call.parameter("audience").filter(|audience| !audience.is_empty())?;
    let theirs = account == "default" || account == served.metadata.email;
    let possible =
        call.method == "GET" && call.has_flavor && theirs && served.grant.identity().service_account().is_some();
    possible.then(|| audience.to_owned())
}

fn account_answer(rest: &[&str], call: &Call, served: &Served, now: UnixSeconds) -> Reply {
    match rest {
        [] => Reply::json(&account(served)),
        ["email"] => Reply::text(&*served.metadata.email),
        ["aliases"] => Reply::text("default\n"),
        ["scopes"] => Reply::text(scopes(served).map(|scope| format!("{scope}\n")).collect::<String>()),
        ["token"] => token(served, now),
        ["identity"] if call.parameter("audience").is_none_or(str::is_empty) => {
            Reply::refuse(400, "the parameter audience is missing")
        }
        _ => not_found(),
    }
}

fn token(served: &Served, now: UnixSeconds) -> Reply {
    let left = served.left(now);
    if left <= 0 {
        return Reply::refuse(
            503,
            "no valid access token: Google could not be asked for a new one; see slurmd's log and the job's status file",
        );
    }
    Reply::json(&json!({"access_token": served.token.secret().expose(), "expires_in": left, "token_type": "Bearer"}))
}

fn account(served: &Served) -> Value {
    let scopes: Vec<&str> = scopes(served).collect();
    json!({"aliases": ["default"], "email": served.metadata.email, "scopes": scopes})
}

fn scopes(served: &Served) -> impl Iterator<Item = &str> {
    served.grant.scopes().iter().map(Scope::as_str)
}

fn accounts(served: &Served) -> Value {
    json!({"default": account(served), &*served.metadata.email: account(served)})
}

fn not_found() -> Reply {
    Reply::refuse(404, "not found")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::served::tests::served;

    fn ask(target: &str) -> (u16, &'static str, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned()));
        let call = Call {
            method: "GET".to_owned(),
            path: format!("/computeMetadata/v1/{path}"),
            query: query.collect(),
            body: zeroize::Zeroizing::default(),
            content_type: String::new(),
            has_flavor: true,
        };
        let reply = answer(&call, &served(), 1000);
        (reply.status, reply.content_type, reply.body.to_string())
    }

    #[test]
    fn every_path_that_clients_ask_for_is_served() {
        let email = "site@p.iam.gserviceaccount.com";
        let account = format!(
            r#"{{"aliases":["default"],"email":"{email}","scopes":["https://www.googleapis.com/auth/cloud-platform"]}}"#
        );
        for (path, expected) in [
            ("instance", "id\nname\nservice-accounts/\nzone\n".to_owned()),
            ("instance/", "id\nname\nservice-accounts/\nzone\n".to_owned()),
            ("project/project-id", "demo".to_owned()),
            ("project/numeric-project-id", "12".to_owned()),
            ("universe/universe-domain", "googleapis.com".to_owned()),
            ("universe/universe-domain?recursive=true", "googleapis.com".to_owned()),
            ("instance/service-accounts/", format!("default/\n{email}/\n")),
            ("instance/service-accounts/?recursive=true", format!(r#"{{"default":{account},"{email}":{account}}}"#)),
            ("instance/service-accounts/default/?recursive=true", account.clone()),
            ("instance/service-accounts/site@p.iam.gserviceaccount.com/?recursive=true", account),
            ("instance/service-accounts/default/email", email.to_owned()),
            ("instance/service-accounts/default/scopes", "https://www.googleapis.com/auth/cloud-platform\n".to_owned()),
            (
                "instance/service-accounts/default/token",
                r#"{"access_token":"ya29.t","expires_in":600,"token_type":"Bearer"}"#.to_owned(),
            ),
            (
                "instance/service-accounts/default/token?scopes=a,b",
                r#"{"access_token":"ya29.t","expires_in":600,"token_type":"Bearer"}"#.to_owned(),
            ),
        ] {
            assert_eq!((200, expected), (ask(path).0, ask(path).2), "{path}");
        }
        assert_eq!(ask("instance/service-accounts/default/?recursive=true").1, "application/json");
        for (path, status) in [
            ("instance/zone", 404),
            ("instance/service-accounts/other@p.iam.gserviceaccount.com/token", 404),
            ("instance/service-accounts/default/identity", 400),
            ("instance/service-accounts/default/identity?audience=x", 404),
        ] {
            assert_eq!(ask(path).0, status, "{path}");
        }
    }
}
