//! The parts of Compute Engine's metadata protocol that Google's client libraries use.
//!
//! <https://cloud.google.com/compute/docs/metadata/overview>
#![forbid(unsafe_code)]

use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::google::Scope;
use gcp_wif_core::words::time::Moment;
use serde_json::{Value, json};

use super::answer::{self, Answer};
use super::reply::{Call, Reply};
use super::served::{Served, left};

const ROOT: &str = "/computeMetadata/v1";

/// Answers a GET below the metadata root, or of `/`, with which clients probe for the server.
pub(crate) fn answer(call: &Call, served: &Served, now: Moment) -> Answer {
    if call.path == "/" || call.path == ROOT {
        return Reply::text("computeMetadata/\n").into();
    }
    let Some(path) = call.path.strip_prefix(ROOT) else { return not_found().into() };
    if !call.has_flavor {
        return Reply::refuse(403, "the header Metadata-Flavor: Google is missing").into();
    }
    let path: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let recursive = call.parameter("recursive").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let reply = match path.as_slice() {
        [] => Reply::text("instance/\nproject/\nuniverse/\n"),
        // Omit id, name, zone, hostname and machine-type: with them, programs would take the node for a Compute Engine
        // instance.
        ["instance"] => Reply::text("service-accounts/\n"),
        ["instance", "service-accounts"] if recursive => Reply::json(&accounts(served)),
        ["instance", "service-accounts"] => Reply::text(format!("default/\n{}/\n", served.metadata.email)),
        ["instance", "service-accounts", account, rest @ ..]
            if *account == "default" || *account == served.metadata.email =>
        {
            return account_answer(rest, call, served, now);
        }
        // Empty if there is no project, because gcloud requests it in nearly every command and fails on a 404.
        ["project", "project-id"] => Reply::text(served.metadata.project.as_deref().unwrap_or_default()),
        ["project", "numeric-project-id"] => Reply::text(&*served.metadata.project_number),
        ["universe", "universe-domain" | "universe_domain"] => Reply::text(&*served.metadata.universe_domain),
        _ => not_found(),
    };
    reply.into()
}

fn account_answer(rest: &[&str], call: &Call, served: &Served, now: Moment) -> Answer {
    let reply = match rest {
        [] => Reply::json(&account(served)),
        ["email"] => Reply::text(&*served.metadata.email),
        ["aliases"] => Reply::text("default\n"),
        ["scopes"] => Reply::text(scopes(served).map(|scope| format!("{scope}\n")).collect::<String>()),
        ["token"] => match answer::scopes(call.parameter("scopes").unwrap_or_default()) {
            Ok(scopes) => return Answer::access_token(served, scopes, token, now),
            Err(problem) => Reply::refuse(400, &problem),
        },
        // A federated principal has no OpenID tokens.
        ["identity"] if served.grant.identity().service_account().is_none() => not_found(),
        ["identity"] => match call.parameter("audience").filter(|audience| !audience.is_empty()) {
            Some(audience) => return Answer::id_token(served, audience, identity),
            None => Reply::refuse(400, "the parameter audience is missing"),
        },
        _ => not_found(),
    };
    reply.into()
}

fn token(result: Result<Token, Failure>, _: &Grant, now: Moment) -> Reply {
    let token = match result {
        Ok(token) if left(&token, now) > 0 => token,
        Ok(_) => return refuse(&Failure::of_no_token()),
        Err(failure) => return refuse(&failure),
    };
    Reply::json(&json!({
        "access_token": token.secret().expose(),
        "expires_in": left(&token, now),
        "token_type": "Bearer",
    }))
}

fn identity(result: Result<Token, Failure>, _: &Grant, _: Moment) -> Reply {
    match result {
        Ok(token) => Reply::text(token.secret().expose()),
        // gcloud continues without an OpenID token after a 404, but fails on any other status.
        Err(failure) if failure.is_refusal() => Reply::refuse(404, &failure.to_string()),
        Err(failure) => refuse(&failure),
    }
}

fn refuse(failure: &Failure) -> Reply {
    Reply::refuse(answer::status(failure), &failure.to_string())
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
    use crate::agent::served::tests::{moment, served};
    use gcp_wif_core::testing;

    fn ask(target: &str) -> (u16, &'static str, String) {
        match answer_of(&served(), target) {
            Answer::Now(reply) => (reply.status, reply.content_type, reply.body.to_string()),
            later @ Answer::Later(_) => panic!("{later:?}"),
        }
    }

    fn answer_of(served: &Served, target: &str) -> Answer {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query.split('&').filter_map(|pair| pair.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned()));
        let call = Call {
            path: format!("/computeMetadata/v1/{path}"),
            query: query.collect(),
            has_flavor: true,
            ..Call::default()
        };
        answer(&call, served, moment(1000))
    }

    #[test]
    fn all_paths_that_clients_use_are_served() {
        let email = "site@p.iam.gserviceaccount.com";
        let account = format!(
            r#"{{"aliases":["default"],"email":"{email}","scopes":["https://www.googleapis.com/auth/cloud-platform"]}}"#
        );
        for (path, expected) in [
            ("instance", "service-accounts/\n".to_owned()),
            ("instance/", "service-accounts/\n".to_owned()),
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
                "instance/service-accounts/default/token?scopes=https://www.googleapis.com/auth/cloud-platform",
                r#"{"access_token":"ya29.t","expires_in":600,"token_type":"Bearer"}"#.to_owned(),
            ),
        ] {
            assert_eq!((200, expected), (ask(path).0, ask(path).2), "{path}");
        }
        assert_eq!(ask("instance/service-accounts/default/?recursive=true").1, "application/json");
        for (path, status) in [
            ("instance/zone", 404),
            ("instance/name", 404),
            ("instance/id", 404),
            ("instance/hostname", 404),
            ("instance/machine-type", 404),
            ("instance/service-accounts/default/token?scopes=drive", 400),
            ("instance/service-accounts/other@p.iam.gserviceaccount.com/token", 404),
            ("instance/service-accounts/default/identity", 400),
            ("instance/service-accounts/default/identity?audience=", 400),
        ] {
            assert_eq!(ask(path).0, status, "{path}");
        }
    }

    #[test]
    fn other_scopes_and_open_id_tokens_are_obtained_first() {
        let drive = "instance/service-accounts/default/token?scopes=https://www.googleapis.com/auth/drive,openid";
        let Answer::Later(wanted) = answer_of(&served(), drive) else { panic!() };
        let scopes: Vec<_> = wanted.grant.scopes().iter().map(Scope::as_str).collect();
        assert_eq!((scopes, wanted.audience), (vec!["https://www.googleapis.com/auth/drive", "openid"], None));
        let identity = "instance/service-accounts/default/identity?audience=https://example.org&format=full";
        let Answer::Later(wanted) = answer_of(&served(), identity) else { panic!() };
        assert_eq!(wanted.audience.as_deref(), Some("https://example.org"));
    }

    #[test]
    fn a_job_without_project_and_service_account_gets_neither() {
        let mut served = Served { grant: testing::federated(), ..served() };
        served.metadata.project = None;
        let ask = |path| match answer_of(&served, path) {
            Answer::Now(reply) => (reply.status, reply.body.to_string()),
            later @ Answer::Later(_) => panic!("{later:?}"),
        };
        assert_eq!(ask("project/project-id"), (200, String::new()));
        assert_eq!(ask("instance/service-accounts/default/identity?audience=a").0, 404);
    }
}
