//! The events of a week, and their times.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use gcp_wif_core::job::node::{Job, Outcome, StepDirectory};
use gcp_wif_core::policy::facts::JobFacts;
use gcp_wif_core::policy::request::Options;
use gcp_wif_core::words::names::{JobId, StepId};

use crate::faults::{Faults, Kind, USERS};
use crate::invariants::{Invariants, Running};
use crate::node::{OTHER, SITE, World};
use crate::slurm::Hook;

const HOUR: Duration = Duration::from_secs(3600);
/// The kubelet replaces the subject token after four fifths of its lifetime.
const ROTATION: Duration = Duration::from_secs(48 * 60);
/// The mean times between random events, in seconds.
const BETWEEN_JOBS: f64 = 40.0 * 60.0;
const BETWEEN_FAULTS: f64 = 30.0 * 60.0;
const JOB: f64 = 4.0 * 3600.0;
const BETWEEN_STEPS: f64 = 30.0 * 60.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Event {
    Submit,
    Step(u32),
    Requeue(u32),
    End(u32),
    Rotate,
    Fault,
    /// The end of a fault, with its kind.
    FaultEnds(u8),
}

/// A submitted job.
struct Submitted {
    user: u32,
    options: Options,
    steps: u32,
    /// The directories of the running steps.
    directories: Vec<StepDirectory>,
}

struct Week {
    end: Duration,
    world: World,
    faults: Faults,
    invariants: Invariants,
    jobs: BTreeMap<u32, Submitted>,
    running: BTreeMap<JobId, Running>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// The kinds of the injected faults that have a duration.
    kinds: Vec<Kind>,
    next: u64,
    counts: BTreeMap<&'static str, u64>,
    /// A hash of all events. Equal seeds must have equal hashes.
    trace: DefaultHasher,
}

/// Simulates a number of hours, and returns the counts.
pub fn run(hours: u32, seed: u64) -> String {
    let mut week = Week {
        end: HOUR * hours,
        world: World::new(seed),
        faults: Faults::default(),
        invariants: Invariants::default(),
        jobs: BTreeMap::new(),
        running: BTreeMap::new(),
        events: BinaryHeap::new(),
        kinds: Vec::new(),
        next: 0,
        counts: BTreeMap::new(),
        trace: DefaultHasher::new(),
    };
    week.faults.rotate(&week.world);
    week.faults.end(Kind::Default, &week.world);
    week.world.processes.has_agent.set(true);
    for (event, mean) in [(Event::Submit, 60.0), (Event::Fault, BETWEEN_FAULTS)] {
        week.schedule_randomly(event, mean);
    }
    week.schedule(ROTATION, Event::Rotate);
    week.process_events();
    week.finish();
    week.counts()
}

impl Week {
    fn schedule(&mut self, after: Duration, event: Event) {
        self.next += 1;
        self.events.push(Reverse((self.world.time() + after, self.next, event)));
    }

    /// Schedules an event after a random time.
    fn schedule_randomly(&mut self, event: Event, mean: f64) {
        let factor = -self.world.random.borrow_mut().f64().max(1e-9).ln();
        self.schedule(Duration::from_secs_f64((factor * mean).min(self.end.as_secs_f64())), event);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn process_events(&mut self) {
        while self.world.time() < self.end {
            let event = self.events.peek().map(|Reverse((when, ..))| *when).expect("a submission is always scheduled");
            match self.world.next_look().filter(|look| *look <= event) {
                Some(look) => {
                    self.world.advance_to(look);
                    // A fault may have prevented a new token until now.
                    Invariants::note_faults(&self.world, &self.faults, &mut self.running);
                    self.world.look();
                }
                None => {
                    let Some(Reverse((when, _, event))) = self.events.pop() else { return };
                    self.world.advance_to(when);
                    Invariants::note_faults(&self.world, &self.faults, &mut self.running);
                    self.process(event);
                }
            }
            self.check();
        }
    }

    fn check(&mut self) {
        self.invariants.check(&self.world, &self.faults, &mut self.running);
    }

    fn process(&mut self, event: Event) {
        (event, self.world.google.calls.get(), self.world.time()).hash(&mut self.trace);
        match event {
            Event::Submit => {
                self.submit();
                self.schedule_randomly(Event::Submit, BETWEEN_JOBS);
            }
            Event::Step(job) if self.jobs.contains_key(&job) => {
                self.end_steps(job);
                self.step(job);
                self.schedule_randomly(Event::Step(job), BETWEEN_STEPS);
            }
            Event::Requeue(job) if self.jobs.contains_key(&job) => {
                self.count("requeues");
                self.epilog(job);
                self.prolog(job);
                self.step(job);
            }
            Event::End(job) if self.jobs.contains_key(&job) => {
                self.epilog(job);
                self.jobs.remove(&job);
            }
            Event::Step(_) | Event::Requeue(_) | Event::End(_) => {}
            Event::Rotate => {
                self.faults.rotate(&self.world);
                self.schedule(ROTATION, Event::Rotate);
            }
            Event::Fault => {
                let (kind, duration) = self.faults.inject(&self.world);
                (kind as u8).hash(&mut self.trace);
                if let Some(duration) = duration {
                    self.kinds.push(kind);
                    self.schedule(duration, Event::FaultEnds(kind as u8));
                }
                self.schedule_randomly(Event::Fault, BETWEEN_FAULTS);
            }
            Event::FaultEnds(number) => {
                let kind =
                    self.kinds.iter().copied().find(|kind| *kind as u8 == number).expect("the fault was injected");
                self.faults.end(kind, &self.world);
            }
        }
    }

    fn submit(&mut self) {
        self.count("jobs");
        let number = 1000 + self.counts["jobs"] as u32;
        let (user, identity, has_requeue) = {
            let mut random = self.world.random.borrow_mut();
            (USERS[random.usize(..USERS.len())], random.u32(..3), random.u32(..8) == 0)
        };
        let service_account = [None, Some(SITE), Some(OTHER)][identity as usize].map(str::to_owned);
        let options = Options { wanted: service_account.is_none(), refused: false, service_account };
        self.jobs.insert(number, Submitted { user, options, steps: 0, directories: Vec::new() });
        self.prolog(number);
        self.step(number);
        self.schedule_randomly(Event::Step(number), BETWEEN_STEPS);
        self.schedule_randomly(Event::End(number), JOB);
        if has_requeue {
            self.schedule_randomly(Event::Requeue(number), JOB / 2.0);
        }
    }

    fn hook(&self, job: u32) -> Hook {
        Hook { options: self.jobs[&job].options.clone(), ..Hook::default() }
    }

    fn facts(&self, job: u32) -> JobFacts {
        let uid = self.jobs[&job].user;
        JobFacts { job: JobId(job), uid, gid: uid, user: None, groups: Vec::new(), placement: None }
    }

    fn prolog(&mut self, job: u32) {
        let (hook, facts) = (self.hook(job), self.facts(job));
        let all = || Ok(facts.clone());
        let slurms = Job { id: JobId(job), uid: facts.uid, gid: facts.gid, groups: &|| Ok(Vec::new()), facts: &all };
        // A fault can kill the worker.
        let world = &self.world;
        let _ = world.in_process(|| world.with_node(|node| node.prolog(&hook, &slurms)));
        self.world.processes.living.borrow_mut().insert(JobId(job));
    }

    fn step(&mut self, job: u32) {
        self.count("steps");
        let (hook, facts) = (self.hook(job), self.facts(job));
        let all = || Ok(facts.clone());
        let slurms = Job { id: JobId(job), uid: facts.uid, gid: facts.gid, groups: &|| Ok(Vec::new()), facts: &all };
        let step = StepId(self.jobs[&job].steps);
        let world = &self.world;
        let killed = || Outcome::Failed { failure: gcp_wif_core::plan::report::Failure::internal(), explicit: true };
        let kills = world.kill_in.get();
        let outcome =
            world.in_process(|| world.with_node(|node| node.step(&hook, &slurms, step))).unwrap_or_else(killed);
        let was_killed = kills.is_some() && world.kill_in.get().is_none();
        let is_prevented = self.faults.prevents_token(facts.uid, world);
        let submitted = self.jobs.get_mut(&job).expect("the job runs");
        submitted.steps += 1;
        match outcome {
            Outcome::Issued { directory, .. } => {
                submitted.directories.push(directory);
                let environment = hook.environment.borrow();
                let identity = environment["GCP_WIF_SERVICE_ACCOUNT"].clone();
                let token =
                    world.google.token(&environment["GOOGLE_OAUTH_ACCESS_TOKEN"]).expect("Google has issued the token");
                assert!(token.expires > world.true_time(), "a step starts with an expired token");
                assert_eq!((&token.identity, &token.user), (&identity, &facts.uid.to_string()));
                let now = world.time();
                let running = self.running.entry(JobId(job));
                running.or_insert(Running { user: facts.uid, identity, prevented_until: now, token: None });
                0_u8.hash(&mut self.trace);
            }
            Outcome::None => 1_u8.hash(&mut self.trace),
            Outcome::Failed { failure, .. } => {
                (failure.stage as u8).hash(&mut self.trace);
                // A failure at Google is kept for ten seconds, and an exchange takes at most twenty.
                let recent = Duration::from_secs(35);
                let is_recent = self.faults.last_end.is_some_and(|end| end + recent >= world.time());
                assert!(is_prevented || is_recent || was_killed, "{:?}: job {job}: {failure}", world.time());
                self.count("failed_steps");
            }
        }
    }

    fn end_steps(&mut self, job: u32) {
        let directories = std::mem::take(&mut self.jobs.get_mut(&job).expect("the job runs").directories);
        for directory in directories {
            self.world.with_node(|node| node.step_exit(&Hook::default(), &directory));
        }
    }

    fn epilog(&mut self, job: u32) {
        self.end_steps(job);
        self.world.processes.living.borrow_mut().remove(&JobId(job));
        let hook = Hook::default();
        self.world.with_node(|node| node.epilog(&hook, JobId(job)));
        self.running.remove(&JobId(job));
        for below in ["jobs", "records"] {
            let left = self.world.at("run").join(below).join(job.to_string());
            assert!(!left.exists(), "{}: {:?}", left.display(), hook.lines.borrow());
        }
    }

    /// Ends all jobs and checks that nothing is left.
    fn finish(&mut self) {
        for kind in std::mem::take(&mut self.kinds) {
            self.faults.end(kind, &self.world);
        }
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.epilog(job);
        }
        self.world.kill_in.set(None);
        self.world.advance_to(self.world.time() + 2 * HOUR);
        self.world.processes.has_agent.set(true);
        self.world.look();
        let runtime = self.world.runtime().expect("jobs have run");
        assert_eq!((runtime.jobs(), runtime.kept()), (Vec::new(), Vec::new()));
    }

    /// Renders the counts.
    fn counts(&self) -> String {
        let count = |name: &str| self.counts.get(name).copied().unwrap_or_default();
        let faults = |kinds: &[Kind]| self.faults.count(kinds);
        let attempts = self.world.attempts.borrow();
        let failed = attempts.iter().filter(|attempt| attempt.has_failed).count();
        format!(
            "trace={:016x} jobs={} steps={} failed_steps={} requeues={} google={} subject={} disk={} kills={} clock={} \
             configuration={} slurmd={} tokens={} failed={failed} calls={} checks={} longest_without={}",
            self.trace.finish(),
            count("jobs"),
            count("steps"),
            count("failed_steps"),
            count("requeues"),
            faults(&[Kind::Google]),
            faults(&[Kind::Subject]),
            faults(&[Kind::Disk]),
            faults(&[Kind::Agent, Kind::Serving]),
            faults(&[Kind::Clock]),
            faults(&[Kind::Configuration, Kind::Denial, Kind::Default]),
            faults(&[Kind::Slurmd]),
            attempts.len() - failed,
            self.world.google.calls.get(),
            self.invariants.checks,
            self.invariants.longest.as_secs(),
        )
    }
}
