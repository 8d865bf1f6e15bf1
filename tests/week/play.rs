//! What happens in a week, and when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use gcp_wif_core::job::node::{Job, Outcome, StepDirectory};
use gcp_wif_core::policy::facts::JobFacts;
use gcp_wif_core::policy::request::Options;
use gcp_wif_core::words::names::{JobId, StepId};

use crate::node::{OTHER, SITE, World};
use crate::promises::{Promises, Running};
use crate::slurm::Hook;
use crate::trouble::{Kind, Troubles, USERS};

const HOUR: Duration = Duration::from_secs(3600);
/// The kubelet replaces the subject token after four fifths of its life.
const ROTATION: Duration = Duration::from_secs(48 * 60);
/// Means of what happens by chance.
const BETWEEN_JOBS: f64 = 40.0 * 60.0;
const BETWEEN_TROUBLES: f64 = 30.0 * 60.0;
const JOB: f64 = 4.0 * 3600.0;
const BETWEEN_STEPS: f64 = 30.0 * 60.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Event {
    Arrive,
    Step(u32),
    Requeue(u32),
    End(u32),
    Rotate,
    Trouble,
    Over(u8),
}

/// A job that was submitted.
struct Submitted {
    user: u32,
    options: Options,
    steps: u32,
    /// Those that run.
    directories: Vec<StepDirectory>,
}

struct Week {
    end: Duration,
    world: World,
    troubles: Troubles,
    promises: Promises,
    jobs: BTreeMap<u32, Submitted>,
    running: BTreeMap<JobId, Running>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// What of a trouble lasts, by the number in [`Event::Over`].
    kinds: Vec<Kind>,
    next: u64,
    counts: BTreeMap<&'static str, u64>,
    trace: DefaultHasher,
}

/// Plays so many hours; brings what was counted.
pub fn hours(hours: u32, seed: u64) -> String {
    let mut week = Week {
        end: HOUR * hours,
        world: World::new(seed),
        troubles: Troubles::default(),
        promises: Promises::default(),
        jobs: BTreeMap::new(),
        running: BTreeMap::new(),
        events: BinaryHeap::new(),
        kinds: Vec::new(),
        next: 0,
        counts: BTreeMap::new(),
        trace: DefaultHasher::new(),
    };
    week.troubles.rotate(&week.world);
    week.troubles.end(Kind::Default, &week.world);
    week.world.processes.has_agent.set(true);
    for (event, mean) in [(Event::Arrive, 60.0), (Event::Trouble, BETWEEN_TROUBLES)] {
        week.later(event, mean);
    }
    week.at(ROTATION, Event::Rotate);
    week.play();
    week.finish();
    week.told()
}

impl Week {
    fn at(&mut self, after: Duration, event: Event) {
        self.next += 1;
        self.events.push(Reverse((self.world.time() + after, self.next, event)));
    }

    /// After a time by chance.
    fn later(&mut self, event: Event, mean: f64) {
        let part = -self.world.random.borrow_mut().f64().max(1e-9).ln();
        self.at(Duration::from_secs_f64((part * mean).min(self.end.as_secs_f64())), event);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn play(&mut self) {
        while self.world.time() < self.end {
            let event = self.events.peek().map(|Reverse((when, ..))| *when).expect("jobs come for ever");
            match self.world.next_look().filter(|look| *look <= event) {
                Some(look) => {
                    self.world.go_on_at(look);
                    // Something may have kept a job from a token until now.
                    Promises::look(&self.world, &self.troubles, &mut self.running);
                    self.world.look();
                }
                None => {
                    let Some(Reverse((when, _, event))) = self.events.pop() else { return };
                    self.world.go_on_at(when);
                    Promises::look(&self.world, &self.troubles, &mut self.running);
                    self.happens(event);
                }
            }
            self.check();
        }
    }

    fn check(&mut self) {
        self.promises.check(&self.world, &self.troubles, &mut self.running);
    }

    fn happens(&mut self, event: Event) {
        (event, self.world.google.calls.get(), self.world.time()).hash(&mut self.trace);
        match event {
            Event::Arrive => {
                self.arrive();
                self.later(Event::Arrive, BETWEEN_JOBS);
            }
            Event::Step(job) if self.jobs.contains_key(&job) => {
                self.end_steps(job);
                self.step(job);
                self.later(Event::Step(job), BETWEEN_STEPS);
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
                self.troubles.rotate(&self.world);
                self.at(ROTATION, Event::Rotate);
            }
            Event::Trouble => {
                let (kind, lasts) = self.troubles.begin(&self.world);
                (kind as u8).hash(&mut self.trace);
                if let Some(lasts) = lasts {
                    self.kinds.push(kind);
                    self.at(lasts, Event::Over(kind as u8));
                }
                self.later(Event::Trouble, BETWEEN_TROUBLES);
            }
            Event::Over(number) => {
                let kind = self.kinds.iter().copied().find(|kind| *kind as u8 == number).expect("it has begun");
                self.troubles.end(kind, &self.world);
            }
        }
    }

    fn arrive(&mut self) {
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
        self.later(Event::Step(number), BETWEEN_STEPS);
        self.later(Event::End(number), JOB);
        if has_requeue {
            self.later(Event::Requeue(number), JOB / 2.0);
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
        // Its worker may be killed.
        let world = &self.world;
        let _ = world.in_process(|| world.serve(|node| node.prolog(&hook, &slurms)));
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
        let outcome = world.in_process(|| world.serve(|node| node.step(&hook, &slurms, step))).unwrap_or_else(killed);
        let was_killed = kills.is_some() && world.kill_in.get().is_none();
        let is_kept = self.troubles.keeps_from_a_token(facts.uid, world);
        let submitted = self.jobs.get_mut(&job).expect("it runs");
        submitted.steps += 1;
        match outcome {
            Outcome::Issued { directory, .. } => {
                submitted.directories.push(directory);
                let environment = hook.environment.borrow();
                let identity = environment["GCP_WIF_SERVICE_ACCOUNT"].clone();
                let token = world.google.token(&environment["GOOGLE_OAUTH_ACCESS_TOKEN"]).expect("one of Google's");
                assert!(token.ends > world.true_time(), "a step begins with a token that has ended");
                assert_eq!((&token.identity, &token.user), (&identity, &facts.uid.to_string()));
                let now = world.time();
                let running = self.running.entry(JobId(job));
                running.or_insert(Running { user: facts.uid, identity, kept_until: now, token: None });
                0_u8.hash(&mut self.trace);
            }
            Outcome::None => 1_u8.hash(&mut self.trace),
            Outcome::Failed { failure, .. } => {
                (failure.stage as u8).hash(&mut self.trace);
                // A failure of Google's holds for ten seconds, and an exchange takes at most twenty.
                let recent = Duration::from_secs(35);
                let is_recent = self.troubles.over.is_some_and(|over| over + recent >= world.time());
                assert!(is_kept || is_recent || was_killed, "{:?}: job {job}: {failure}", world.time());
                self.count("steps_that_failed");
            }
        }
    }

    fn end_steps(&mut self, job: u32) {
        let directories = std::mem::take(&mut self.jobs.get_mut(&job).expect("it runs").directories);
        for directory in directories {
            self.world.serve(|node| node.step_exit(&Hook::default(), &directory));
        }
    }

    fn epilog(&mut self, job: u32) {
        self.end_steps(job);
        self.world.processes.living.borrow_mut().remove(&JobId(job));
        let hook = Hook::default();
        self.world.serve(|node| node.epilog(&hook, JobId(job)));
        self.running.remove(&JobId(job));
        for below in ["jobs", "records"] {
            let left = self.world.at("run").join(below).join(job.to_string());
            assert!(!left.exists(), "{}: {:?}", left.display(), hook.lines.borrow());
        }
    }

    /// The end of all jobs. Nothing is left of any.
    fn finish(&mut self) {
        for kind in std::mem::take(&mut self.kinds) {
            self.troubles.end(kind, &self.world);
        }
        for job in self.jobs.keys().copied().collect::<Vec<_>>() {
            self.epilog(job);
        }
        self.world.kill_in.set(None);
        self.world.go_on_at(self.world.time() + 2 * HOUR);
        self.world.processes.has_agent.set(true);
        self.world.look();
        let runtime = self.world.runtime().expect("there were jobs");
        assert_eq!((runtime.jobs(), runtime.kept()), (Vec::new(), Vec::new()));
    }

    fn told(&self) -> String {
        let count = |name: &str| self.counts.get(name).copied().unwrap_or_default();
        let troubles = |kinds: &[Kind]| self.troubles.count(kinds);
        let tried = self.world.tried.borrow();
        let failed = tried.iter().filter(|tried| tried.has_failed).count();
        format!(
            "trace={:016x} jobs={} steps={} steps_that_failed={} requeues={} google={} subject={} disk={} kills={} clock={} \
             configuration={} slurmd={} tokens={} failed={failed} calls={} checks={} longest_without={}",
            self.trace.finish(),
            count("jobs"),
            count("steps"),
            count("steps_that_failed"),
            count("requeues"),
            troubles(&[Kind::Google]),
            troubles(&[Kind::Subject]),
            troubles(&[Kind::Disk]),
            troubles(&[Kind::Agent, Kind::Serving]),
            troubles(&[Kind::Clock]),
            troubles(&[Kind::Configuration, Kind::Denial, Kind::Default]),
            troubles(&[Kind::Slurmd]),
            tried.len() - failed,
            self.world.google.calls.get(),
            self.promises.checks,
            self.promises.longest.as_secs(),
        )
    }
}
