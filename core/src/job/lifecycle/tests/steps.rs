//! Steps that come without the job's environment: the job's request is in the record.

use super::*;

/// What a step is told of options, and what its job was granted by then.
struct Case {
    name: &'static str,
    /// What the prolog sees.
    prolog: Options,
    /// What the first step sees: all options, and those inherited.
    first: (Options, Options),
    is_first_served: bool,
    /// Whether a step from outside, and one with an empty environment, has credentials then.
    are_later_served: bool,
}

fn both() -> Options {
    Options { wanted: true, refused: true, ..Options::default() }
}

#[test]
fn the_first_steps_own_options_are_taken_out_of_what_the_prolog_saw() {
    // With `PrologFlags=Alloc` the prolog sees the job's options; without, those of the first step as well.
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
        // Its own option counts for more.
        assert!(is_served(&wanted(), &nothing()), "{}", case.name);
        if case.prolog == *all {
            // The first step has said what is its own; no other one is taken for it.
            later();
        }
    }
}

#[test]
fn of_steps_that_start_together_the_one_that_the_prolog_saw_takes_its_options_out() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    assert_eq!(machine.step(&refused(), &nothing()).0, Outcome::None);
    assert!(is_issued(&machine.step(&wanted(), &nothing()).0));
    assert_eq!(machine.step(&nothing(), &nothing()).0, Outcome::None);
}

#[test]
fn a_step_from_outside_has_the_service_account_that_its_job_asked_for() {
    let rules = format!(r#", "rules": [{{"service_account": "{SITE}", "allow": ["{OTHER}"]}}]"#);
    let both = Options { wanted: true, ..named(OTHER) };
    // The first step of the second job says `--gcp-wif`, which leaves the job's service account in force.
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
fn what_a_job_asked_for_fails_explicitly_for_a_step_from_outside() {
    let machine = Machine::new(r#", "auto": true"#);
    machine.google.fails.set(true);
    machine.prolog(&wanted());
    assert!(machine.step(&nothing(), &nothing()).0.ends_tasks());
    machine.prolog(&nothing());
    assert!(!machine.step(&nothing(), &nothing()).0.ends_tasks());
}

#[test]
fn another_users_record_says_nothing_about_a_steps_options() {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    let host = FakeHost::default();
    let bob = JobFacts { uid: 61002, placement: None, ..facts() };
    assert_eq!(machine.serve(|node| start_step(node, &host, &bob, STEP)), Outcome::None);
}
