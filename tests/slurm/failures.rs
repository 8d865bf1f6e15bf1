//! Each fault, on both sides of the contract's failure table: an explicit request ends the tasks with status 1
//! and one line, under `auto` the job runs with one warning; the node stays idle either way, whether Slurm
//! loads the plugin as `optional` or as `required`.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{JobState, Plugin, Settings, set_mode, set_owner};
use crate::golden::Golden;
use crate::google::{
    Body, Certificate, Claims, Endpoint, Fault, Format, Google, Options, SERVICE_ACCOUNT, Source, Times, jwt,
};
use crate::site::{Site, TOKEN_FILE, accounts, credential_path};

type Sabotage = Box<dyn Fn(&Site)>;

/// A name for the golden file, what is done to the site, and the keys of its configuration.
struct Case(&'static str, Sabotage);

fn case(name: &'static str, sabotage: impl Fn(&Site) + 'static) -> Case {
    Case(name, Box::new(sabotage))
}

/// Seconds that an exchange gets here, and where the fault is that Google hangs.
const BUDGET: u64 = 30;
const SHORT_BUDGET: u64 = 1;

/// Runs every case under both requirements and both kinds of request.
#[track_caller]
fn check(name: &'static str, cases: &[Case]) {
    for plugin in [Plugin::Optional, Plugin::Required] {
        let mut golden = Golden::new(name);
        let site = Site::with(Settings::with(plugin));
        for Case(case, sabotage) in cases {
            reset(&site, json!({}));
            sabotage(&site);
            let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
            assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{case}: {}", run.stderr);
            let line = only_line(case, &run.stderr);
            golden.add(case, &line, &site);

            reset(&site, json!({"auto": true}));
            sabotage(&site);
            let run = site
                .cluster
                .as_user("alice")
                .command(["srun", "-w", "n1", "bash", "-c", "env | grep -c ^GOOGLE; echo ran"])
                .run();
            assert_eq!((run.status, run.stdout.as_str()), (0, "0\nran\n"), "{case} under auto: {}", run.stderr);
            // A site configuration that is not there cannot say auto.
            if *case != "no site configuration" {
                let warning = only_line(case, &run.stderr);
                assert_eq!(
                    steady(&warning),
                    steady(&format!("{line}; the job runs without credentials")),
                    "{case} under auto"
                );
            }
            site.cluster.assert_healthy();
        }
        golden.check();
        site.google.clear_faults();
        reset(&site, json!({}));
        site.cluster.as_user("alice").command(["srun", "-N2", "--gcp-wif", "true"]).run().ok();
        site.finish();
    }
}

/// Puts everything in order again.
fn reset(site: &Site, keys: Value) {
    site.google.clear_faults();
    site.google.configure(|options| options.service_accounts = accounts());
    for node in site.cluster.nodes() {
        let _ = fs::remove_dir(node.config_path());
        let _ = fs::remove_file(node.config_path());
        let _ = fs::remove_file(node.config_path().with_file_name("ca.pem"));
        let _ = fs::remove_file(credential_path(&node));
        let token = node.tokens_dir().join("token");
        let _ = fs::remove_dir(&token);
        let _ = fs::remove_file(&token);
        symlink("..data/token", &token).unwrap();
    }
    site.trust(&site.source());
    site.rotate(&site.google.subject_token(&Claims::default()));
    let mut config = json!({"timeout_seconds": BUDGET});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    site.configure(config);
}

/// The one line of ours; besides it srun says only that the task ended.
#[track_caller]
fn only_line(case: &str, stderr: &str) -> String {
    // A job that waits for the one before it says so.
    let waits = |line: &&str| line.starts_with("srun: job ");
    let (ours, others): (Vec<&str>, Vec<&str>) =
        stderr.lines().filter(|line| !waits(line)).partition(|line| line.starts_with("gcp-wif: "));
    assert_eq!(ours.len(), 1, "{case}: {stderr}");
    assert!(
        others.iter().all(|line| line.starts_with("srun: error: n1: task 0: Exited with exit code 1")),
        "{case}: {stderr}"
    );
    ours[0].to_owned()
}

/// A line without its numbers, which count time.
fn steady(line: &str) -> String {
    line.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// The site configuration as it is, changed as text.
fn edit_config(site: &Site, edit: impl Fn(String) -> String) {
    for node in site.cluster.nodes() {
        let text = fs::read_to_string(node.config_path()).unwrap();
        node.write_config(&edit(text));
    }
}

fn with_key(site: &Site, key: &str) {
    edit_config(site, |text| text.replacen('{', &format!("{{{key}, "), 1));
}

#[test]
fn site_configuration() {
    check(
        "configuration",
        &[
            case("no site configuration", |site| {
                site.cluster.nodes().iter().for_each(|n| fs::remove_file(n.config_path()).unwrap())
            }),
            case("a directory in its place", |site| {
                for node in site.cluster.nodes() {
                    fs::remove_file(node.config_path()).unwrap();
                    fs::create_dir(node.config_path()).unwrap();
                }
            }),
            case("group can write", |site| site.cluster.nodes().iter().for_each(|n| set_mode(n.config_path(), 0o664))),
            case("owned by a user", |site| site.cluster.nodes().iter().for_each(|n| set_owner(n.config_path(), 61001))),
            case("not JSON", |site| edit_config(site, |text| text.replace('}', ""))),
            case("an unknown key", |site| with_key(site, r#""credential_file": "/x""#)),
            case("a wrong type", |site| with_key(site, r#""scopes": true"#)),
            case("a duplicate key", |site| with_key(site, r#""timeout_seconds": 1"#)),
            case("agent", |site| with_key(site, r#""delivery": "agent""#)),
            case("a certificate file that is missing", |site| {
                with_key(site, r#""ca_certificates": "/etc/slurm/ca.pem""#)
            }),
            case("no credential configuration", |site| {
                site.cluster.nodes().iter().for_each(|n| fs::remove_file(credential_path(n)).unwrap())
            }),
            case("a credential configuration that others can write", |site| {
                site.cluster.nodes().iter().for_each(|n| set_mode(credential_path(n), 0o646));
            }),
            case("a service account's key", |site| {
                site.write_credential_configuration(r#"{"type": "service_account", "private_key": "-----BEGIN"}"#);
            }),
            case("aws", |site| edit_credential(site, "credential_source", json!({"environment_id": "aws1"}))),
            case("executable", |site| {
                edit_credential(site, "credential_source", json!({"executable": {"command": "/bin/token"}}))
            }),
            case("no audience", |site| edit_credential(site, "audience", Value::Null)),
            case("an http endpoint", |site| {
                edit_credential(site, "token_url", json!("http://sts.googleapis.com/v1/token"))
            }),
        ],
    );
}

/// Changes a key of the credential configuration; null removes it.
fn edit_credential(site: &Site, key: &str, value: Value) {
    let mut configuration = site.google.credential_configuration(&site.source());
    configuration[key] = value;
    if configuration[key].is_null() {
        configuration.as_object_mut().unwrap().remove(key);
    }
    site.write_credential_configuration(&configuration.to_string());
}

#[test]
fn subject_token() {
    let token = |site: &Site, claims: &Claims| site.rotate(&site.google.subject_token(claims));
    check(
        "subject_token",
        &[
            case("missing", |site| {
                site.cluster.nodes().iter().for_each(|n| fs::remove_file(n.tokens_dir().join("token")).unwrap())
            }),
            case("empty", |site| site.rotate("")),
            case("a directory", |site| {
                for node in site.cluster.nodes() {
                    fs::remove_file(node.tokens_dir().join("token")).unwrap();
                    fs::create_dir(node.tokens_dir().join("token")).unwrap();
                }
            }),
            case("ten megabytes", |site| site.rotate(&"x".repeat(10 << 20))),
            case("not a JWT", |site| site.rotate("no-token-at-all")),
            case("json, but the file is text", |site| {
                site.trust(&site.source().format(Format::Json("token".to_owned())))
            }),
            case("expired", move |site| token(site, &Claims::default().issued_in(-7200).expires_in(-3600))),
            case("for another audience", move |site| {
                token(site, &Claims::default().audience("https://kubernetes.default.svc"))
            }),
            case("of another issuer", move |site| {
                token(site, &Claims::default().issuer("https://oidc.example.org/id/1"))
            }),
            case("signed with another key", move |site| token(site, &Claims::default().key(jwt::Key::Forged))),
        ],
    );
}

#[test]
fn a_newline_after_the_subject_token_does_no_harm() {
    let site = Site::start();
    site.rotate(&format!("{}\n", site.google.subject_token(&Claims::default())));
    site.cluster.as_user("alice").command(["srun", "--gcp-wif", "bash", "-c", &site.list()]).run().ok();
    site.finish();
}

/// What both of Google's endpoints can do wrong.
fn faults_of(endpoint: Endpoint) -> Vec<Case> {
    let style = if endpoint == Endpoint::Sts { Body::OAuth } else { Body::Status };
    let fault = move |fault: Fault| move |site: &Site| site.google.inject(endpoint, fault.clone(), Times::Forever);
    let status = |code: u16| Fault::status_with(code, style);
    vec![
        case("400", fault(status(400))),
        case("401", fault(status(401))),
        case("403", fault(status(403))),
        case("404", fault(status(404))),
        case("429", fault(status(429))),
        case("500", fault(status(500))),
        case("503", fault(status(503))),
        case("502 with a page", fault(Fault::status_with(502, Body::Html))),
        case("500 with nothing", fault(Fault::status_with(500, Body::Empty))),
        case("a hang-up", fault(Fault::Hangup)),
        case("half a body", fault(Fault::Truncated)),
        case("a gigabyte", fault(Fault::Endless { chunked: false })),
        case("a gigabyte in chunks", fault(Fault::Endless { chunked: true })),
        case("a redirect", fault(Fault::Redirect("http://127.0.0.1:1/".to_owned()))),
        case("no HTTP", fault(Fault::Garbage)),
        case("a login page with status 200", fault(Fault::answer_as("text/html", "<html>Log in</html>"))),
        case("an empty object", fault(Fault::answer("{}"))),
        case("a delay beyond the budget", hangs(endpoint, Fault::Delay(Duration::from_secs(SHORT_BUDGET * 3)))),
        case("a byte a second", hangs(endpoint, Fault::Drip(Duration::from_secs(1)))),
    ]
}

/// A fault that keeps the client waiting, and a budget that is soon used up.
fn hangs(endpoint: Endpoint, fault: Fault) -> impl Fn(&Site) {
    move |site| {
        let (long, short) = (format!("\"timeout_seconds\":{BUDGET}"), format!("\"timeout_seconds\":{SHORT_BUDGET}"));
        edit_config(site, |text| text.replace(&long, &short));
        site.google.inject(endpoint, fault.clone(), Times::Forever);
    }
}

#[test]
fn token_exchange() {
    let mut cases = faults_of(Endpoint::Sts);
    cases.push(case("throttled", |site| site.google.inject(Endpoint::Sts, Fault::throttled(None), Times::Forever)));
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
    check("impersonation", &cases);
}

#[test]
fn a_fault_that_passes_is_not_noticed() {
    let site = Site::start();
    let faults = [
        Fault::status(503),
        Fault::status_with(500, Body::Html),
        Fault::status(429),
        Fault::throttled(Some("1")),
        Fault::Hangup,
        Fault::Truncated,
    ];
    for fault in faults {
        for endpoint in [Endpoint::Sts, Endpoint::Impersonation] {
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
    // A Google that shows this certificate, with the authority that the site trusts.
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

#[test]
fn runtime_directory() {
    let on_nodes = |line: &'static str| {
        move |site: &Site| {
            for node in site.cluster.nodes() {
                node.command(["sh", "-c", line]).run().ok();
            }
        }
    };
    for plugin in [Plugin::Optional, Plugin::Required] {
        let mut golden = Golden::new("files");
        for (case, sabotage) in [
            (
                "full",
                on_nodes(
                    "mkdir -p /run/gcp-wif; mount -t tmpfs -o size=16k,mode=711 tmpfs /run/gcp-wif; cat /dev/zero >/run/gcp-wif/fill 2>/dev/null; true",
                ),
            ),
            ("read-only", on_nodes("mkdir -p /run/gcp-wif; mount -t tmpfs -o ro,mode=711 tmpfs /run/gcp-wif")),
            ("a user's", on_nodes("mkdir -p /run/gcp-wif; chown 61001 /run/gcp-wif")),
            ("writable by all", on_nodes("mkdir -p /run/gcp-wif; chmod 1777 /run/gcp-wif")),
            ("a link", on_nodes("rm -rf /run/gcp-wif; mkdir /run/elsewhere; ln -s elsewhere /run/gcp-wif")),
            ("a file", on_nodes("rm -rf /run/gcp-wif; touch /run/gcp-wif")),
        ] {
            let site = Site::with(Settings::with(plugin));
            sabotage(&site);
            let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
            assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{case}: {}", run.stderr);
            golden.add(case, &only_line(case, &run.stderr), &site);
            site.configure(json!({"auto": true}));
            let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "echo", "ran"]).run();
            assert_eq!((run.status, run.stdout.as_str()), (0, "ran\n"), "{case} under auto: {}", run.stderr);
            only_line(case, &run.stderr);
            site.cluster.assert_healthy();
            site.cluster.assert_nowhere(&site.google.tokens());
        }
        golden.check();
    }
}

#[test]
fn rules() {
    let rules = |rules: Value| move |site: &Site| with_key(site, &format!("\"rules\": {rules}"));
    check(
        "rules",
        &[
            case("no rule matches", rules(json!([{"users": ["bob"]}]))),
            case("no account", rules(json!([{"accounts": ["vision"]}]))),
        ],
    );
    let site = Site::start();
    let mut golden = Golden::new("rules_service_account");
    for (case, keys) in [
        ("without rules", json!({})),
        ("with a rule", json!({"rules": [{"users": ["alice"], "service_account": SERVICE_ACCOUNT}]})),
    ] {
        site.configure(keys);
        let option = "--gcp-wif-service-account=admin@demo-project.iam.gserviceaccount.com";
        let run =
            site.cluster.as_user("alice").command(["srun", "-w", "n1", option, "echo", "ran"]).run().expect_status(1);
        assert_eq!(run.stdout, "");
        golden.add(case, &only_line(case, &run.stderr), &site);
    }
    golden.check();
    site.finish();
}

#[test]
fn a_batch_job_that_fails_says_so_in_its_output_and_ends_with_status_1() {
    for plugin in [Plugin::Optional, Plugin::Required] {
        let site = Site::with(Settings::with(plugin));
        site.google.inject(Endpoint::Sts, Fault::status_with(403, Body::OAuth), Times::Forever);
        let job = site.cluster.batch("alice", "#!/bin/bash\n#SBATCH --gcp-wif --requeue\necho ran\n", &[]);
        assert_eq!(site.cluster.wait_job(&job), JobState::Failed);
        let output = site.cluster.job_output(&job);
        assert!(output.starts_with("gcp-wif: token exchange: ") && output.lines().count() == 1, "{output}");
        assert_eq!(site.cluster.job_field(&job, "ExitCode").as_deref(), Some("1:0"));
        assert_eq!(site.cluster.job_field(&job, "Restarts").as_deref(), Some("0"));
        site.configure(json!({"auto": true}));
        let (state, output) = site.cluster.run_batch("alice", "#!/bin/bash\necho ran\n", &[]);
        assert_eq!(state, JobState::Completed);
        assert!(output.ends_with("the job runs without credentials\nran\n"), "{output}");
        site.finish();
    }
}

#[test]
fn a_line_comes_once_for_a_node_however_many_tasks() {
    let site = Site::start();
    site.rotate("");
    let run = site.cluster.as_user("alice").command(["srun", "-N2", "-n8", "--gcp-wif", "echo", "ran"]).run();
    assert_eq!(
        (run.status, run.stdout.as_str(), run.stderr.matches("gcp-wif: ").count()),
        (1, "", 2),
        "{}",
        run.stderr
    );
    site.finish();
}
