//! What `gcp-wif status` shows of a node's jobs, to root and to their users.

use serde_json::{Value, json};

use crate::cluster::{Run, command_path, set_mode, wait_until};
use crate::command::LIMIT;
use crate::google::{SERVICE_ACCOUNT, SUBJECT, Source};
use crate::site::{Site, TOKEN_FILE};

fn status(site: &Site, user: &str, options: &[&str]) -> Run {
    let words = [command_path(), "status"].into_iter().chain(options.iter().copied());
    site.cluster.node(1).as_user(user).command(words).run().ok()
}

fn configure(site: &Site, keys: Value) {
    let mut config = json!({"delivery": "agent", "command": command_path(), "project": "demo-project"});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    site.configure(config);
    for node in site.cluster.nodes() {
        set_mode(node.tokens_dir().join("token"), 0o600);
    }
}

/// The lines of jobs: job, user, identity and state.
fn jobs(run: &Run) -> Vec<[String; 4]> {
    let lines = run.stdout.lines().skip_while(|line| !line.starts_with("JOB ")).skip(1);
    let word = |line: &str, number: usize| line.split_whitespace().nth(number).unwrap().to_owned();
    lines.map(|line| [word(line, 0), word(line, 1), word(line, 2), word(line, 5)]).collect()
}

#[test]
fn root_sees_all_jobs_of_all_runtime_directories_and_a_user_sees_those_of_the_user() {
    let site = Site::start();
    configure(&site, json!({}));
    let none = status(&site, "root", &[]);
    assert_eq!(none.stdout, "/run/gcp-wif: no agent runs\nno job on this node has credentials\n");
    let (first, one) = site.running_job();
    // New jobs go to another directory, and with another kind of identity.
    configure(&site, json!({"runtime_dir": "/run/other"}));
    site.trust(&Source::file(TOKEN_FILE).direct());
    let (second, two) = site.running_job();
    let row = |job: &str, identity: &str| [job, "alice", identity, "fresh"].map(str::to_owned);
    let (old, new) = (row(&one, SERVICE_ACCOUNT), row(&two, SUBJECT));

    let run = status(&site, "root", &[]);
    let mut told = jobs(&run);
    told.sort();
    assert_eq!(told, [old.clone(), new.clone()], "{}", run.stdout);
    for directory in ["/run/gcp-wif", "/run/other"] {
        let line = format!("{directory}: the agent runs since 2");
        assert!(run.stdout.contains(&line), "{}", run.stdout);
    }
    assert!(run.stdout.contains(concat!(", gcp-wif ", env!("CARGO_PKG_VERSION"), ", process ")), "{}", run.stdout);
    let own = status(&site, "alice", &[]);
    let mut told = jobs(&own);
    told.sort();
    assert_eq!(told, [old, new], "{}", own.stdout);
    assert!(!own.stdout.contains("agent"), "{}", own.stdout);
    let bobs = status(&site, "bob", &[]);
    assert!(
        bobs.stdout.starts_with("none of your jobs with credentials has a process on this node"),
        "{}",
        bobs.stdout
    );

    let object = status(&site, "root", &["--json"]);
    let parsed: Value = serde_json::from_str(&object.stdout).unwrap();
    assert_eq!(parsed["agents"].as_array().unwrap().len(), 2);
    let row = parsed["jobs"].as_array().unwrap().iter().find(|row| row["job"] == one.parse::<u64>().unwrap()).unwrap();
    assert_eq!(
        (&row["identity"], &row["state"], &row["failure"]),
        (&json!(SERVICE_ACCOUNT), &json!("fresh"), &json!(null))
    );
    assert!(row["expires"].as_str() > row["refreshed"].as_str(), "{row}");
    for token in site.google.tokens() {
        for run in [&run, &own, &object] {
            assert!(!run.stdout.contains(&token) && !run.stdout.contains("gcpwif_"), "a token is printed");
        }
    }
    site.cancel(first);
    drop(second);
    wait_until(LIMIT, || status(&site, "root", &[]).stdout.ends_with("no job on this node has credentials\n"));
    site.finish();
}

#[test]
fn a_refresh_that_fails_is_in_its_jobs_line() {
    let site = Site::start();
    site.google.configure(|options| options.access_token_life = Some(10));
    configure(&site, json!({"rules": [{"users": ["alice"], "service_account": SERVICE_ACCOUNT}]}));
    let (job, id) = site.running_job();
    configure(&site, json!({"rules": [{"users": ["bob"]}]}));
    for user in ["root", "alice"] {
        let failing = || {
            let run = status(&site, user, &[]);
            let line = run.stdout.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap().to_owned();
            ["failing", "expired"]
                .iter()
                .any(|state| line.contains(&format!("  {state}: rules: no rule gives user alice")))
        };
        wait_until(LIMIT, failing);
    }
    site.cancel(job);
    site.finish();
}
