//! Responses, from Google or from a server in its place, that would make the node reveal or send a token.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::json;

use crate::google::{Claims, Endpoint, Fault, Times};
use crate::site::Site;

const BOTH: [Endpoint; 2] = [Endpoint::Sts, Endpoint::Impersonation];

/// So much of a secret tells whose it is; the beginnings of two subject tokens are the same.
const TELLING: usize = 60;

#[test]
fn a_token_that_an_error_repeats_is_told_to_nobody() {
    let site = Site::start();
    site.rotate(&site.google.subject_token(&Claims::default()));
    for endpoint in BOTH {
        site.forget();
        site.google.clear_faults();
        site.google.inject(endpoint, Fault::Repeat, Times::Forever);
        let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
        assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{endpoint:?}: {}", run.stderr);
        assert!(run.stderr.contains("[a token] is not liked"), "{endpoint:?}: {}", run.stderr);
        let logs = site.cluster.logs();
        for secret in site.google.tokens() {
            let part = secret.get(..TELLING).unwrap_or(&secret);
            assert!(!run.stderr.contains(part), "{endpoint:?}: the user reads a token");
            assert!(!logs.contains(part), "{endpoint:?}: a log has a token");
        }
    }
    site.finish();
}

#[test]
fn a_redirect_takes_no_token_elsewhere() {
    let site = Site::start();
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let to = format!("http://{}/v1/token", elsewhere.local_addr().unwrap());
    for endpoint in BOTH {
        for code in [302, 307] {
            site.forget();
            site.google.clear_faults();
            site.google.inject(endpoint, Fault::Redirect(code, to.clone()), Times::Forever);
            let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
            assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{endpoint:?} {code}: {}", run.stderr);
            let came = elsewhere.accept().map(|(_, peer)| peer);
            assert!(
                came.is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
                "{endpoint:?} {code}: it was followed"
            );
        }
    }
    site.finish();
}

#[test]
fn an_answer_without_end_or_haste_is_given_up() {
    let site = Site::start();
    site.configure(json!({"timeout_seconds": 6}));
    for (fault, told) in [
        (Fault::Endless { chunked: false }, "longer than 65536 bytes"),
        (Fault::Endless { chunked: true }, "longer than 65536 bytes"),
        (Fault::Drip(Duration::from_secs(1)), "no response in time"),
    ] {
        site.forget();
        site.google.clear_faults();
        site.google.inject(Endpoint::Sts, fault.clone(), Times::Forever);
        let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
        assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{fault:?}: {}", run.stderr);
        assert!(run.stderr.contains(told), "{fault:?}: {}", run.stderr);
    }
    site.finish();
}

#[test]
fn a_token_that_cannot_be_one_is_not_taken() {
    let site = Site::start();
    type Edit = fn(&mut serde_json::Value);
    let faults: [(&str, Edit); 3] = [
        ("a newline", |answer| answer["accessToken"] = json!("ya29.x\nGOOGLE_CLOUD_PROJECT=y")),
        ("a zero byte", |answer| answer["accessToken"] = json!("ya29.x\0y")),
        ("a blank", |answer| answer["accessToken"] = json!("ya29.x password y")),
    ];
    for (what, edit) in faults {
        site.forget();
        site.google.clear_faults();
        site.google.inject(Endpoint::Impersonation, Fault::Edit(edit), Times::Forever);
        let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
        assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{what}: {}", run.stderr);
        assert!(run.stderr.contains("its accessToken is not a token"), "{what}: {}", run.stderr);
    }
    site.finish();
}
