//! Tokens and failures that jobs of a user share on a node.

use super::*;
use crate::words::time::Moment;
use crate::world::fs::TryLock;

const SECOND: JobId = JobId(8);
const BOB: u32 = 61002;

/// Runs another job's prolog and first step, and returns its token.
fn begin(machine: &Machine, job: JobId, uid: u32) -> Option<String> {
    let host = FakeHost { options: wanted(), ..FakeHost::default() };
    let facts = JobFacts { job, uid, ..facts() };
    machine.serve(|node| run_prolog(node, &host, &facts));
    let outcome = machine.serve(|node| start_step(node, &host, &facts, STEP));
    assert!(is_issued(&outcome), "{outcome:?}");
    token(&host.environment.borrow()).map(str::to_owned)
}

fn exchanges(machine: &Machine) -> u32 {
    machine.google.exchanges.get()
}

#[test]
fn a_job_starts_with_half_of_a_tokens_life_with_the_agent_and_nine_tenths_without() {
    for (delivery, age, expected) in [("agent", 1800, 1), ("agent", 1801, 2), ("direct", 360, 1), ("direct", 361, 2)] {
        let machine = Machine::new(&format!(r#", "delivery": "{delivery}""#));
        machine.prolog(&wanted());
        machine.wait(age);
        assert_eq!(begin(&machine, SECOND, 61001), Some(format!("{SITE}-{expected}")), "{delivery} {age}");
        assert_eq!(exchanges(&machine), expected);
    }
}

#[test]
fn an_exchange_leaves_only_the_kept_token() {
    let machine = Machine::new("");
    for fails in [true, false] {
        machine.google.fails.set(fails);
        machine.prolog(&wanted());
        let place = machine.directory.join("run/tokens").join(&machine.runtime().kept()[0]);
        let names: Vec<_> = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["token"]);
        machine.wait(10);
    }
}

#[test]
fn different_users_and_grants_share_nothing() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    assert_eq!(begin(&machine, SECOND, 61001), Some(format!("{SITE}-1")));
    assert_eq!(begin(&machine, JobId(9), BOB), Some(format!("{SITE}-2")));
    for (number, (settings, identity)) in [
        (r#", "scopes": ["https://www.googleapis.com/auth/devstorage.read_only"]"#.to_owned(), SITE),
        (format!(r#", "rules": [{{"service_account": "{OTHER}"}}]"#), OTHER),
    ]
    .into_iter()
    .enumerate()
    {
        machine.configure(&settings);
        let job = JobId(10 + u32::try_from(number).unwrap());
        assert_eq!(begin(&machine, job, 61001), Some(format!("{identity}-{}", 3 + number)), "{settings}");
    }
    // Another provider, another lifetime, another subject token.
    machine.configure("");
    let text = std::fs::read_to_string(machine.directory.join("credential.json")).unwrap();
    let lifetime = r#""service_account_impersonation": {"token_lifetime_seconds": 1800}, "type""#;
    for (number, (old, new)) in
        [("providers/q", "providers/r"), (r#""/t""#, r#""/u""#), (r#""type""#, lifetime)].into_iter().enumerate()
    {
        std::fs::write(machine.directory.join("credential.json"), text.replacen(old, new, 1)).unwrap();
        let number = u32::try_from(number).unwrap();
        assert_eq!(begin(&machine, JobId(20 + number), 61001), Some(format!("{SITE}-{}", 5 + number)), "{new}");
    }
}

#[test]
fn a_refresh_takes_the_token_of_a_newer_job() {
    let machine = Machine::new(r#", "delivery": "agent""#);
    machine.prolog(&wanted());
    let due = machine.due();
    machine.wait(1900);
    assert_eq!(begin(&machine, SECOND, 61001), Some(format!("{SITE}-2")));
    let host = FakeHost::default();
    assert_eq!(machine.refresh(&host, &due), Ok(Refreshed::Done));
    assert_eq!(machine.file(ACCESS_TOKEN_FILE), Some(format!("{SITE}-2")));
    assert!(host.log.borrow()[0].contains(" source=kept outcome=issued "), "{:?}", host.log.borrow());
    // The job's own token is not accepted.
    assert_eq!(machine.refresh(&host, &machine.due()), Ok(Refreshed::Done));
    assert_eq!((machine.file(ACCESS_TOKEN_FILE), exchanges(&machine)), (Some(format!("{SITE}-3")), 3));
}

#[test]
fn a_failure_holds_for_ten_seconds_and_for_one_user() {
    let machine = Machine::new("");
    machine.google.fails.set(true);
    machine.prolog(&wanted());
    machine.google.fails.set(false);
    let fails = |job| {
        let host = FakeHost { options: wanted(), ..FakeHost::default() };
        machine.serve(|node| start_step(node, &host, &JobFacts { job, ..facts() }, STEP)).ends_tasks()
    };
    assert!(fails(SECOND) && exchanges(&machine) == 1);
    assert_eq!(begin(&machine, JobId(9), BOB), Some(format!("{SITE}-2")));
    machine.wait(9);
    assert!(fails(JobId(10)) && exchanges(&machine) == 2);
    machine.wait(1);
    assert!(!fails(JobId(11)) && exchanges(&machine) == 3);
    assert!(!fails(SECOND) && exchanges(&machine) == 3);
}

#[test]
fn a_failure_on_the_node_does_not_hold() {
    let machine = Machine::new("");
    machine.google.fails.set(true);
    machine.google.blame.set(Blame::Site);
    machine.prolog(&wanted());
    machine.google.fails.set(false);
    assert_eq!(begin(&machine, SECOND, 61001), Some(format!("{SITE}-2")));
}

#[test]
fn a_token_from_before_the_clock_was_set_is_not_used() {
    for (unix, since_boot) in [(-60, 0), (60, 0), (0, -1_000_000)] {
        // A prolog sweeps the token, and a step of a job without a prolog does not use it.
        for has_prolog in [true, false] {
            let machine = Machine::new("");
            machine.prolog(&wanted());
            let Moment { unix: now, since_boot: up } = machine.google.moment();
            machine.google.set_clock(Moment { unix: now + unix, since_boot: up + since_boot });
            if !has_prolog {
                let host = FakeHost { options: wanted(), ..FakeHost::default() };
                let facts = JobFacts { job: JobId(9), ..facts() };
                assert!(is_issued(&machine.serve(|node| start_step(node, &host, &facts, STEP))));
                let token = token(&host.environment.borrow()).map(str::to_owned);
                assert_eq!(token, Some(format!("{SITE}-2")), "{unix} {since_boot}");
            }
            assert_eq!(begin(&machine, SECOND, 61001), Some(format!("{SITE}-2")), "{unix} {since_boot}");
        }
    }
}

#[test]
fn a_process_past_its_deadline_blocks_no_job() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    machine.wait(1000);
    let runtime = machine.runtime();
    let name = runtime.kept().remove(0);
    let TryLock::Locked(late) = runtime.kept_place(&name).unwrap().try_lock().unwrap() else { panic!() };
    late.say_until(machine.google.moment().since_boot - 1).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(begin(&machine, SECOND, 61001), Some(format!("{SITE}-2")));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(late.write("{}").is_err());
    assert_eq!(begin(&machine, JobId(9), 61001), Some(format!("{SITE}-2")));
}

#[test]
fn expired_tokens_are_swept_unless_they_are_locked() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    begin(&machine, SECOND, BOB);
    let runtime = machine.runtime();
    let sweep = || {
        crate::job::obtain::sweep(&machine.google, &runtime);
        runtime.kept().len()
    };
    machine.wait(3599);
    assert_eq!(sweep(), 2);
    machine.wait(1);
    let in_use = runtime.kept_place(&runtime.kept()[0]).unwrap().try_lock().unwrap();
    assert_eq!(sweep(), 1);
    drop(in_use);
    assert_eq!(sweep(), 0);
}

#[test]
fn each_job_exchanges_if_its_token_cannot_be_kept() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    machine.wait(1000);
    let runtime = machine.runtime();
    // A directory in the place of the file prevents the write.
    let place = machine.directory.join("run/tokens").join(&runtime.kept()[0]);
    std::fs::remove_file(place.join("token")).unwrap();
    std::fs::create_dir_all(place.join("token/in-the-way")).unwrap();
    for (job, number) in [(SECOND, 2), (JobId(9), 3)] {
        assert_eq!(begin(&machine, job, 61001), Some(format!("{SITE}-{number}")));
    }
    std::fs::remove_dir_all(place.join("token")).unwrap();
    for job in [10, 11] {
        assert_eq!(begin(&machine, JobId(job), 61001), Some(format!("{SITE}-4")));
    }
}

#[test]
fn a_token_in_another_users_place_is_not_used() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    let alices = machine.runtime().kept().remove(0);
    begin(&machine, SECOND, BOB);
    let tokens = machine.directory.join("run/tokens");
    let bobs = machine.runtime().kept().into_iter().find(|name| *name != alices).unwrap();
    std::fs::copy(tokens.join(&alices).join("token"), tokens.join(&bobs).join("token")).unwrap();
    assert_eq!(begin(&machine, JobId(9), BOB), Some(format!("{SITE}-3")));
    assert_eq!(begin(&machine, JobId(10), 61001), Some(format!("{SITE}-1")));
}

#[test]
fn only_one_of_a_users_jobs_waits_for_an_absent_subject_token() {
    let machine = Machine::new("");
    machine.google.fails.set(true);
    machine.google.blame.set(Blame::Site);
    let patience = |then: &dyn Fn()| {
        then();
        machine.google.patience.get()
    };
    let prolog = || machine.prolog(&wanted());
    let step = || drop(machine.step(&wanted(), &wanted()));
    assert_eq!(patience(&prolog), Duration::from_secs(3));
    // After waiting for the prolog's worker, the step looks once more, because the token may exist by now.
    assert_eq!((patience(&step), exchanges(&machine)), (Duration::ZERO, 2));
    machine.wait(9);
    assert_eq!(patience(&prolog), Duration::ZERO);
    machine.wait(10);
    assert_eq!(patience(&prolog), Duration::from_secs(3));
    machine.google.fails.set(false);
    assert_eq!(begin(&machine, SECOND, 61001), Some(format!("{SITE}-5")));
}
