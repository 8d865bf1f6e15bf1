//! The life of a job on a node: what each hook does, and what a failure means.
//!
//! ```text
//! prolog (root)         sweep leftovers; if credentials are asked for or automatic, record the job's facts and
//!                       options, and publish the job's files with the token that is kept for the user, or leave a
//!                       worker behind that asks Google
//! step start (root)     take what is there, or wait for whoever asks Google, or ask; have the agent serve it; set
//!                       the step's environment
//! step as the user      tell the one line if something failed
//! task                  end with status 1 if what failed was asked for explicitly
//! step end (root)       remove the step's enroot configuration
//! epilog (root)         remove the job's files and its record
//! ```
//!
//! No function here returns an error to Slurm: a failure is recorded and told, and never costs the node. The
//! worker is a process of its own because slurmd drains the node when the prolog's process is killed: that one
//! lives for milliseconds, whatever Google does.
#![forbid(unsafe_code)]

mod step;

use std::time::Duration;

use crate::job::issuance::{Issuance, LEAST, LOCK, TellEnded, save};
use crate::job::node::{Host, Job, Log, Node, StepDirectory};
use crate::job::obtain::{self, Looked, Need};
use crate::job::{places, sweep};
use crate::plan::audit::Event;
use crate::plan::environment::{self, Change, Environment};
use crate::plan::record::{Issued, JobRecord};
use crate::plan::report::Failure;
use crate::policy::config::{Config, ConfigError};
use crate::policy::facts::JobFacts;
use crate::policy::grant::Grant;
use crate::policy::request::{Options, Request};
use crate::policy::site::Site;
use crate::words::google::ServiceAccountEmail;
use crate::words::names::JobId;
use crate::world::fs::{LockedJob, RuntimeDirectory};

/// srun gives up on a step that does not start within MessageTimeout and BatchStartTimeout (`step_launch.c`), by
/// default 20 seconds, which is our budget as well. An exchange leaves this part of it, so that the user can be told
/// why.
const TO_TELL: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

impl Node<'_> {
    /// The job's prolog.
    pub fn prolog(&self, host: &dyn Host, job: &Job<'_>) {
        let result = match Config::load(self.config_path) {
            Err(ConfigError::Absent(_)) => return,
            Err(error) => Err(error.into()),
            Ok(config) => self.begin(host, config, job),
        };
        if let Err(failure) = result {
            host.log(&format!("{failure} (job {})", job.id));
        }
    }

    fn begin(&self, host: &dyn Host, config: Config, job: &Job<'_>) -> Result<(), Failure> {
        let options = host.options();
        // A step's --no-gcp-wif within `salloc --gcp-wif` shows here as both: the step itself decides then.
        let request = options.request().unwrap_or(Request::Refused);
        // Only the prolog knows account and partition, and which options the job was submitted with.
        let changes_nothing =
            matches!(options.request(), Ok(Request::Unstated | Request::Refused)) && !config.may_be_auto();
        let is_remembered = config.names_placements() || !changes_nothing;
        let has_rest = || places::knows(self.default_dir, Some(&config.runtime_dir), job.id);
        let is_idle = !is_remembered && !has_rest();
        for runtime in places::used(self.default_dir, Some(&config.runtime_dir)) {
            let _told = TellEnded(host, &runtime);
            sweep::sweep(&runtime, job.id, self.processes, self.clock.now());
        }
        if is_idle {
            return Ok(());
        }
        let runtime = places::open(self.default_dir, &config.runtime_dir)?;
        let record = self.remember(host, &config, &runtime, options, (job.facts)()?)?;
        if may_want(&config, &request) {
            self.issue(host, &Site::of(config)?, &runtime, &record, &request)
        } else {
            Ok(())
        }
    }

    /// Begins a new run of a job, whose earlier ones leave nothing.
    fn remember(
        &self,
        host: &dyn Host,
        config: &Config,
        runtime: &RuntimeDirectory,
        options: Options,
        facts: JobFacts,
    ) -> Result<JobRecord, Failure> {
        let _told = TellEnded(host, runtime);
        let job = facts.job;
        for other in places::all(self.default_dir, Some(&config.runtime_dir)) {
            obtain::sweep(self.clock, &other);
            if other.path() != runtime.path() {
                // An earlier run may have begun before the configuration was edited.
                self.remove(host, &other, job);
            }
        }
        places::forget_gone(self.default_dir);
        let record = JobRecord::new(facts, options, self.processes.generation());
        let locked = runtime.lock(job, LOCK)?;
        runtime.remove_files(job)?;
        save(&locked, &record)?;
        Ok(record)
    }

    /// Gives a job the token that is kept for its user, or leaves a worker behind that gets one.
    fn issue(
        &self,
        host: &dyn Host,
        site: &Site,
        runtime: &RuntimeDirectory,
        record: &JobRecord,
        request: &Request,
    ) -> Result<(), Failure> {
        let told = TellEnded(host, runtime);
        let (facts, run, event, audit) = (&record.facts, record.run, Event::Issuance, site.config.audit);
        let issuance = Issuance { node: self, log: host, runtime, facts, run, event, audit };
        // The step tells a denial.
        let Ok(grant) = Grant::decide(site, &record.facts, asked(request)) else { return Ok(()) };
        if !has(&grant, site, request) {
            return Ok(());
        }
        let (key, begun) = (issuance.key(site, &grant), issuance.begin(record, &grant));
        let mut lock = match issuance.at(&key, Need::Begin(grant.delivery())).look(Duration::ZERO)? {
            Looked::Known(answer) => {
                let is_served =
                    |issued: &Issued| issued.port.is_none() || self.processes.ask_agent(runtime.path()).is_some();
                if issuance.take(Some(site), &grant, begun, answer).is_ok_and(|issued| !is_served(&issued)) {
                    drop(told);
                    self.leave_worker(&issuance, &mut || {
                        drop(self.processes.wake_agent(&site.config, runtime.path(), None))
                    });
                }
                return Ok(());
            }
            // The worker inherits the lock and has it until it has asked Google.
            Looked::Ask(lock) => Some(lock),
            Looked::Busy => None,
        };
        // Told once, by this process or by the worker.
        drop(told);
        self.leave_worker(&issuance, &mut || {
            let issued = match lock.take() {
                Some(lock) => issuance.ask(site, &grant, &key, lock, begun, budget(site)),
                None => issuance.obtain(site, &grant, budget(site)),
            };
            if issued.is_ok_and(|issued| issued.port.is_some()) {
                // An agent that starts here is outside of the job's cgroup. If it cannot start, the step says why.
                let _ = self.processes.wake_agent(&site.config, runtime.path(), None);
            }
        });
        Ok(())
    }

    /// Leaves a process behind that outlives the prolog.
    fn leave_worker(&self, issuance: &Issuance<'_>, work: &mut dyn FnMut()) {
        self.processes.detach(&mut || {
            let _told = TellEnded(issuance.log, issuance.runtime);
            // Without a record of the worker, the epilog could not end it.
            if issuance.remember_worker().is_ok() {
                work();
            }
        });
    }

    /// The end of a step, as root: its own directory goes.
    pub fn step_exit(&self, log: &dyn Log, directory: &StepDirectory) {
        let StepDirectory { runtime_dir, job, step } = directory;
        let Some(runtime) = RuntimeDirectory::existing(runtime_dir) else { return };
        if let Err(error) = runtime.remove_step(*job, step) {
            log.log(&format!("{} (job {job}, step {step})", Failure::from(error)));
        }
    }

    /// The end of the job's extern step. Under PrologFlags=RunInJob Slurm runs neither the prolog nor the epilog of a
    /// SPANK plugin (`spank.c`: only slurmd itself looks for them), and this step ends after all others.
    pub fn extern_exit(&self, log: &dyn Log, job: JobId) {
        let Ok(config) = Config::load(self.config_path) else { return };
        let Some(runtime) = places::of_job(self.default_dir, Some(&config.runtime_dir), job) else { return };
        let record = runtime.peek_record(job).as_deref().and_then(JobRecord::parse);
        // Only a prolog knows account and partition, and where a prolog runs, the epilog runs as well.
        if record.is_some_and(|record| record.facts.placement.is_none()) {
            self.remove(log, &runtime, job);
        }
    }

    /// The job's epilog: removes the job from every runtime directory. It works without a configuration as well.
    pub fn epilog(&self, log: &dyn Log, job: JobId) {
        let config = Config::load(self.config_path).ok();
        let configured = config.as_ref().map(|config| config.runtime_dir.as_path());
        for runtime in places::with(self.default_dir, configured, job) {
            self.remove(log, &runtime, job);
        }
    }

    /// Removes a job from a runtime directory.
    fn remove(&self, log: &dyn Log, runtime: &RuntimeDirectory, job: JobId) {
        let _locked = self.last_lock(runtime, job);
        let record = runtime.peek_record(job).as_deref().and_then(JobRecord::parse);
        let files = runtime.remove_files(job);
        let removed = runtime.remove_record(job).and(files);
        if record.is_some_and(|record| record.issued.iter().any(|issued| issued.port.is_some())) {
            // The agent must refuse the handle from now on.
            self.processes.tell_agent(runtime.path());
        }
        if let Err(error) = removed {
            log.log(&format!("{} (job {job}, epilog)", Failure::from(error)));
        }
    }

    /// Takes the job's lock for the last time, and ends a worker that still runs. A process that was stopped while it
    /// held the lock must not keep the epilog from removing secrets: after a while the epilog goes on without the lock,
    /// and every later write of that process fails.
    fn last_lock<'a>(&self, runtime: &'a RuntimeDirectory, job: JobId) -> Option<LockedJob<'a>> {
        let mut tries = 0..LOCK.as_millis() / PAUSE.as_millis();
        loop {
            let record = runtime.peek_record(job).as_deref().and_then(JobRecord::parse);
            if let Some(worker) = record.and_then(|record| record.worker) {
                self.processes.end(worker);
            }
            match runtime.lock_existing(job, PAUSE) {
                Ok(locked) => return locked,
                Err(_) => tries.next()?,
            };
        }
    }
}

/// What srun, sbatch and salloc do before they submit: refuse options that cannot be honoured, and say which
/// variables of an outer job must not go into the new one.
///
/// # Errors
/// The refusal.
pub fn submission(
    all: &Options,
    inherited: &Options,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<(Request, Vec<Change>), Failure> {
    let request = Request::of_step(all, inherited, None)?;
    Ok((request, environment::changes(&Environment::new(), false, variable)))
}

fn asked(request: &Request) -> Option<&ServiceAccountEmail> {
    match request {
        Request::Wanted { service_account } => service_account.as_ref(),
        Request::Unstated | Request::Refused => None,
    }
}

/// Whether a job can get credentials, before it is known which rule decides.
fn may_want(config: &Config, request: &Request) -> bool {
    request.is_explicit() || (config.may_be_auto() && *request == Request::Unstated)
}

/// Whether a job has credentials that it was granted: it asked for them, or gets them without asking.
fn has(grant: &Grant, site: &Site, request: &Request) -> bool {
    request.is_explicit() || grant.is_auto(&site.config)
}

/// What an exchange may take of the site's budget.
fn budget(site: &Site) -> Duration {
    let timeout = site.config.timeout();
    timeout.saturating_sub(TO_TELL.min(timeout / 4)).max(LEAST)
}

#[cfg(test)]
mod tests;
