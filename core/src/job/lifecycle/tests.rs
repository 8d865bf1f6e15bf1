//! Whole jobs, hook by hook, with a real runtime directory, a fake Slurm and a fake Google.

mod auto;
mod fakes;
mod idle;
mod kept;
mod moved;
mod over;
mod pulls;
mod refresh;
mod requested;
mod share;
mod steps;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::job::node::Outcome;
use crate::job::refresh::Refreshed;
use crate::plan::environment::{ACCESS_TOKEN_FILE, CREDENTIALS_FILE};
use crate::plan::report::{Blame, Stage};
use crate::testing::{FakeProcesses, SITE, facts};
use crate::words::names::StepId;
use crate::world::clock::Clock;
use fakes::{FakeGoogle, FakeHost, Machine, run_prolog, start_step};

const JOB: JobId = JobId(7);
const STEP: StepId = StepId(0);
const OTHER: &str = "other@p.iam.gserviceaccount.com";

fn nothing() -> Options {
    Options::default()
}

fn wanted() -> Options {
    Options { wanted: true, ..Options::default() }
}

fn refused() -> Options {
    Options { refused: true, ..Options::default() }
}

fn named(email: &str) -> Options {
    Options { service_account: Some(email.to_owned()), ..Options::default() }
}

fn is_issued(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Issued { warnings, .. } if warnings.is_empty())
}

/// Returns the message for the user, if there is one.
fn line(outcome: &Outcome) -> Option<String> {
    let mut lines = outcome.lines();
    assert!(lines.len() < 2, "{lines:?}");
    lines.pop()
}

fn token(environment: &BTreeMap<String, String>) -> Option<&str> {
    environment.get("GOOGLE_OAUTH_ACCESS_TOKEN").map(String::as_str)
}

#[test]
fn the_prolog_exchanges_once_and_all_steps_use_its_token() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    assert_eq!(machine.file("access_token").as_deref(), Some("site@p.iam.gserviceaccount.com-1"));
    for _ in 0..5 {
        let (outcome, environment) = machine.step(&wanted(), &wanted());
        assert!(is_issued(&outcome));
        assert_eq!(token(&environment), Some("site@p.iam.gserviceaccount.com-1"));
    }
    assert_eq!(machine.google.exchanges.get(), 1);
    machine.epilog();
    assert_eq!(std::fs::read_dir(machine.directory.join("run/jobs")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(machine.directory.join("run/records")).unwrap().count(), 0);
}

#[test]
fn a_job_without_a_request_causes_no_exchange_and_sees_nothing() {
    let machine = Machine::new("");
    machine.prolog(&nothing());
    assert_eq!(machine.step(&nothing(), &nothing()), (Outcome::None, BTreeMap::new()));
    assert_eq!((machine.google.exchanges.get(), machine.file("access_token")), (0, None));
}

#[test]
fn a_step_option_alone_is_served_at_the_steps_start() {
    let machine = Machine::new("");
    machine.prolog(&nothing());
    assert!(is_issued(&machine.step(&wanted(), &nothing()).0));
    assert_eq!(machine.step(&nothing(), &nothing()), (Outcome::None, BTreeMap::new()));
}

#[test]
fn a_token_about_to_expire_is_replaced_at_a_steps_start() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    machine.google.now.set(machine.google.now.get() + 3400);
    let (_, environment) = machine.step(&wanted(), &wanted());
    assert_eq!(token(&environment), Some("site@p.iam.gserviceaccount.com-2"));
    assert_eq!(machine.file("access_token").as_deref(), Some("site@p.iam.gserviceaccount.com-2"));
}

#[test]
fn a_further_identity_has_its_own_directory() {
    let machine = Machine::new(&format!(r#", "rules": [{{"service_account": "{SITE}", "allow": ["{OTHER}"]}}]"#));
    machine.prolog(&wanted());
    let (_, environment) = machine.step(&Options { wanted: true, ..named(OTHER) }, &wanted());
    assert_eq!(environment["GCP_WIF_SERVICE_ACCOUNT"], OTHER);
    assert!(environment["GCP_WIF_ACCESS_TOKEN_FILE"].ends_with("/jobs/7/other@p.iam.gserviceaccount.com/access_token"));
    assert_eq!(machine.file(&format!("{OTHER}/access_token")), Some(format!("{OTHER}-2")));
    assert_eq!(machine.file("access_token"), Some(format!("{SITE}-1")), "the job's own identity was disturbed");
    assert_eq!(machine.step(&wanted(), &wanted()).1["GCP_WIF_SERVICE_ACCOUNT"], SITE);
    machine.epilog();
    assert_eq!(std::fs::read_dir(machine.directory.join("run/jobs")).unwrap().count(), 0);
}

#[test]
fn a_denial_by_the_rules_causes_no_exchange() {
    let machine = Machine::new(r#", "rules": [{"accounts": ["speech"]}]"#);
    machine.prolog(&wanted());
    let (outcome, _) = machine.step(&wanted(), &wanted());
    assert_eq!(
        line(&outcome).as_deref(),
        Some(
            "gcp-wif: rules: no rule gives user alice (61001) (account vision, partition none) a service account; \
             ask the site's administrators for one"
        )
    );
    assert!(outcome.ends_tasks());
    assert_eq!(machine.google.exchanges.get(), 0);
}

#[test]
fn account_and_partition_are_not_taken_from_a_steps_environment() {
    let machine = Machine::new(r#", "rules": [{"accounts": ["vision"]}]"#);
    // No prolog ran, so there is no trusted source for the account.
    let (outcome, _) = machine.step(&wanted(), &nothing());
    assert!(matches!(outcome, Outcome::Failed { failure: Failure { stage: Stage::Rules, .. }, .. }), "{outcome:?}");
    machine.prolog(&nothing());
    assert!(is_issued(&machine.step(&wanted(), &nothing()).0));
}

#[test]
fn a_fresh_failure_holds_and_an_old_one_does_not() {
    let machine = Machine::new("");
    machine.google.fails.set(true);
    machine.prolog(&wanted());
    let (outcome, environment) = machine.step(&wanted(), &wanted());
    assert_eq!(line(&outcome).as_deref(), Some("gcp-wif: token exchange: no answer"));
    assert!(outcome.ends_tasks() && environment.is_empty());
    assert_eq!(machine.google.exchanges.get(), 1, "Google was asked again for what it just refused");
    machine.google.fails.set(false);
    machine.google.now.set(machine.google.now.get() + 60);
    assert!(is_issued(&machine.step(&wanted(), &wanted()).0));
}

#[test]
fn a_failure_under_auto_leaves_the_job_running_with_one_message() {
    let machine = Machine::new(r#", "auto": true"#);
    machine.google.fails.set(true);
    machine.prolog(&nothing());
    let (outcome, environment) = machine.step(&nothing(), &nothing());
    assert_eq!(line(&outcome).as_deref(), Some("gcp-wif: token exchange: no answer; the job runs without credentials"));
    assert!(!outcome.ends_tasks() && environment.is_empty());
}

#[test]
fn a_requeued_job_starts_a_new_run() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    let run = machine.record().run;
    machine.epilog();
    machine.prolog(&wanted());
    assert!(machine.record().run != run && is_issued(&machine.step(&wanted(), &wanted()).0));
    // The same holds if the epilog did not run.
    machine.prolog(&nothing());
    assert_eq!(machine.file("access_token"), None);
}

#[test]
fn a_record_of_another_users_job_with_the_same_id_is_not_used() {
    let machine = Machine::new(r#", "rules": [{"accounts": ["vision"]}]"#);
    machine.prolog(&wanted());
    let host = FakeHost { options: wanted(), ..FakeHost::default() };
    let bob = JobFacts { uid: 61002, placement: None, ..facts() };
    let outcome = machine.serve(|node| start_step(node, &host, &bob, STEP));
    assert!(outcome.ends_tasks() && host.environment.borrow().is_empty());
}

#[test]
fn the_extern_step_gets_nothing() {
    let machine = Machine::new(r#", "auto": true"#);
    let host = FakeHost::default();
    assert_eq!(machine.serve(|node| start_step(node, &host, &facts(), StepId::EXTERN)), Outcome::None);
    assert_eq!(machine.google.exchanges.get(), 0);
}

#[test]
fn hooks_recover_from_a_kill_at_any_point() {
    type Stop = fn(&std::path::Path);
    let stops: [(&str, Stop); 6] = [
        ("before the files", |run| std::fs::remove_dir_all(run.join("jobs/7")).unwrap()),
        ("between the files", |run| std::fs::remove_file(run.join("jobs/7/credentials.json")).unwrap()),
        ("within a file", |run| std::fs::write(run.join("jobs/7/.access_token.new"), "ya").unwrap()),
        ("before the record", |run| std::fs::remove_file(run.join("records/7/record")).unwrap()),
        ("within the record", |run| std::fs::write(run.join("records/7/.record.new"), "{").unwrap()),
        ("on a full disk", |run| std::fs::write(run.join("records/7/record"), "").unwrap()),
    ];
    for (name, stop) in stops {
        let machine = Machine::new("");
        machine.prolog(&wanted());
        stop(&machine.directory.join("run"));
        // A step with an intact record trusts the files, so a refresh must restore them completely.
        machine.google.now.set(machine.google.now.get() + 3400);
        let (outcome, environment) = machine.step(&wanted(), &wanted());
        assert!(is_issued(&outcome), "{name}");
        assert_eq!(machine.file("access_token").as_deref(), token(&environment), "{name}");
        assert!(machine.file("credentials.json").is_some(), "{name}");
        machine.epilog();
        for left in ["jobs", "records"] {
            assert_eq!(
                std::fs::read_dir(machine.directory.join("run").join(left)).unwrap().count(),
                0,
                "{name}: {left}"
            );
        }
    }
}

#[test]
fn a_job_of_five_days_always_has_a_valid_token_and_the_same_port() {
    let machine = Machine::new(r#", "delivery": "agent""#);
    machine.prolog(&wanted());
    let (_, environment) = machine.step(&wanted(), &wanted());
    let (begun, handle) = (machine.google.now.get(), machine.file("handle"));
    let host = FakeHost::default();
    let path = environment["ENROOT_CONFIG_PATH"].clone() + "/.credentials";
    for minute in 0..5 * 24 * 60 {
        machine.google.now.set(begun + minute * 60);
        // Google does not respond for twenty minutes every six hours.
        machine.google.fails.set(minute % 360 < 20 && minute > 0);
        let issued = machine.record().issued.remove(0);
        assert!(issued.token.expires_at - machine.google.now.get() >= 360, "minute {minute}");
        if issued.token.due(machine.google.moment(), 0.5) <= machine.google.now.get() {
            let renewed = machine.refresh(&host, &machine.due());
            assert_eq!(renewed.is_err(), machine.google.fails.get(), "minute {minute}");
        }
        let token = machine.record().issued.remove(0).token.secret().expose().to_owned();
        assert_eq!(machine.file("access_token").as_deref(), Some(token.as_str()));
        assert!(std::fs::read_to_string(&path).unwrap().contains(&token), "the pull credentials are stale");
    }
    assert!(machine.google.exchanges.get() > 5 * 24 * 2, "{} exchanges", machine.google.exchanges.get());
    assert_eq!(machine.file("handle"), handle);
    assert!(machine.file("status").unwrap().starts_with("state=fresh"));
    let due = machine.due();
    machine.epilog();
    assert_eq!(machine.refresh(&host, &due), Ok(Refreshed::NotDue));
    assert_eq!(
        std::fs::read_dir(machine.directory.join("run/records")).unwrap().count(),
        0,
        "a refresh revived the job"
    );
}

#[test]
fn jobs_that_start_together_have_different_ports() {
    let machine = Machine::new(r#", "delivery": "agent""#);
    let config_path = &machine.directory.join("site.json");
    std::thread::scope(|scope| {
        for number in 1..=20 {
            scope.spawn(move || {
                let host = FakeHost { options: wanted(), ..FakeHost::default() };
                let (google, processes) = (FakeGoogle::default(), FakeProcesses::default());
                let default_dir = Path::new("/nonexistent");
                let node = Node { config_path, default_dir, exchanger: &google, clock: &google, processes: &processes };
                run_prolog(&node, &host, &JobFacts { job: JobId(number), ..facts() });
            });
        }
    });
    let runtime = RuntimeDirectory::open(&machine.directory.join("run")).unwrap();
    let record = |job| JobRecord::parse(&runtime.peek_record(job).unwrap()).unwrap();
    let mut ports: Vec<u16> = runtime.jobs().into_iter().map(|job| record(job).ports().next().unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, (20_001..=20_020).collect::<Vec<_>>());
}

#[test]
fn a_step_gives_up_a_port_that_another_program_took() {
    let machine = Machine::new(r#", "delivery": "agent""#);
    machine.prolog(&wanted());
    let (host, config_path) =
        (FakeHost { options: wanted(), ..FakeHost::default() }, machine.directory.join("site.json"));
    let step = |foreign: std::ops::RangeInclusive<u16>| {
        let processes = FakeProcesses { foreign: foreign.collect(), ..FakeProcesses::default() };
        let node = Node {
            config_path: &config_path,
            default_dir: &machine.directory.join("default"),
            exchanger: &machine.google,
            clock: &machine.google,
            processes: &processes,
        };
        start_step(&node, &host, &facts(), STEP)
    };
    assert!(is_issued(&step(20_001..=20_003)));
    assert_eq!(host.environment.borrow()["GCE_METADATA_HOST"], "127.0.0.1:20004");
    assert_eq!(machine.record().ports().collect::<Vec<_>>(), [20_004]);
    assert!(machine.file("credentials.json").unwrap().contains("127.0.0.1:20004/"));
    // The number of attempts is limited.
    let failed = step(20_001..=30_000);
    assert!(failed.ends_tasks() && line(&failed).unwrap().contains("gcp-wif: agent: other programs"), "{failed:?}");
}

#[test]
fn the_files_belong_to_the_jobs_user() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    for name in [ACCESS_TOKEN_FILE, CREDENTIALS_FILE] {
        let metadata = std::fs::metadata(machine.directory.join("run/jobs/7").join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (61001, 0o400), "{name}");
    }
}

#[test]
fn each_issuance_is_one_log_line() {
    let machine = Machine::new("");
    let host = FakeHost { options: wanted(), ..FakeHost::default() };
    machine.serve(|node| run_prolog(node, &host, &facts()));
    machine.serve(|node| run_prolog(node, &host, &facts()));
    machine.end_locks();
    machine.google.fails.set(true);
    machine.serve(|node| run_prolog(node, &host, &facts()));
    // The step reports the failure to the user and does not log it again.
    assert!(machine.serve(|node| start_step(node, &host, &facts(), STEP)).ends_tasks());
    // Another job gets the failure that still holds.
    machine.serve(|node| run_prolog(node, &host, &JobFacts { job: JobId(8), ..facts() }));
    assert_eq!(
        *host.log.borrow(),
        [
            "gcp-wif: issuance job=7 uid=61001 identity=site@p.iam.gserviceaccount.com source=google outcome=issued \
             duration=0.000s expiry=1970-01-12T14:46:40Z",
            "gcp-wif: issuance job=7 uid=61001 identity=site@p.iam.gserviceaccount.com source=kept outcome=issued \
             duration=0.000s expiry=1970-01-12T14:46:40Z",
            "gcp-wif: issuance job=7 uid=61001 identity=site@p.iam.gserviceaccount.com source=google outcome=failed \
             duration=0.000s expiry=none stage=token_exchange error=\"no answer\"",
            "gcp-wif: issuance job=8 uid=61001 identity=site@p.iam.gserviceaccount.com source=kept outcome=failed \
             duration=0.000s expiry=none stage=token_exchange error=\"no answer\"",
        ]
    );
}

#[test]
fn a_broken_configuration_is_reported_to_the_jobs_that_it_affects() {
    for (text, told) in [
        (r#"{"auto": true, "x": 1}"#, true),
        (r#"{"auto": false, "x": 1}"#, false),
        (r#"{"rules": [{}, {"auto": true}], "x": 1}"#, true),
        ("{", true),
    ] {
        let machine = Machine::new("");
        std::fs::write(machine.directory.join("site.json"), text).unwrap();
        machine.prolog(&nothing());
        let (outcome, _) = machine.step(&nothing(), &nothing());
        assert_eq!(line(&outcome).is_some(), told, "{text}");
        assert!(!outcome.ends_tasks(), "{text}");
        assert!(machine.step(&wanted(), &nothing()).0.ends_tasks(), "{text}");
    }
    let machine = Machine::new("");
    std::fs::remove_file(machine.directory.join("site.json")).unwrap();
    assert_eq!(machine.step(&nothing(), &nothing()).0, Outcome::None);
    assert!(machine.step(&wanted(), &nothing()).0.ends_tasks());
}
