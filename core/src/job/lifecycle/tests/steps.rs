//! Steps without the job's environment, whose request comes from the record.

use super::*;

/// The options that hooks see, and which steps get credentials.
struct Case {
    name: &'static str,
    /// The options that the prolog sees.
    prolog: Options,
    /// The options that the first step sees: all, and the inherited ones.
    first: (Options, Options),
    is_first_served: bool,
    /// Whether a later step without the job's environment gets credentials.
    are_later_served: bool,
}

fn both() -> Options {
    Options { wanted: true, refused: true, ..Options::default() }
}

#[test]
fn the_first_steps_options_are_removed_from_those_that_the_prolog_saw() {
    // With `PrologFlags=Alloc`, the prolog sees the job's options; without it, also those of the first step.
    for case in [
        Case {
            name: "the job asks, the first step does not: Alloc",
            prolog: wanted(),
            first: (nothing(), nothing()),
            is_first_served: true,
            are_later_served: true,
        },
        Case {
            name: "the job asks, the first step refuses: Alloc",
            prolog: wanted(),
            first: (both(), wanted()),
            is_first_served: false,
            are_later_served: true,
        },
        Case {
            name: "the job asks, the first step refuses: no Alloc",
            prolog: both(),
            first: (both(), wanted()),
            is_first_served: false,
            are_later_served: true,
        },
        Case {
            name: "the first step asks: Alloc",
            prolog: nothing(),
            first: (wanted(), nothing()),
            is_first_served: true,
            are_later_served: false,
        },
        Case {
            name: "the first step asks: no Alloc",
            prolog: wanted(),
            first: (wanted(), nothing()),
            is_first_served: true,
            are_later_served: false,
        },
        Case {
            name: "both ask: no Alloc",
            prolog: wanted(),
            first: (wanted(), wanted()),
            is_first_served: true,
            are_later_served: true,
        },
        Case {
            name: "the job refuses, the first step asks: no Alloc",
            prolog: both(),
            first: (both(), refused()),
            is_first_served: true,
            are_later_served: false,
        },
    ] {
        let machine = Machine::new("");
        machine.prolog(&case.prolog);
        let is_served = |options: &Options, inherited: &Options| is_issued(&machine.step(options, inherited).0);
        let (all, inherited) = &case.first;
        assert_eq!(is_served(all, inherited), case.is_first_served, "{}", case.name);
        let later = || assert_eq!(is_served(&nothing(), &nothing()), case.are_later_served, "{}", case.name);
        later();
        assert_eq!(machine.step(&refused(), &nothing()), (Outcome::None, BTreeMap::new()), "{}", case.name);
        later();
        // The step's own option overrides them.
        assert!(is_served(&wanted(), &nothing()), "{}", case.name);
        if case.prolog == *all {
            // The first step has removed its options, so no later step is mistaken for it.
            later();
        }
    }
}

#[test]
fn of_steps_that_start_together_the_one_that_the_prolog_saw_removes_its_options() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    assert_eq!(machine.step(&refused(), &nothing()).0, Outcome::None);
    assert!(is_issued(&machine.step(&wanted(), &nothing()).0));
    assert_eq!(machine.step(&nothing(), &nothing()).0, Outcome::None);
}

#[test]
fn a_step_without_the_jobs_environment_has_the_jobs_service_account() {
    let rules = format!(r#", "rules": [{{"service_account": "{SITE}", "allow": ["{OTHER}"]}}]"#);
    let both = Options { wanted: true, ..named(OTHER) };
    // The first step of the second job has `--gcp-wif`, which keeps the job's service account.
    for (prolog, first) in
        [(named(OTHER), nothing()), (named(OTHER), both.clone()), (both.clone(), both), (named(OTHER), named(OTHER))]
    {
        let machine = Machine::new(&rules);
        machine.prolog(&prolog);
        let inherited = if first == nothing() { nothing() } else { named(OTHER) };
        for (all, inherited) in [(first, inherited), (nothing(), nothing())] {
            assert_eq!(machine.step(&all, &inherited).1["GCP_WIF_SERVICE_ACCOUNT"], OTHER, "{prolog:?} {all:?}");
        }
        assert_eq!(machine.google.exchanges.get(), 1);
    }
}

#[test]
fn a_failure_of_the_jobs_request_fails_a_step_without_the_jobs_environment() {
    let machine = Machine::new(r#", "auto": true"#);
    machine.google.fails.set(true);
    machine.prolog(&wanted());
    assert!(machine.step(&nothing(), &nothing()).0.ends_tasks());
    machine.prolog(&nothing());
    assert!(!machine.step(&nothing(), &nothing()).0.ends_tasks());
}

#[test]
fn another_users_record_does_not_affect_a_steps_options() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    let host = FakeHost::default();
    let bob = JobFacts { uid: 61002, placement: None, ..facts() };
    assert_eq!(machine.serve(|node| start_step(node, &host, &bob, STEP)), Outcome::None);
}
