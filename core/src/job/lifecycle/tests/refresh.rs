//! Refreshes: what they repeat, what they do not change, and what they report.

use super::*;
use crate::job::refresh::Due;
use crate::world::fs::TryLock;

/// The age up to which a token of an hour is fresh enough for a step.
const FRESH: i64 = 3300;

fn rule(account: &str, allow: &[&str]) -> String {
    format!(r#", "rules": [{{"service_account": "{account}", "allow": {allow:?}}}]"#)
}

/// A machine with a job that has its first token.
fn running(settings: &str, options: &Options) -> Machine {
    let machine = Machine::new(settings);
    machine.prolog(options);
    assert!(is_issued(&machine.step(options, options).0));
    machine
}

fn access_token(machine: &Machine) -> String {
    machine.file(ACCESS_TOKEN_FILE).unwrap_or_default()
}

fn status(machine: &Machine) -> String {
    machine.file("status").unwrap_or_default()
}

/// Returns all jobs with leftovers.
fn left(machine: &Machine) -> Vec<JobId> {
    machine.runtime().jobs()
}

#[test]
fn a_refresh_repeats_the_grant_after_the_configuration_has_changed() {
    let (none, scope) = (String::new(), r#", "scopes": ["https://www.googleapis.com/auth/devstorage.read_only"]"#);
    let named = named(SITE);
    for (before, options, after, default) in [
        (&none, wanted(), &none, OTHER),
        (&rule(OTHER, &[SITE]), named, &rule(OTHER, &[SITE]), SITE),
        (&none, wanted(), &rule(OTHER, &[SITE]), SITE),
        (&none, wanted(), &r#", "rules": [{}]"#.to_owned(), OTHER),
        (&rule(SITE, &[]), wanted(), &rule(SITE, &[]), OTHER),
        (&none, wanted(), &scope.to_owned(), SITE),
    ] {
        let case = format!("{before} -> {after}, {default}");
        let machine = running(before, &options);
        machine.configure(after);
        machine.trust(default);
        machine.wait(1800);
        assert_eq!(machine.refresh(&FakeHost::default(), &machine.due()), Ok(Refreshed::Done), "{case}");
        assert_eq!(access_token(&machine), format!("{SITE}-2"), "{case}");
        assert!(status(&machine).starts_with(&format!("state=fresh\nidentity={SITE}\n")), "{case}");
        let grants = machine.google.grants.borrow();
        assert_eq!(grants[0], grants[1], "{case}");
        drop(grants);
        // A later step of the job repeats it too.
        assert_eq!(machine.step(&options, &options).1["GCP_WIF_SERVICE_ACCOUNT"], SITE, "{case}");
    }
}

#[test]
fn a_refresh_that_the_rules_deny_is_reported_and_changes_no_identity() {
    for (before, after, failure) in [
        (String::new(), rule(OTHER, &[]), "user alice (61001) may not use site@p.iam.gserviceaccount.com (rule 1)"),
        (r#", "rules": [{}]"#.to_owned(), rule(OTHER, &[]), "user alice (61001) may not use site@p"),
        (rule(SITE, &[]), r#", "rules": [{"users": ["bob"]}]"#.to_owned(), "no rule gives user alice (61001)"),
        (String::new(), r#", "rules": []"#.to_owned(), "no rule gives user alice (61001)"),
    ] {
        let machine = running(&before, &wanted());
        let host = FakeHost::default();
        machine.configure(&after);
        let refused = machine.refresh(&host, &machine.due()).unwrap_err();
        assert_eq!((refused.stage, machine.google.exchanges.get()), (Stage::Rules, 1), "{after}");
        assert!(refused.cause.starts_with(failure), "{refused}");
        let told = status(&machine);
        assert!(told.starts_with(&format!("state=failing\nidentity={SITE}\nexpiry=")), "{told}");
        assert!(told.ends_with(&format!("\nfailure={refused}\n")), "{told}");
        let end = format!(" expiry=none stage=rules error={:?}", refused.text());
        assert!(host.log.borrow()[0].ends_with(&end), "{:?}", host.log.borrow());
        assert_eq!(access_token(&machine), format!("{SITE}-1"));
        assert_eq!(machine.step(&wanted(), &wanted()).0, Outcome::Failed { failure: refused, explicit: true });

        machine.configure(&before);
        assert_eq!(machine.refresh(&host, &machine.due()), Ok(Refreshed::Done));
        assert!(status(&machine).starts_with("state=fresh\n") && access_token(&machine) == format!("{SITE}-2"));
    }
}

#[test]
fn a_refresh_of_an_earlier_run_does_not_affect_the_later_one() {
    let machine = running("", &wanted());
    let (host, old) = (FakeHost::default(), machine.due());
    machine.epilog();
    machine.prolog(&wanted());
    let new = (machine.due(), access_token(&machine), status(&machine));
    // Both started in the same second, so only the run ID distinguishes them.
    assert_eq!(Due { run: new.0.run, ..old.clone() }, new.0);
    assert_eq!(machine.refresh(&host, &old), Ok(Refreshed::NotDue));
    assert_eq!((machine.google.exchanges.get(), host.log.borrow().len()), (1, 0));
    assert_eq!((machine.due(), access_token(&machine), status(&machine)), new);
}

#[test]
fn a_refresh_during_which_the_job_is_requeued_does_not_affect_the_later_run() {
    for fails in [false, true] {
        let machine = running("", &wanted());
        machine.wait(1800);
        let host = FakeHost::default();
        let mut new = None;
        let refreshed = machine.refresh_while(&host, &machine.due(), || {
            machine.end_locks();
            machine.epilog();
            machine.prolog(&wanted());
            new = Some((machine.due(), access_token(&machine), status(&machine)));
            machine.google.fails.set(fails);
        });
        assert!(refreshed.is_err());
        assert_eq!(Some((machine.due(), access_token(&machine), status(&machine))), new);
    }
}

#[test]
fn a_refresh_during_which_the_job_ends_leaves_nothing() {
    for fails in [false, true] {
        let machine = running(r#", "delivery": "agent""#, &wanted());
        let host = FakeHost::default();
        let refreshed = machine.refresh_while(&host, &machine.due(), || {
            machine.epilog();
            machine.google.fails.set(fails);
        });
        assert!(refreshed.is_err());
        assert_eq!(left(&machine), []);
        assert!(host.log.borrow()[0].contains(" outcome=failed "), "{:?}", host.log.borrow());
    }
}

#[test]
fn a_step_does_not_wait_for_the_exchange_of_a_refresh() {
    let machine = running("", &wanted());
    machine.wait(1800);
    let refreshed = machine.refresh_while(&FakeHost::default(), &machine.due(), || {
        let begun = std::time::Instant::now();
        let (outcome, environment) = machine.step(&wanted(), &wanted());
        assert!(is_issued(&outcome), "{outcome:?}");
        assert_eq!(token(&environment), Some(&*format!("{SITE}-1")));
        // Waiting for the lock would take seconds.
        assert!(begun.elapsed() < LEAST, "{:?}", begun.elapsed());
    });
    assert_eq!((refreshed, access_token(&machine)), (Ok(Refreshed::Done), format!("{SITE}-2")));
}

#[test]
fn a_refresh_is_busy_while_another_process_exchanges_for_the_same_key() {
    let machine = running("", &wanted());
    let (host, due, runtime) = (FakeHost::default(), machine.due(), machine.runtime());
    let [name] = &runtime.kept()[..] else { panic!("{:?}", runtime.kept()) };
    let theirs = runtime.kept_place(name).unwrap().try_lock().unwrap();
    assert!(matches!(theirs, TryLock::Locked(_)));
    machine.wait(1800);
    assert_eq!(machine.refresh(&host, &due), Ok(Refreshed::Busy));
    assert_eq!((machine.google.exchanges.get(), host.log.borrow().len()), (1, 0));
    drop(theirs);
    assert_eq!(machine.refresh(&host, &due), Ok(Refreshed::Done));
}

#[test]
fn a_refresh_of_a_replaced_token_or_unknown_identity_is_not_due() {
    let machine = running("", &wanted());
    let (host, old) = (FakeHost::default(), machine.due());
    machine.wait(FRESH + 1);
    assert!(is_issued(&machine.step(&wanted(), &wanted()).0));
    assert_eq!(machine.refresh(&host, &old), Ok(Refreshed::NotDue));
    let other = serde_json::from_str(&format!(r#"{{"service_account":"{OTHER}"}}"#)).unwrap();
    assert_eq!(machine.refresh(&host, &Due { identity: other, ..machine.due() }), Ok(Refreshed::NotDue));
    assert_eq!(machine.google.exchanges.get(), 2);
}

#[test]
fn a_failed_refresh_does_not_hide_a_token_that_a_step_has_obtained_meanwhile() {
    let machine = running("", &wanted());
    machine.wait(FRESH + 1);
    let refreshed = machine.refresh_while(&FakeHost::default(), &machine.due(), || {
        machine.end_locks();
        assert!(is_issued(&machine.step(&wanted(), &wanted()).0));
        machine.google.fails.set(true);
    });
    assert_eq!(refreshed.unwrap_err().stage, Stage::TokenExchange);
    assert!(status(&machine).starts_with("state=fresh\n"), "{}", status(&machine));
    assert_eq!(access_token(&machine), format!("{SITE}-2"));
    assert!(is_issued(&machine.step(&wanted(), &wanted()).0));
}

#[test]
fn a_failed_refresh_leaves_the_valid_token() {
    for (is_google, failure) in [(true, "gcp-wif: token exchange: no answer"), (false, "gcp-wif: configuration: ")] {
        let machine = running("", &wanted());
        machine.wait(1800);
        if is_google {
            machine.google.fails.set(true);
        } else {
            std::fs::write(machine.directory.join("site.json"), "{").unwrap();
        }
        assert!(machine.refresh(&FakeHost::default(), &machine.due()).is_err());
        assert_eq!(access_token(&machine), format!("{SITE}-1"));
        let told = status(&machine);
        assert!(told.starts_with("state=failing\n") && told.contains(&format!("\nfailure={failure}")), "{told}");
        machine.configure("");
        assert!(is_issued(&machine.step(&wanted(), &wanted()).0), "a valid token was not given to a step");
    }
}

#[test]
fn a_failure_after_the_exchange_is_logged_as_failure() {
    let machine = running("", &wanted());
    let host = FakeHost::default();
    let directory = machine.directory.join("run/jobs/7");
    let give = |uid| std::os::unix::fs::chown(&directory, Some(uid), None).unwrap();
    let refreshed = machine.refresh_while(&host, &machine.due(), || give(61001));
    assert_eq!(refreshed.unwrap_err().stage, Stage::Files);
    let log = host.log.borrow().join("\n");
    assert!(log.contains(" outcome=failed ") && log.contains("owned by uid 61001") && !log.contains("issued"), "{log}");
    assert_eq!(access_token(&machine), format!("{SITE}-1"));
    // The token from the exchange is not lost.
    give(0);
    assert!(is_issued(&machine.step(&wanted(), &wanted()).0));
    assert_eq!((access_token(&machine), machine.google.exchanges.get()), (format!("{SITE}-2"), 2));
    assert!(status(&machine).starts_with("state=fresh\n"), "{}", status(&machine));
}
