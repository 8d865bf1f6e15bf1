//! Each call that changes something, in each hook of a job's life: there the process is killed, or the call fails. Then
//! the hooks run again as Slurm would run them, and everything has to be as if nothing had happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::state::{State, difference, fingerprint};
use crate::trace::{Call, Fault, Plan};
use crate::world::{ALICES, BOBS, BOBS_NEXT, Done, World};

/// A hook, and the pictures of the node before and after it.
struct Stage {
    hook: &'static str,
    before: &'static str,
    after: &'static str,
    /// The kinds of processes that it consists of.
    roles: &'static [&'static str],
}

/// A job's life. The agent's part is a new token that is published, in the core's own words.
const LIFE: [Stage; 5] = [
    Stage { hook: "prolog", before: "nothing", after: "prolog", roles: &["prolog", "worker"] },
    Stage { hook: "step", before: "prolog", after: "step", roles: &["step"] },
    Stage { hook: "agent", before: "step", after: "agent", roles: &["agent"] },
    Stage { hook: "exit", before: "prolog", after: "exit", roles: &["exit"] },
    Stage { hook: "epilog", before: "agent", after: "epilog", roles: &["epilog"] },
];

/// What the metrics were to be replaced by. Whoever counts the next token replaces it.
const METRICS: &str = "run/.metrics.prom.new";

/// What happens at a call, by the names of the table.
pub const FAULTS: [(&str, Fault); 3] =
    [("stopped", Fault::Stop), ("ENOSPC", Fault::Fails(Errno::ENOSPC)), ("EIO", Fault::Fails(Errno::EIO))];

/// Lets something happen at the calls of one kind of process, at each `every`-th of them from `first` on. Returns how
/// many there are, and at how many it has happened.
///
/// # Errors
/// What is wrong afterwards, a line for each.
pub fn sweep(delivery: &str, role: &str, fault: Fault, first: usize, every: usize) -> Result<(usize, usize), String> {
    let mut life = Life::new(delivery);
    let stage = LIFE.iter().find(|stage| stage.roles.contains(&role)).unwrap();
    let calls = life.calls(stage, role);
    let (mut wrong, mut tried) = (Vec::new(), 0);
    for number in (first..=calls.len()).step_by(every) {
        let plan = Plan { role: role.to_owned(), number, fault };
        life.world.set_back(stage.before);
        let done = life.world.run(stage.hook, ALICES, Some(plan));
        let Some(hit) = done.hit.clone() else { return Err(format!("{role} has no call {number}")) };
        let problems = life.look_at(stage, role, fault, &done, number);
        let place = format!("{role}, call {number}, {} of {}", hit.name, hit.path.display());
        wrong.extend(problems.into_iter().map(|problem| format!("{place}: {problem}")));
        tried += 1;
    }
    if wrong.is_empty() { Ok((calls.len(), tried)) } else { Err(wrong.join("\n")) }
}

/// Lets each call of a hook fail that is counted: then nothing may change, or one was not counted.
pub fn count(delivery: &str, hook: &str) {
    let mut life = Life::new(delivery);
    let stage = LIFE.iter().find(|stage| stage.hook == hook).unwrap();
    life.world.set_back(stage.before);
    let before = fingerprint(&life.world.paths.node());
    let plan = Plan { role: String::new(), number: 0, fault: Fault::Fails(Errno::EIO) };
    let done = life.world.run_alone(hook, ALICES, plan);
    let changed = difference(&before, &fingerprint(&life.world.paths.node()));
    assert!(done.hit.is_some() && changed.is_empty(), "{hook}: {changed:#?}");
}

/// The undisturbed life of a job.
struct Life {
    world: World,
    states: BTreeMap<&'static str, State>,
    calls: Vec<(&'static str, Vec<Call>)>,
}

impl Life {
    fn new(delivery: &str) -> Self {
        let world = World::new(delivery);
        for hook in ["prolog", "step"] {
            assert!(world.run(hook, BOBS, None).status.success());
        }
        world.keep("nothing");
        let (mut states, mut calls) = (BTreeMap::from([("nothing", world.state())]), Vec::new());
        for Stage { hook, before, after, .. } in &LIFE {
            world.set_back(before);
            let done = world.run(hook, ALICES, None);
            assert!(done.status.success(), "{hook}: {done:#?}");
            if *hook == "step" {
                let record = world.record(ALICES).unwrap();
                std::fs::write(world.paths.due(), record.issued[0].token.secret().expose()).unwrap();
            }
            world.keep(after);
            states.insert(*after, world.state());
            calls.push((*hook, done.calls));
        }
        // A job whose prolog left nothing.
        world.set_back("nothing");
        assert!(world.run("step", ALICES, None).status.success());
        states.insert("step alone", world.state());
        Self { world, states, calls }
    }

    /// The calls of a kind of process.
    fn calls(&self, stage: &Stage, role: &str) -> Vec<Call> {
        let (_, calls) = self.calls.iter().find(|(hook, _)| *hook == stage.hook).unwrap();
        calls.iter().filter(|call| call.role == role).cloned().collect()
    }

    /// What is wrong after something happened.
    fn look_at(&mut self, stage: &Stage, role: &str, fault: Fault, done: &Done, number: usize) -> Vec<String> {
        let mut wrong = match fault {
            Fault::Stop => Vec::new(),
            Fault::Fails(error) => self.told(done, error),
        };
        self.world.keep("crash");
        let is_recorded = self.world.record(ALICES).is_some();
        let mut say = |when: &str, problems: Vec<String>| {
            wrong.extend(problems.into_iter().map(|problem| format!("{when}: {problem}")));
        };
        say("the same again", self.goes_on(stage.hook, stage.after, |path| path == Path::new(METRICS)));
        if stage.hook != "prolog" {
            say("the job is requeued", self.goes_on("prolog", "prolog", is_of_the_node));
        }
        match stage.hook {
            // Only the prolog knows some facts.
            "prolog" if !is_recorded => {
                say("a step alone", self.goes_on("step", "step alone", is_of_the_node));
            }
            "prolog" => say("its step", self.goes_on("step", "step", is_of_the_node)),
            "step" | "agent" => {
                // The status is that of the last refresh, which has failed. The record's temporary file, which only root
                // can read, stays until the record is written again.
                let may_differ = |path: &Path| {
                    let is_left = if fault == Fault::Stop { ".record.new" } else { "status" };
                    is_of_the_node(path) || path.ends_with(is_left)
                };
                say("its next step", self.goes_on("exit", "exit", may_differ));
            }
            _ => {}
        }
        // Slurm runs no epilog twice. One that was killed before its first call has begun nothing.
        if role != "epilog" {
            say("its epilog", self.is_over_after(&["epilog"]));
        } else if (number, fault) != (1, Fault::Stop) {
            say("another job", self.is_over_after(&[]));
        }
        self.world.set_back("crash");
        let done = self.world.run_after_restart("prolog", BOBS_NEXT);
        say("slurmd starts again", self.has_no_tokens(&done));
        let done = self.world.run("epilog", ALICES, None);
        say("its epilog after that", self.is_over(&done));
        wrong
    }

    /// What a hook tells of a call that failed.
    fn told(&self, done: &Done, error: Errno) -> Vec<String> {
        let mut wrong = Vec::new();
        if !done.status.success() {
            wrong.push(format!("the hook ended with {}", done.status));
        }
        let reason = if error == Errno::ENOSPC { "no space left on device" } else { "Input/output error" };
        let of_files = |line: &&String| line.starts_with("gcp-wif: files: ") && line.contains(reason);
        let is_audit = |line: &&String| ["gcp-wif: issuance ", "gcp-wif: refresh "].iter().any(|w| line.starts_with(w));
        let told: Vec<&String> = done.log.iter().filter(|line| !is_audit(line)).collect();
        if told.len() > 1 || !told.iter().all(of_files) {
            wrong.push(format!("the log says {told:?}"));
        }
        if let Some(outcome) = &done.outcome {
            let lines: Vec<String> = serde_json::from_value(outcome["lines"].clone()).unwrap();
            let is_issued = outcome["is_issued"] == true;
            if lines.len() > 1 || !lines.iter().all(|line| of_files(&line)) || (!is_issued && lines.is_empty()) {
                wrong.push(format!("the user is told {lines:?}"));
            }
            if is_issued {
                wrong.extend(self.has_token(done));
            }
        }
        wrong
    }

    /// Whether a step has a token of its own user, and the job's file has the same.
    fn has_token(&self, done: &Done) -> Option<String> {
        let outcome = done.outcome.as_ref()?;
        let token = outcome["token"].as_str().unwrap_or_default();
        let whose = self.world.google.state.token(token).map(|token| token.identity.name().to_owned());
        if whose.as_deref() != Some(crate::google::SERVICE_ACCOUNT) {
            return Some(format!("the step has a token of {whose:?}"));
        }
        let file = std::fs::read_to_string(outcome["file"].as_str().unwrap_or_default());
        (file.ok().as_deref() != Some(token)).then(|| "the file has another token than the step".to_owned())
    }

    /// What is wrong when a hook runs next, but for files that may differ.
    fn goes_on(&self, hook: &'static str, after: &'static str, may_differ: impl Fn(&Path) -> bool) -> Vec<String> {
        self.world.set_back("crash");
        let done = self.world.run(hook, ALICES, None);
        let kept = |mut state: State| {
            state.retain(|path, _| !may_differ(path));
            state
        };
        let mut wrong = difference(&kept(self.states[after].clone()), &kept(self.world.state()));
        wrong.extend(unclean(&done));
        if matches!(hook, "step" | "exit") {
            wrong.extend(self.has_token(&done));
        }
        wrong
    }

    /// What is left of the job after these hooks and the start of another job.
    fn is_over_after(&self, hooks: &[&str]) -> Vec<String> {
        self.world.set_back("crash");
        let mut wrong: Vec<String> =
            hooks.iter().filter_map(|hook| unclean(&self.world.run(hook, ALICES, None))).collect();
        wrong.extend(self.is_over(&self.world.run("prolog", BOBS_NEXT, None)));
        wrong
    }

    fn is_over(&self, done: &Done) -> Vec<String> {
        let job = ALICES.job.to_string();
        let is_left = |path: &&PathBuf| {
            let is_jobs = path.components().any(|part| part.as_os_str() == &*job);
            is_jobs || (path.extension().is_some_and(|extension| extension == "new") && !path.starts_with("run/tokens"))
        };
        let state = self.world.state();
        let left = state.keys().filter(is_left).map(|path| format!("{} is left", path.display()));
        left.chain(unclean(done)).collect()
    }

    /// Whether the job has no files and no tokens any more. What only its prolog knew may be kept.
    fn has_no_tokens(&self, done: &Done) -> Vec<String> {
        let mut wrong: Vec<String> = unclean(done).into_iter().collect();
        if self.world.paths.runtime().join(format!("jobs/{}", ALICES.job)).exists() {
            wrong.push("it has files".to_owned());
        }
        if self.world.record(ALICES).is_some_and(|record| !record.issued.is_empty()) {
            wrong.push("it has tokens".to_owned());
        }
        wrong
    }
}

/// What is not of one job: what is kept for all jobs of a user, and told of the node. Whoever writes there next makes it
/// whole again.
fn is_of_the_node(path: &Path) -> bool {
    path.starts_with("run/tokens") || path.starts_with("default") || path == Path::new(METRICS)
}

/// What a hook that is not disturbed has to complain about.
fn unclean(done: &Done) -> Option<String> {
    let failed = |line: &&String| !line.contains("outcome=issued");
    let lines = done.outcome.as_ref().map(|outcome| outcome["lines"].to_string()).filter(|lines| lines != "[]");
    let problem = lines.or_else(|| done.log.iter().find(failed).cloned());
    problem.or_else(|| (!done.status.success()).then(|| done.status.to_string()))
}
