//! Injects a fault at each call that changes a file, in each hook of a job. Then runs the hooks again as Slurm would
//! run them, and checks that the state of the node is the same as without the fault.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::state::{State, difference, fingerprint};
use crate::watch::{Call, Fault, Plan};
use crate::world::{ALICES_JOB, BOBS_JOB, BOBS_NEXT_JOB, HookResult, World};

/// A hook, and the snapshots of the node before and after it.
struct Stage {
    hook: &'static str,
    before: &'static str,
    after: &'static str,
    /// The kinds of its processes.
    roles: &'static [&'static str],
}

/// The hooks of a job's life. The agent's hook refreshes a token.
const LIFE: [Stage; 5] = [
    Stage { hook: "prolog", before: "nothing", after: "prolog", roles: &["prolog", "worker"] },
    Stage { hook: "step", before: "prolog", after: "step", roles: &["step"] },
    Stage { hook: "agent", before: "step", after: "agent", roles: &["agent"] },
    Stage { hook: "exit", before: "prolog", after: "exit", roles: &["exit"] },
    Stage { hook: "epilog", before: "agent", after: "epilog", roles: &["epilog"] },
];

/// The temporary file of the metrics. The next token that is counted replaces it.
const METRICS: &str = "run/.metrics.prom.new";

/// The faults, by their names in the table.
pub const FAULTS: [(&str, Fault); 3] =
    [("kill", Fault::Kill), ("ENOSPC", Fault::Fail(Errno::ENOSPC)), ("EIO", Fault::Fail(Errno::EIO))];

/// Injects a fault at the calls of one kind of process, at every `every`-th call from `first` on. Returns the number of
/// calls, and the number of injected faults.
///
/// # Errors
/// The problems that were found after the faults, one line each.
pub fn sweep(delivery: &str, role: &str, fault: Fault, first: usize, every: usize) -> Result<(usize, usize), String> {
    let mut life = Life::new(delivery);
    let stage = LIFE.iter().find(|stage| stage.roles.contains(&role)).unwrap();
    let calls = life.calls(stage, role);
    let (mut problems, mut tried) = (Vec::new(), 0);
    for number in (first..=calls.len()).step_by(every) {
        let plan = Plan { role: role.to_owned(), number, fault };
        life.world.restore(stage.before);
        let result = life.world.run(stage.hook, ALICES_JOB, Some(plan));
        let Some(hit) = result.hit.clone() else { return Err(format!("{role} has no call {number}")) };
        let found = life.check(stage, role, fault, &result, number);
        let place = format!("{role}, call {number}, {} of {}", hit.name, hit.path.display());
        problems.extend(found.into_iter().map(|problem| format!("{place}: {problem}")));
        tried += 1;
    }
    if problems.is_empty() { Ok((calls.len(), tried)) } else { Err(problems.join("\n")) }
}

/// Makes all counted calls of a hook fail, and checks that no file has changed. A changed file shows a call that is not
/// counted.
pub fn check_count(delivery: &str, hook: &str) {
    let mut life = Life::new(delivery);
    let stage = LIFE.iter().find(|stage| stage.hook == hook).unwrap();
    life.world.restore(stage.before);
    let before = fingerprint(&life.world.paths.node());
    let plan = Plan { role: String::new(), number: 0, fault: Fault::Fail(Errno::EIO) };
    let result = life.world.run_without_agent(hook, ALICES_JOB, plan);
    let changed = difference(&before, &fingerprint(&life.world.paths.node()));
    assert!(result.hit.is_some() && changed.is_empty(), "{hook}: {changed:#?}");
}

/// The life of a job without a fault.
struct Life {
    world: World,
    states: BTreeMap<&'static str, State>,
    calls: Vec<(&'static str, Vec<Call>)>,
}

impl Life {
    fn new(delivery: &str) -> Self {
        let world = World::new(delivery);
        for hook in ["prolog", "step"] {
            assert!(world.run(hook, BOBS_JOB, None).status.success());
        }
        world.save("nothing");
        let (mut states, mut calls) = (BTreeMap::from([("nothing", world.state())]), Vec::new());
        for Stage { hook, before, after, .. } in &LIFE {
            world.restore(before);
            let result = world.run(hook, ALICES_JOB, None);
            assert!(result.status.success(), "{hook}: {result:#?}");
            if *hook == "step" {
                let record = world.record(ALICES_JOB).unwrap();
                std::fs::write(world.paths.due(), record.issued[0].token.secret().expose()).unwrap();
            }
            world.save(after);
            states.insert(*after, world.state());
            calls.push((*hook, result.calls));
        }
        // The step of a job whose prolog has recorded nothing.
        world.restore("nothing");
        assert!(world.run("step", ALICES_JOB, None).status.success());
        states.insert("step alone", world.state());
        Self { world, states, calls }
    }

    /// Returns the calls of a kind of process.
    fn calls(&self, stage: &Stage, role: &str) -> Vec<Call> {
        let (_, calls) = self.calls.iter().find(|(hook, _)| *hook == stage.hook).unwrap();
        calls.iter().filter(|call| call.role == role).cloned().collect()
    }

    /// Runs the hooks that can follow a fault, and returns the problems.
    fn check(&mut self, stage: &Stage, role: &str, fault: Fault, result: &HookResult, number: usize) -> Vec<String> {
        let mut problems = match fault {
            Fault::Kill => Vec::new(),
            Fault::Fail(error) => self.check_report(result, error),
        };
        self.world.save("crash");
        let is_recorded = self.world.record(ALICES_JOB).is_some();
        let mut add = |when: &str, found: Vec<String>| {
            problems.extend(found.into_iter().map(|problem| format!("{when}: {problem}")));
        };
        add("the hook runs again", self.check_next(stage.hook, stage.after, |path| path == Path::new(METRICS)));
        if stage.hook != "prolog" {
            add("the job is requeued", self.check_next("prolog", "prolog", is_shared));
        }
        match stage.hook {
            // Account and partition are missing, because only the prolog knows them.
            "prolog" if !is_recorded => {
                add("a step starts without a record", self.check_next("step", "step alone", is_shared));
            }
            "prolog" => add("its step starts", self.check_next("step", "step", is_shared)),
            "step" | "agent" => {
                // The status file reports the failed refresh. The record's temporary file, which only root can read,
                // stays until the record is written again.
                let may_differ = |path: &Path| {
                    let left = if fault == Fault::Kill { ".record.new" } else { "status" };
                    is_shared(path) || path.ends_with(left)
                };
                add("its next step starts", self.check_next("exit", "exit", may_differ));
            }
            _ => {}
        }
        // Slurm does not run an epilog twice. An epilog that was killed at its first call has removed nothing.
        if role != "epilog" {
            add("its epilog runs", self.check_end_after(&["epilog"]));
        } else if (number, fault) != (1, Fault::Kill) {
            add("another job starts", self.check_end_after(&[]));
        }
        self.world.restore("crash");
        let result = self.world.run_after_restart("prolog", BOBS_NEXT_JOB);
        add("slurmd restarts", self.check_no_tokens(&result));
        let result = self.world.run("epilog", ALICES_JOB, None);
        add("its epilog runs after the restart", self.check_end(&result));
        problems
    }

    /// Checks the exit status, the log and the outcome of a hook whose call has failed.
    fn check_report(&self, result: &HookResult, error: Errno) -> Vec<String> {
        let mut problems = Vec::new();
        if !result.status.success() {
            problems.push(format!("the hook exited with {}", result.status));
        }
        let reason = if error == Errno::ENOSPC { "no space left on device" } else { "Input/output error" };
        let of_files = |line: &&String| line.starts_with("gcp-wif: files: ") && line.contains(reason);
        let is_audit = |line: &&String| ["gcp-wif: issuance ", "gcp-wif: refresh "].iter().any(|w| line.starts_with(w));
        let reported: Vec<&String> = result.log.iter().filter(|line| !is_audit(line)).collect();
        if reported.len() > 1 || !reported.iter().all(of_files) {
            problems.push(format!("unexpected lines in the log: {reported:?}"));
        }
        if let Some(outcome) = &result.outcome {
            let lines: Vec<String> = serde_json::from_value(outcome["lines"].clone()).unwrap();
            let is_issued = outcome["is_issued"] == true;
            if lines.len() > 1 || !lines.iter().all(|line| of_files(&line)) || (!is_issued && lines.is_empty()) {
                problems.push(format!("unexpected lines for the user: {lines:?}"));
            }
            if is_issued {
                problems.extend(self.check_token(result));
            }
        }
        problems
    }

    /// Checks that a step has a token of its own user, and that the job's file has the same token.
    fn check_token(&self, result: &HookResult) -> Option<String> {
        let outcome = result.outcome.as_ref()?;
        let token = outcome["token"].as_str().unwrap_or_default();
        let account = self.world.google.state.token(token).map(|token| token.identity.name().to_owned());
        if account.as_deref() != Some(crate::google::SERVICE_ACCOUNT) {
            return Some(format!("the step has a token of {account:?}"));
        }
        let file = std::fs::read_to_string(outcome["file"].as_str().unwrap_or_default());
        (file.ok().as_deref() != Some(token)).then(|| "the token in the file is not the token of the step".to_owned())
    }

    /// Restores the state after the fault, runs a hook, and compares the result with a run without a fault. Ignores
    /// files for which `may_differ` is true.
    fn check_next(&self, hook: &'static str, after: &'static str, may_differ: impl Fn(&Path) -> bool) -> Vec<String> {
        self.world.restore("crash");
        let result = self.world.run(hook, ALICES_JOB, None);
        let compared = |mut state: State| {
            state.retain(|path, _| !may_differ(path));
            state
        };
        let mut problems = difference(&compared(self.states[after].clone()), &compared(self.world.state()));
        problems.extend(reported_problem(&result));
        if matches!(hook, "step" | "exit") {
            problems.extend(self.check_token(&result));
        }
        problems
    }

    /// Restores the state after the fault, runs these hooks and the prolog of another job, and returns what is left of
    /// the job.
    fn check_end_after(&self, hooks: &[&str]) -> Vec<String> {
        self.world.restore("crash");
        let mut problems: Vec<String> =
            hooks.iter().filter_map(|hook| reported_problem(&self.world.run(hook, ALICES_JOB, None))).collect();
        problems.extend(self.check_end(&self.world.run("prolog", BOBS_NEXT_JOB, None)));
        problems
    }

    /// Returns what is left of the job.
    fn check_end(&self, result: &HookResult) -> Vec<String> {
        let job = ALICES_JOB.id.to_string();
        let is_left = |path: &&PathBuf| {
            let is_jobs = path.components().any(|part| part.as_os_str() == &*job);
            is_jobs || (path.extension().is_some_and(|extension| extension == "new") && !path.starts_with("run/tokens"))
        };
        let state = self.world.state();
        let left = state.keys().filter(is_left).map(|path| format!("{} is left", path.display()));
        left.chain(reported_problem(result)).collect()
    }

    /// Checks that the job has no files and no tokens. The record may keep the facts that only the prolog knows.
    fn check_no_tokens(&self, result: &HookResult) -> Vec<String> {
        let mut problems: Vec<String> = reported_problem(result).into_iter().collect();
        if self.world.paths.runtime().join(format!("jobs/{}", ALICES_JOB.id)).exists() {
            problems.push("the job has files".to_owned());
        }
        if self.world.record(ALICES_JOB).is_some_and(|record| !record.issued.is_empty()) {
            problems.push("the job has tokens".to_owned());
        }
        problems
    }
}

/// Returns whether a file is shared by several jobs: kept tokens, links to runtime directories, and metrics. The next
/// process that writes such a file repairs it.
fn is_shared(path: &Path) -> bool {
    path.starts_with("run/tokens") || path.starts_with("default") || path == Path::new(METRICS)
}

/// Returns a problem that a hook without a fault has reported, if any.
fn reported_problem(result: &HookResult) -> Option<String> {
    let failed = |line: &&String| !line.contains("outcome=issued");
    let lines = result.outcome.as_ref().map(|outcome| outcome["lines"].to_string()).filter(|lines| lines != "[]");
    let problem = lines.or_else(|| result.log.iter().find(failed).cloned());
    problem.or_else(|| (!result.status.success()).then(|| result.status.to_string()))
}
