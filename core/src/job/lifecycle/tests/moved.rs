//! Changes of `runtime_dir` while jobs run: a job stays where its prolog put it.

use super::*;
use crate::plan::record::Generation;
use crate::world::fs;

/// Another job.
const NEW: JobId = JobId(8);

/// A machine whose configuration named `run` when job 7 started, and now names `moved`, which already exists.
fn moved() -> Machine {
    let machine = Machine::new("");
    machine.prolog(&wanted());
    machine.configure_in("moved", "");
    RuntimeDirectory::open(&machine.directory.join("moved")).unwrap();
    machine
}

fn start(machine: &Machine, job: JobId) {
    let host = FakeHost { options: wanted(), ..FakeHost::default() };
    machine.serve(|node| run_prolog(node, &host, &JobFacts { job, ..facts() }));
}

/// Returns the jobs in a runtime directory.
fn jobs(machine: &Machine, name: &str) -> Vec<JobId> {
    let runtime = RuntimeDirectory::existing(&machine.directory.join(name)).unwrap();
    runtime.map(|runtime| runtime.jobs()).unwrap_or_default()
}

/// Returns the directories to which the default one has links.
fn elsewhere(machine: &Machine) -> Vec<std::path::PathBuf> {
    fs::links(&machine.directory.join("default/elsewhere")).into_iter().map(|(_, target)| target).collect()
}

#[test]
fn a_job_stays_where_its_prolog_put_it() {
    let machine = moved();
    let (outcome, environment) = machine.step(&wanted(), &wanted());
    assert!(is_issued(&outcome), "{outcome:?}");
    let own = machine.directory.join("run/jobs/7").display().to_string();
    for name in ["GCP_WIF_ACCESS_TOKEN_FILE", "GOOGLE_APPLICATION_CREDENTIALS", "ENROOT_CONFIG_PATH"] {
        assert!(environment[name].starts_with(&own), "{name}={}", environment[name]);
    }
    // Its options are found there too.
    assert!(is_issued(&machine.step(&nothing(), &nothing()).0));
    assert_eq!((machine.google.exchanges.get(), jobs(&machine, "moved")), (1, Vec::new()));

    machine.wait(1800);
    assert_eq!(machine.refresh(&FakeHost::default(), &machine.due()), Ok(Refreshed::Done));
    assert_eq!(machine.file(ACCESS_TOKEN_FILE), Some(format!("{SITE}-2")));
    assert!(
        std::fs::read_to_string(machine.directory.join("run/jobs/7/enroot-0/.credentials"))
            .unwrap()
            .contains(&format!(" password {SITE}-2\n"))
    );

    let Outcome::Issued { directory, .. } = outcome else { unreachable!() };
    machine.serve(|node| node.step_exit(&FakeHost::default(), &directory));
    assert!(!machine.directory.join("run/jobs/7/enroot-0").exists());
}

#[test]
fn new_jobs_use_the_new_directory_and_each_epilog_finds_its_job() {
    let machine = moved();
    start(&machine, NEW);
    assert_eq!((jobs(&machine, "run"), jobs(&machine, "moved")), (vec![JOB], vec![NEW]));
    machine.epilog();
    assert_eq!((jobs(&machine, "run"), jobs(&machine, "moved")), (Vec::new(), vec![NEW]));
    // Even without a configuration.
    std::fs::remove_file(machine.directory.join("site.json")).unwrap();
    machine.serve(|node| node.epilog(&FakeHost::default(), NEW));
    assert_eq!(jobs(&machine, "moved"), []);
}

#[test]
fn a_requeued_job_moves_to_the_new_directory() {
    let machine = moved();
    machine.prolog(&wanted());
    assert_eq!((jobs(&machine, "run"), jobs(&machine, "moved")), (Vec::new(), vec![JOB]));
}

#[test]
fn leftovers_in_the_old_directory_are_swept() {
    let machine = moved();
    let runtime = machine.runtime();
    let locked = runtime.lock_existing(JOB, Duration::ZERO).unwrap().unwrap();
    let mut record = machine.record();
    record.started_by = Generation { boot: "an older one".to_owned(), ..record.started_by };
    save(&locked, &record).unwrap();
    drop(locked);
    start(&machine, NEW);
    assert_eq!((jobs(&machine, "run"), jobs(&machine, "moved")), (Vec::new(), vec![NEW]));
}

#[test]
fn the_link_to_a_removed_directory_is_removed() {
    let machine = moved();
    let at = |name: &str| machine.directory.join(name);
    start(&machine, NEW);
    assert_eq!(elsewhere(&machine), [at("run"), at("moved")]);
    std::fs::remove_dir_all(at("run")).unwrap();
    start(&machine, JobId(9));
    assert_eq!(elsewhere(&machine), [at("moved")]);
}
