//! A job's files, including the pull credentials of all steps, are rendered from its record.

use super::*;
use crate::job::refresh::heal;

/// A credential line of the user's.
const OWN: &str = "machine nvcr.io login a password b\n";
const SECOND: StepId = StepId(1);

/// Creates a user's enroot configuration and returns an environment that names it.
fn with_own_line(machine: &Machine) -> BTreeMap<String, String> {
    let directory = machine.directory.join("own");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join(".credentials"), OWN).unwrap();
    BTreeMap::from([("ENROOT_CONFIG_PATH".to_owned(), directory.display().to_string())])
}

/// A machine with a job of two steps, the first of which has a credential line of the user's.
fn running() -> Machine {
    let machine = Machine::new(r#", "registries": ["r.pkg.dev"]"#);
    machine.prolog(&wanted());
    for (environment, step) in [(with_own_line(&machine), STEP), (BTreeMap::new(), SECOND)] {
        assert!(is_issued(&machine.step_in(environment, step, &wanted(), &wanted()).0));
    }
    machine
}

fn pull_credentials(machine: &Machine, step: StepId) -> String {
    machine.file(&format!("enroot-{step}/.credentials")).unwrap_or_default()
}

/// Checks that all files of the job contain this token.
#[track_caller]
fn assert_has(machine: &Machine, token: &str) {
    let line = format!("machine r.pkg.dev login oauth2accesstoken password {token}\n");
    assert_eq!(machine.file(ACCESS_TOKEN_FILE).as_deref(), Some(token));
    assert_eq!(pull_credentials(machine, STEP), format!("{OWN}{line}"));
    assert_eq!(pull_credentials(machine, SECOND), line);
    assert!(machine.file("status").unwrap().starts_with("state=fresh\n"));
    assert!(machine.record().issued.iter().all(|issued| issued.is_published));
}

/// Publishes incomplete files again, as the agent does regularly.
fn heal_now(machine: &Machine) {
    let (runtime, record) = (machine.runtime(), machine.record());
    machine.serve(|node| heal(node, &FakeHost::default(), &runtime, &record)).unwrap();
}

/// Changes the record to the state that a killed process leaves.
fn rewrite(machine: &Machine, change: impl FnOnce(&mut JobRecord)) {
    let runtime = machine.runtime();
    let locked = runtime.lock_existing(JOB, Duration::ZERO).unwrap().unwrap();
    let mut record = machine.record();
    change(&mut record);
    save(&locked, &record).unwrap();
}

#[test]
fn a_refresh_renders_the_pull_credentials_of_all_steps() {
    let machine = running();
    assert_has(&machine, &format!("{SITE}-1"));
    for number in 2..4 {
        machine.wait(1800);
        machine.refresh(&FakeHost::default(), &machine.due()).unwrap();
        assert_has(&machine, &format!("{SITE}-{number}"));
    }
}

#[test]
fn a_later_steps_token_reaches_the_earlier_steps() {
    let machine = running();
    machine.wait(3400);
    let (outcome, environment) = machine.step_in(BTreeMap::new(), StepId(2), &wanted(), &wanted());
    assert!(is_issued(&outcome));
    assert_eq!(token(&environment), Some(&*format!("{SITE}-2")));
    assert_has(&machine, &format!("{SITE}-2"));
}

#[test]
fn a_recorded_token_that_is_not_published_is_published_later() {
    for by_step in [false, true] {
        let machine = running();
        let before = machine.record().issued.remove(0).token;
        machine.wait(1800);
        machine.refresh(&FakeHost::default(), &machine.due()).unwrap();
        // A kill after the record and before the files, simulated with the old token in the record.
        rewrite(&machine, |record| (record.issued[0].token, record.issued[0].is_published) = (before, false));
        if by_step {
            assert!(is_issued(&machine.step_in(BTreeMap::new(), StepId(2), &wanted(), &wanted()).0));
        } else {
            heal_now(&machine);
        }
        assert_has(&machine, &format!("{SITE}-1"));
    }
}

#[test]
fn a_file_that_the_user_has_changed_is_published_again() {
    for (name, content) in [(ACCESS_TOKEN_FILE, ""), (ACCESS_TOKEN_FILE, "x"), (CREDENTIALS_FILE, "{}")] {
        for by_step in [false, true] {
            let machine = running();
            let path = machine.directory.join("run/jobs/7").join(name);
            let before = std::fs::read(&path).unwrap();
            std::fs::write(&path, content).unwrap();
            if by_step {
                assert!(is_issued(&machine.step_in(with_own_line(&machine), STEP, &wanted(), &wanted()).0));
            } else {
                heal_now(&machine);
            }
            assert_eq!(std::fs::read(&path).unwrap(), before, "{name}");
            assert_has(&machine, &format!("{SITE}-1"));
        }
    }
}

#[test]
fn healing_does_not_wait_for_the_jobs_lock() {
    let machine = running();
    let runtime = machine.runtime();
    let path = machine.directory.join("run/jobs/7").join(ACCESS_TOKEN_FILE);
    std::fs::write(&path, "").unwrap();
    let theirs = runtime.lock_existing(JOB, Duration::ZERO).unwrap().unwrap();
    let begun = std::time::Instant::now();
    heal_now(&machine);
    assert!(begun.elapsed() < LOCK && std::fs::read(&path).unwrap().is_empty());
    drop(theirs);
    heal_now(&machine);
    assert_has(&machine, &format!("{SITE}-1"));
}

#[test]
fn each_step_has_the_token_of_its_identity() {
    let machine = Machine::new(&format!(r#", "registries": ["r.pkg.dev"], "rules": [{{"allow": ["{OTHER}"]}}]"#));
    machine.prolog(&wanted());
    let other = Options { wanted: true, ..named(OTHER) };
    for (options, step) in [(wanted(), STEP), (other, SECOND)] {
        assert!(is_issued(&machine.step_in(BTreeMap::new(), step, &options, &wanted()).0));
    }
    machine.wait(1800);
    let has = |step, token: &str| pull_credentials(&machine, step).ends_with(&format!(" password {token}\n"));
    machine.refresh(&FakeHost::default(), &machine.due_of(1)).unwrap();
    assert!(has(STEP, &format!("{SITE}-1")) && has(SECOND, &format!("{OTHER}-3")));
    machine.refresh(&FakeHost::default(), &machine.due()).unwrap();
    assert!(has(STEP, &format!("{SITE}-4")) && has(SECOND, &format!("{OTHER}-3")));
}

#[test]
fn a_step_that_has_ended_gets_no_further_token() {
    let machine = running();
    let directory = StepDirectory { runtime_dir: machine.directory.join("run"), job: JOB, step: STEP.to_string() };
    machine.serve(|node| node.step_exit(&FakeHost::default(), &directory));
    machine.wait(1800);
    machine.refresh(&FakeHost::default(), &machine.due()).unwrap();
    assert!(!machine.directory.join("run/jobs/7/enroot-0").exists());
    assert!(!machine.directory.join("run/records/7/step-0").exists());
    assert!(pull_credentials(&machine, SECOND).ends_with(&format!(" password {SITE}-2\n")));
}
