//! Faults at Google and on the network path to it.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{BUDGET, Case, SHORT_BUDGET, SHORTER_THAN_PAUSES, case, check, edit_config, edit_credential, with_key};
use crate::google::{Body, Certificate, Endpoint, Fault, Format, Google, Options, Source, Times};
use crate::site::{Site, TOKEN_FILE};

/// Faults that both of Google's endpoints can have.
fn faults_of(endpoint: Endpoint) -> Vec<Case> {
    let style = if endpoint == Endpoint::Sts { Body::OAuth } else { Body::Status };
    let fault = move |fault: Fault| move |site: &Site| site.google.inject(endpoint, fault.clone(), Times::Forever);
    let status = |code: u16| Fault::status_with(code, style);
    vec![
        case("400", fault(status(400))),
        case("401", fault(status(401))),
        case("403", fault(status(403))),
        case("404", fault(status(404))),
        case("429", throttled(endpoint, status(429))),
        case("500", fault(status(500))),
        case("503", fault(status(503))),
        case("502 with a page", fault(Fault::status_with(502, Body::Html))),
        case("500 with nothing", fault(Fault::status_with(500, Body::Empty))),
        case("a hang-up", fault(Fault::Hangup)),
        case("half a body", fault(Fault::Truncated)),
        case("a gigabyte", fault(Fault::Endless { chunked: false })),
        case("a gigabyte in chunks", fault(Fault::Endless { chunked: true })),
        case("a redirect", fault(Fault::Redirect(307, "http://127.0.0.1:1/".to_owned()))),
        case("no HTTP", fault(Fault::Garbage)),
        case("a login page with status 200", fault(Fault::answer_as("text/html", "<html>Log in</html>"))),
        case("an empty object", fault(Fault::answer("{}"))),
        case("a delay beyond the budget", hangs(endpoint, Fault::Delay(Duration::from_secs(SHORT_BUDGET * 3)))),
        case("a byte a second", hangs(endpoint, Fault::Drip(Duration::from_secs(1)))),
    ]
}

/// A fault that makes the client wait, with a short time limit.
fn hangs(endpoint: Endpoint, fault: Fault) -> impl Fn(&Site) {
    within(SHORT_BUDGET, endpoint, fault)
}

/// A fault after which the client would wait longer than the time limit.
fn throttled(endpoint: Endpoint, fault: Fault) -> impl Fn(&Site) {
    within(SHORTER_THAN_PAUSES, endpoint, fault)
}

fn within(budget: u64, endpoint: Endpoint, fault: Fault) -> impl Fn(&Site) {
    move |site| {
        shorten(site, budget);
        site.google.inject(endpoint, fault.clone(), Times::Forever);
    }
}

fn shorten(site: &Site, budget: u64) {
    let (long, short) = (format!("\"timeout_seconds\":{BUDGET}"), format!("\"timeout_seconds\":{budget}"));
    edit_config(site, |text| text.replace(&long, &short));
}

/// A Google with a fault in its setup.
fn configured(change: fn(&mut Options)) -> impl Fn(&Site) {
    move |site| site.google.configure(change)
}

#[test]
fn token_exchange() {
    let mut cases = faults_of(Endpoint::Sts);
    cases.push(case("throttled", throttled(Endpoint::Sts, Fault::throttled(None))));
    // With the normal time limit, because the answer itself says that no pause would help.
    cases.push(case("throttled for an hour", |site| {
        site.google.inject(Endpoint::Sts, Fault::throttled(Some("3600")), Times::Forever)
    }));
    cases.push(case("nobody listens", |site| edit_credential(site, "token_url", json!("http://127.0.0.1:1/v1/token"))));
    cases.push(case("an unknown provider", |site| {
        edit_credential(
            site,
            "audience",
            json!("//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q"),
        );
    }));
    cases.push(case("the issuer cannot be reached", configured(|options| options.issuer_reachable = false)));
    cases.push(case(
        "the attribute condition is false",
        configured(|options| options.attribute_condition = Some(Arc::new(|_| false))),
    ));
    cases.push(case("the project's quota is used up", |site| {
        shorten(site, SHORTER_THAN_PAUSES);
        site.google.configure(|options| options.exchanges_left = Some(0));
    }));
    cases.push(case("the page of a front end", configured(|options| options.services_reachable = false)));
    check("token_exchange", &cases);
}

#[test]
fn direct_federation() {
    let direct = |site: &Site| site.trust(&Source::file(TOKEN_FILE).format(Format::Text).direct());
    let edit = move |edit: fn(&mut Value)| {
        move |site: &Site| {
            direct(site);
            site.google.inject(Endpoint::Sts, Fault::Edit(edit), Times::Forever);
        }
    };
    check(
        "direct_federation",
        &[
            case("an expiry in the past", edit(|answer| answer["expires_in"] = json!(-10))),
            case("no expiry", edit(|answer| drop(answer.as_object_mut().unwrap().remove("expires_in")))),
            case("an expiry in words", edit(|answer| answer["expires_in"] = json!("an hour"))),
            case("a token with a newline", edit(|answer| answer["access_token"] = json!("ya29\nx"))),
        ],
    );
}

#[test]
fn impersonation() {
    let mut cases = faults_of(Endpoint::Impersonation);
    let edit = |edit: fn(&mut Value)| {
        move |site: &Site| site.google.inject(Endpoint::Impersonation, Fault::Edit(edit), Times::Forever)
    };
    cases.push(case("an expiry in the past", edit(|answer| answer["expireTime"] = json!("2020-01-01T00:00:00Z"))));
    cases.push(case("an expiry in words", edit(|answer| answer["expireTime"] = json!("tomorrow"))));
    cases.push(case("no binding", |site| {
        site.google
            .configure(|options| options.service_accounts.iter_mut().for_each(|account| account.subjects.clear()));
    }));
    cases.push(case("no such service account", configured(|options| options.service_accounts.clear())));
    cases.push(case("the API is not enabled", configured(|options| options.iam_credentials_enabled = false)));
    check("impersonation", &cases);
}

#[test]
fn a_temporary_fault_goes_unnoticed() {
    let site = Site::start();
    let faults = [
        Fault::status(503),
        Fault::status_with(500, Body::Html),
        Fault::status(429),
        Fault::throttled(Some("1")),
        Fault::Hangup,
        Fault::Truncated,
        Fault::status_with(400, Body::IssuerUnreachable),
    ];
    for fault in faults {
        for endpoint in [Endpoint::Sts, Endpoint::Impersonation] {
            if endpoint == Endpoint::Impersonation && matches!(fault, Fault::Status { code: 400, .. }) {
                continue;
            }
            site.forget();
            site.google.inject(endpoint, fault.clone(), Times::Once);
            let run = site
                .cluster
                .as_user("alice")
                .command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()])
                .run()
                .ok();
            assert!(!run.stderr.contains("gcp-wif"), "{endpoint:?} {fault:?}: {}", run.stderr);
        }
    }
    site.finish();
}

#[test]
fn tls() {
    // A Google with this certificate, from the authority that the site trusts.
    let certificate = |certificate: Certificate| {
        let google = Google::start(Options { certificate, ..Options::default() });
        move |site: &Site| {
            for node in site.cluster.nodes() {
                fs::write(node.config_path().with_file_name("ca.pem"), google.ca_certificate()).unwrap();
            }
            with_key(site, r#""ca_certificates": "/etc/slurm/ca.pem""#);
            site.write_credential_configuration(&google.credential_configuration_text(&site.source().secure()));
        }
    };
    check(
        "tls",
        &[
            case("the system does not know the authority", |site| site.trust(&site.source().secure())),
            case("another authority", certificate(Certificate::UnknownAuthority)),
            case("another name", certificate(Certificate::WrongName)),
            case("an expired certificate", certificate(Certificate::Expired)),
        ],
    );
}
