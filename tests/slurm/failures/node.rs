//! Faults on the node: configuration, subject token, rules, runtime directory.

use std::fs;

use serde_json::{Value, json};

use super::{case, check, edit_config, edit_credential, only_line, with_key};
use crate::cluster::{JobState, Plugin, Settings, plugin_path, set_mode, set_owner};
use crate::golden::Golden;
use crate::google::{Claims, Format, SERVICE_ACCOUNT, jwt};
use crate::site::{Site, credential_path};
use crate::skipped::skip;

#[test]
fn a_bug_in_every_hook_drains_no_node_and_passes_no_explicit_request() {
    let path = plugin_path().with_file_name("panics.so");
    if !path.exists() {
        return skip("there is no plugin with a bug in every hook: ci/test builds it");
    }
    for plugin in [Plugin::Optional, Plugin::Required] {
        let site = Site::with(Settings { path: Some(path.clone()), ..Settings::with(plugin) });
        let alice = site.cluster.as_user("alice");
        assert_eq!(alice.command(["srun", "-N2", "echo", "ran"]).run().ok().stdout, "ran\nran\n");
        let run = alice.command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
        assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
        assert!(run.stderr.contains("gcp-wif: "), "{}", run.stderr);
        let script = "#!/bin/bash\n#SBATCH --gcp-wif\necho ran\n";
        let job = site.cluster.batch("alice", script, &[]);
        assert_eq!(site.cluster.wait_job(&job), JobState::Failed);
        assert!(site.cluster.logs().contains("a bug in gcp-wif, please report it"));
        site.finish();
    }
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
            case("metadata without the agent", |site| with_key(site, r#""adc": "metadata""#)),
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

#[test]
fn arguments_of_the_plugin() {
    for plugin in [Plugin::Optional, Plugin::Required] {
        let mut golden = Golden::new("arguments");
        for (case, arguments) in [
            ("a misspelt argument", "confg=/x"),
            ("a relative path", "config=gcp-wif.json"),
            ("a further argument", "config=/etc/slurm/gcp-wif.json debug"),
        ] {
            let site = Site::with(Settings { arguments: arguments.to_owned(), ..Settings::with(plugin) });
            let alice = site.cluster.as_user("alice");
            let run = alice.command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
            assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{case}: {}", run.stderr);
            golden.add(case, &only_line(case, &run.stderr), &site);
            // In this case, nobody can know whether the site says auto.
            let run = alice.command(["srun", "-w", "n1", "echo", "ran"]).run().ok();
            assert_eq!(run.stdout, "ran\n", "{case}: {}", run.stderr);
            site.finish();
        }
        golden.check();
    }
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
