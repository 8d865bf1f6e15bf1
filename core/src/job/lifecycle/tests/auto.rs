//! Jobs without a request, for which the site and its rules decide.

use super::*;

#[test]
fn auto_serves_all_steps_that_do_not_refuse() {
    let machine = Machine::new(r#", "auto": true"#);
    machine.prolog(&nothing());
    assert!(is_issued(&machine.step(&nothing(), &nothing()).0));
    assert_eq!(machine.step(&refused(), &nothing()), (Outcome::None, BTreeMap::new()));
    assert_eq!(machine.google.exchanges.get(), 1);
}

#[test]
fn a_rules_auto_overrides_the_sites() {
    let vision = |auto| format!(r#"{{"accounts": ["vision"], "auto": {auto}}}"#);
    for (site, rules, has) in [
        (false, format!("[{}]", vision(true)), true),
        (true, format!("[{}]", vision(false)), false),
        (true, r#"[{"accounts": ["vision"]}]"#.to_owned(), true),
        (false, format!(r#"[{}, {{"accounts": ["speech"], "auto": true}}]"#, vision(false)), false),
    ] {
        let machine = Machine::new(&format!(r#", "auto": {site}, "rules": {rules}"#));
        machine.prolog(&nothing());
        assert_eq!(machine.google.exchanges.get() == 1, has, "{rules}");
        let (outcome, _) = machine.step(&nothing(), &nothing());
        assert_eq!((is_issued(&outcome), line(&outcome)), (has, None), "{rules}");
        assert!(is_issued(&machine.step(&wanted(), &nothing()).0), "{rules}");
        // A step's option does not affect other steps.
        assert_eq!(is_issued(&machine.step(&nothing(), &nothing()).0), has, "{rules}");
    }
}

#[test]
fn without_a_matching_rule_only_an_explicit_request_fails() {
    for auto in [r#"{"accounts": ["speech"], "auto": true}"#, r#"{"accounts": ["speech"]}"#] {
        let machine = Machine::new(&format!(r#", "auto": true, "rules": [{auto}]"#));
        let host = FakeHost::default();
        machine.serve(|node| run_prolog(node, &host, &facts()));
        assert!(host.log.borrow().is_empty());
        assert_eq!(machine.step(&nothing(), &nothing()), (Outcome::None, BTreeMap::new()));
        assert!(machine.step(&wanted(), &nothing()).0.ends_tasks());
    }
}
