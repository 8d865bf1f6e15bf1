//! The life of a job on a node: the work of each hook, and the effect of a failure.
//!
//! ```text
//! prolog (root)         sweep leftovers; if credentials are requested or automatic, record the job's facts and
//!                       options, and publish the job's files with a kept token, or start a worker that obtains
//!                       a new one
//! step start (root)     take the credentials from the record, or wait for another process's exchange, or do the
//!                       exchange; have the agent serve them; set the step's environment
//! step as the user      print the message if something failed
//! task                  exit with status 1 if explicitly requested credentials failed
//! step end (root)       remove the step's enroot configuration
//! epilog (root)         remove the job's files and its record
//! ```
//!
//! No function here returns an error to Slurm. Failures are logged and shown to the user, and never drain the node.
//! slurmd drains a node if the prolog's process is killed, so the exchange runs in a separate worker process, and the
//! prolog ends within milliseconds, whatever Google does.
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

/// The part of the budget that an exchange leaves for reporting its failure. srun gives up on a step that does not
/// start within MessageTimeout and BatchStartTimeout (`step_launch.c`): 20 seconds by default, which is also the
/// default budget.
const TO_TELL: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

impl Node<'_> {
    /// Runs the job's prolog.
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
        // A step's --no-gcp-wif within `salloc --gcp-wif` appears here as both options. The step decides then.
        let request = options.request().unwrap_or(Request::Refused);
        // Only the prolog knows account and partition, and the options of the submission.
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

    /// Starts a new run of a job: removes everything of earlier runs and writes a new record.
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
                // An earlier run may have started before the configuration changed.
                self.remove(host, &other, job);
            }
        }
        places::forget_gone(self.default_dir);
        let record = JobRecord::new(facts, options, self.processes.generation());
        let locked = runtime.lock(job, LOCK)?;
        runtime.forget(job)?;
        runtime.remove_files(job)?;
        save(&locked, &record)?;
        Ok(record)
    }

    /// Gives a job a kept token, or starts a worker that obtains one.
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
        // A denial is reported by the step.
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
            // The worker inherits the lock and holds it until its exchange ends.
            Looked::Ask(lock) => Some(lock),
            Looked::Busy => None,
        };
        // Log the killed processes once, either here or in the worker.
        drop(told);
        self.leave_worker(&issuance, &mut || {
            let issued = match lock.take() {
                Some(lock) => issuance.ask(site, &grant, &key, lock, begun, budget(site)),
                None => issuance.obtain(site, &grant, budget(site)),
            };
            if issued.is_ok_and(|issued| issued.port.is_some()) {
                // An agent that is started here is outside the job's cgroup. If it cannot start, the step reports it.
                let _ = self.processes.wake_agent(&site.config, runtime.path(), None);
            }
        });
        Ok(())
    }

    /// Starts a process that outlives the prolog.
    fn leave_worker(&self, issuance: &Issuance<'_>, work: &mut dyn FnMut()) {
        self.processes.detach(&mut || {
            let _told = TellEnded(issuance.log, issuance.runtime);
            // Without its process ID in the record, the epilog could not kill the worker.
            if issuance.remember_worker().is_ok() {
                work();
            }
        });
    }

    /// Removes a step's enroot configuration at the end of the step.
    pub fn step_exit(&self, log: &dyn Log, directory: &StepDirectory) {
        let StepDirectory { runtime_dir, job, step } = directory;
        let removed = RuntimeDirectory::existing(runtime_dir)
            .and_then(|runtime| runtime.map_or(Ok(()), |runtime| runtime.remove_step(*job, step)));
        if let Err(error) = removed {
            log.log(&format!("{} (job {job}, step {step})", Failure::from(error)));
        }
    }

    /// Removes a job at the end of its extern step, if no epilog will. With PrologFlags=RunInJob, Slurm runs neither
    /// the prolog nor the epilog of a SPANK plugin (`spank.c`: only slurmd itself looks for them), and the extern step
    /// ends after all others.
    pub fn extern_exit(&self, log: &dyn Log, job: JobId) {
        let Ok(config) = Config::load(self.config_path) else { return };
        let Some(runtime) = places::of_job(self.default_dir, Some(&config.runtime_dir), job) else { return };
        let record = runtime.peek_record(job).as_deref().and_then(JobRecord::parse);
        // Only a prolog records account and partition, and if a prolog has run, an epilog runs too.
        if record.is_some_and(|record| record.facts.placement.is_none()) {
            self.remove(log, &runtime, job);
        }
    }

    /// Runs the job's epilog: removes the job from all runtime directories, even if the configuration is gone.
    pub fn epilog(&self, log: &dyn Log, job: JobId) {
        let config = Config::load(self.config_path).ok();
        let configured = config.as_ref().map(|config| config.runtime_dir.as_path());
        for runtime in places::with(self.default_dir, configured, job) {
            match runtime {
                Ok(runtime) => self.remove(log, &runtime, job),
                Err(error) => log.log(&format!("{} (job {job}, epilog)", Failure::from(error))),
            }
        }
    }

    /// Removes a job from a runtime directory.
    fn remove(&self, log: &dyn Log, runtime: &RuntimeDirectory, job: JobId) {
        let _locked = self.last_lock(runtime, job);
        let record = runtime.peek_record(job).as_deref().and_then(JobRecord::parse);
        // Slurm runs no epilog twice. If this process is killed, the next job's prolog removes what is left. If the record
        // cannot be removed, it is tried again below.
        let _ = runtime.forget(job);
        let files = runtime.remove_files(job);
        let removed = runtime.remove_record(job).and(files);
        if record.is_some_and(|record| record.issued.iter().any(|issued| issued.port.is_some())) {
            // The agent must refuse the job's handle from now on.
            self.processes.tell_agent(runtime.path());
        }
        if let Err(error) = removed {
            log.log(&format!("{} (job {job}, epilog)", Failure::from(error)));
        }
    }

    /// Takes the job's lock and kills a worker that still runs. A process that was stopped while it held the lock must
    /// not prevent the removal of secrets: after [`LOCK`], the epilog continues without the lock, and all later writes
    /// of that process fail.
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

/// Checks a submission in srun, sbatch and salloc: refuses invalid options, and returns the changes that remove an
/// outer job's variables from the environment.
///
/// # Errors
/// The failure, if the options are refused.
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

/// Returns whether a job can get credentials, before its rule is known.
fn may_want(config: &Config, request: &Request) -> bool {
    request.is_explicit() || (config.may_be_auto() && *request == Request::Unstated)
}

/// Returns whether a job gets the credentials of a grant: by request, or automatically.
fn has(grant: &Grant, site: &Site, request: &Request) -> bool {
    request.is_explicit() || grant.is_auto(&site.config)
}

/// Returns the part of the site's budget that an exchange may take.
fn budget(site: &Site) -> Duration {
    let timeout = site.config.timeout();
    timeout.saturating_sub(TO_TELL.min(timeout / 4)).max(LEAST)
}

#[cfg(test)]
mod tests;
