//! The life of a job on a node: what each hook does, and what a failure means.
//!
//! ```text
//! prolog (root)         sweep leftovers; record the job's facts; if credentials are asked for or automatic,
//!                       leave a worker behind that decides, exchanges and publishes the job's files
//! step start (root)     wait for the worker and take what it got, or do its work now; set the step's
//!                       environment
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

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exchange::credential_configuration::CredentialConfiguration;
use crate::job::issuance::Issuance;
use crate::job::processes::Processes;
use crate::job::sweep;
use crate::plan::environment::{self, Change, Environment};
use crate::plan::record::{Issued, JobRecord};
use crate::plan::report::Failure;
use crate::policy::config::{Config, ConfigError, DEFAULT_RUNTIME_DIR};
use crate::policy::facts::JobFacts;
use crate::policy::request::{Options, Request};
use crate::policy::rules::Grant;
use crate::words::names::{Identity, JobId, ServiceAccountEmail, StepId};
use crate::words::time::UnixSeconds;
use crate::world::fs::{Lock, RuntimeDirectory};

/// How long the epilog waits for a process that works on the same job.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// srun gives up on a step that does not start within MessageTimeout and BatchStartTimeout (`step_launch.c`), 20
/// seconds by default as is our budget: what is left of it tells the user why.
const TO_TELL: Duration = Duration::from_secs(3);
/// What a step that has waited for long still gets for an exchange of its own.
const LEAST: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// What a hook has of Slurm.
pub trait Host {
    /// The options of the step or job, whether typed or inherited.
    fn options(&self) -> Options;
    /// Those that the job was submitted with.
    fn inherited_options(&self) -> Options;
    /// A variable of the job's environment. What is not UTF-8 counts as the user's own.
    fn variable(&self, name: &str) -> Option<String>;
    /// Changes the job's environment.
    fn change(&self, change: &Change);
    /// All of the job's environment.
    fn environment(&self) -> Vec<(String, String)>;
    /// A line for slurmd's log.
    fn log(&self, line: &str);
    /// Whether plugstack.conf names pyxis before this plugin.
    fn pyxis_is_earlier(&self) -> bool;
}

/// Gets an access token for a grant.
pub trait Exchanger {
    /// Reads the subject token and exchanges it, within `budget`.
    ///
    /// # Errors
    /// The failure, ready to be told.
    fn exchange(&self, site: &Site, grant: &Grant, facts: &JobFacts, budget: Duration) -> Result<Issued, Failure>;
    /// Seconds since 1970, UTC.
    fn now(&self) -> UnixSeconds;
    /// Time since some fixed point, for durations.
    fn elapsed(&self) -> Duration;
}

/// The site configuration with the credential configuration that it names.
#[derive(Debug)]
pub struct Site {
    /// The site configuration.
    pub config: Config,
    /// Google's.
    pub configuration: CredentialConfiguration,
}

impl Site {
    /// Reads both.
    ///
    /// # Errors
    /// When one of them is refused.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let config = Config::load(path)?;
        let configuration = config.load_credential_configuration()?;
        Ok(Self { config, configuration })
    }

    /// The identity of a job that asks for no other.
    pub fn default_identity(&self) -> Identity {
        match &self.configuration.impersonation {
            Some(impersonation) => Identity::ServiceAccount(impersonation.service_account.clone()),
            None => Identity::Federated,
        }
    }
}

/// What became of a step's request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The step has no credentials, and nobody asked for them.
    #[default]
    None,
    /// It has them.
    Issued {
        /// The step's own directory, which goes with it.
        directory: StepDirectory,
        /// What does not concern the credentials themselves.
        warning: Option<Failure>,
    },
    /// It has none, and that is a failure.
    Failed {
        /// What failed.
        failure: Failure,
        /// Whether the user asked, so that the step must not run.
        explicit: bool,
    },
}

impl Outcome {
    /// The one line for the user, if there is something to tell.
    pub fn line(&self) -> Option<String> {
        match self {
            Self::None | Self::Issued { warning: None, .. } => None,
            Self::Issued { warning: Some(warning), .. } => Some(warning.to_string()),
            Self::Failed { failure, explicit: true } => Some(failure.to_string()),
            Self::Failed { failure, explicit: false } => Some(format!("{failure}; the job runs without credentials")),
        }
    }

    /// Whether the step's tasks must end before the user's command runs.
    pub fn ends_tasks(&self) -> bool {
        matches!(self, Self::Failed { explicit: true, .. })
    }
}

/// A directory of a step's own in its job's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepDirectory {
    runtime_dir: PathBuf,
    job: JobId,
    name: String,
}

/// A node: where its configuration is, and what it works with.
pub struct Node<'a> {
    /// The site configuration's path.
    pub config_path: &'a Path,
    /// Gets access tokens.
    pub exchanger: &'a dyn Exchanger,
    /// The node's processes.
    pub processes: &'a dyn Processes,
}

impl Node<'_> {
    /// The job's prolog.
    pub fn prolog(&self, host: &dyn Host, facts: JobFacts) {
        let job = facts.job;
        // A step's --no-gcp-wif within `salloc --gcp-wif` shows here as both: the step itself decides then.
        let request = host.options().request().unwrap_or(Request::Refused);
        match Site::load(self.config_path) {
            Err(ConfigError::Absent(_)) => {}
            Err(error) => host.log(&Failure::from(error).to_string()),
            Ok(site) => {
                let result = self.begin(host, &site, facts, request);
                if let Err(failure) = result {
                    host.log(&format!("{failure} (job {job})"));
                }
            }
        }
    }

    fn begin(&self, host: &dyn Host, site: &Site, facts: JobFacts, request: Request) -> Result<(), Failure> {
        let runtime = RuntimeDirectory::open(&site.config.runtime_dir)?;
        let generation = self.processes.generation();
        sweep::sweep(&runtime, facts.job, &generation, self.processes, self.exchanger.now());
        let job = facts.job;
        let lock = runtime.lock(job, patience(site))?;
        runtime.remove_files(job)?;
        let record = JobRecord::new(facts, generation);
        runtime.write_record(job, &lock, record.to_text().expose())?;
        if wants(site, &request) {
            let mut issuance =
                Issuance { node: self, host, site, runtime: &runtime, lock: &lock, record, budget: budget(site) };
            // The lock goes with the worker: it ends when the last process that holds it does.
            self.processes.detach(&mut || issuance.work(asked(&request)));
        }
        Ok(())
    }

    /// The start of a step, as root, before its tasks are forked.
    pub fn step(&self, host: &dyn Host, facts: JobFacts, step: StepId) -> Outcome {
        if step == StepId::EXTERN {
            return Outcome::None;
        }
        let explicit = host.options() != Options::default();
        let changes =
            |environment: &Environment| environment::changes(environment, explicit, &|name| host.variable(name));
        let (outcome, environment) = match Request::of_step(&host.options(), &host.inherited_options()) {
            Err(error) => (Outcome::Failed { failure: error.into(), explicit: true }, Environment::new()),
            Ok(request) => self.step_request(host, facts, step, &request, &changes),
        };
        for change in changes(&environment) {
            host.change(&change);
        }
        outcome
    }

    fn step_request(
        &self,
        host: &dyn Host,
        facts: JobFacts,
        step: StepId,
        request: &Request,
        changes: &dyn Fn(&Environment) -> Vec<Change>,
    ) -> (Outcome, Environment) {
        let nothing = (Outcome::None, Environment::new());
        if *request == Request::Refused {
            return nothing;
        }
        let explicit = request.is_explicit();
        let result = match Site::load(self.config_path) {
            Err(error) => {
                let absent = matches!(error, ConfigError::Absent(_));
                let told = explicit || (!absent && Config::refused_but_auto(self.config_path));
                if !told {
                    return nothing;
                }
                Err(Failure::from(error))
            }
            Ok(site) if wants(&site, request) => self.step_credentials(host, &site, facts, step, request, changes),
            Ok(_) => return nothing,
        };
        result.unwrap_or_else(|failure| (Outcome::Failed { failure, explicit }, Environment::new()))
    }

    fn step_credentials(
        &self,
        host: &dyn Host,
        site: &Site,
        facts: JobFacts,
        step: StepId,
        request: &Request,
        changes: &dyn Fn(&Environment) -> Vec<Change>,
    ) -> Result<(Outcome, Environment), Failure> {
        let job = facts.job;
        let runtime = RuntimeDirectory::open(&site.config.runtime_dir)?;
        let begun = self.exchanger.elapsed();
        let lock = runtime.lock(job, patience(site))?;
        let waited = self.exchanger.elapsed().saturating_sub(begun);
        let budget = budget(site).saturating_sub(waited).max(LEAST);
        let record = match runtime.read_record(job, &lock)?.as_deref().and_then(JobRecord::parse) {
            Some(record) if (record.facts.uid, record.facts.job) == (facts.uid, job) => record,
            _ => JobRecord::new(facts.clone(), self.processes.generation()),
        };
        let mut issuance = Issuance { node: self, host, site, runtime: &runtime, lock: &lock, record, budget };
        let (issued, place) = issuance.obtain(asked(request))?;
        let issued = issuance.serve(issued, &place)?;
        let name = format!("enroot-{step}");
        let enroot = runtime.path_of_tree(job, &name);
        let mut environment = environment::environment(&site.config, &issued, &runtime.path_of(&place), &enroot);
        let mut warning = issuance.order_of_plugins();
        if let Err(failure) = issuance.prepare_containers(&facts, &name, &issued, &changes(&environment)) {
            host.log(&format!("{failure} (job {job})"));
            environment = environment::without_enroot(environment);
            warning = Some(failure);
        }
        let directory = StepDirectory { runtime_dir: site.config.runtime_dir.clone(), job, name };
        Ok((Outcome::Issued { directory, warning }, environment))
    }

    /// The end of a step, as root: its own directory goes.
    pub fn step_exit(&self, host: &dyn Host, directory: &StepDirectory) {
        let StepDirectory { runtime_dir, job, name } = directory;
        let result = RuntimeDirectory::open(runtime_dir).and_then(|runtime| runtime.remove_tree(*job, name));
        if let Err(error) = result {
            host.log(&format!("{} (job {job}, {name})", Failure::from(error)));
        }
    }

    /// The end of the job's extern step. Under PrologFlags=RunInJob Slurm runs neither the prolog nor the epilog of a
    /// SPANK plugin (`spank.c`: only slurmd itself looks for them), and this step ends after all others.
    pub fn extern_exit(&self, host: &dyn Host, job: JobId) {
        let Ok(config) = Config::load(self.config_path) else { return };
        let Ok(runtime) = RuntimeDirectory::open(&config.runtime_dir) else { return };
        let record = runtime.peek_record(job).as_deref().and_then(JobRecord::parse);
        // What the prolog knows of a job only the prolog can have written: then the epilog will come, too.
        if record.is_some_and(|record| record.facts.placement.is_none()) {
            self.epilog(host, job);
        }
    }

    /// The job's epilog: nothing of the job stays. It works without a configuration, too.
    pub fn epilog(&self, host: &dyn Host, job: JobId) {
        let runtime_dir = match Config::load(self.config_path) {
            Ok(config) => config.runtime_dir,
            Err(_) => PathBuf::from(DEFAULT_RUNTIME_DIR),
        };
        if !runtime_dir.exists() {
            return;
        }
        let result = RuntimeDirectory::open(&runtime_dir).and_then(|runtime| {
            let _lock = self.last_lock(&runtime, job);
            let record = runtime.peek_record(job).as_deref().and_then(JobRecord::parse);
            let files = runtime.remove_files(job);
            let result = runtime.remove_record(job).and(files);
            if record.is_some_and(|record| record.issued.iter().any(|issued| issued.endpoint.is_some())) {
                // The handle dies with the job, not a moment later.
                self.processes.tell_agent(&runtime_dir);
            }
            result
        });
        if let Err(error) = result {
            host.log(&format!("{} (job {job}, epilog)", Failure::from(error)));
        }
    }

    /// The job's lock for the epilog, which ends the worker of a job that was over before it. Something that
    /// hangs must not keep the epilog from removing secrets, so it goes on without the lock after a while.
    fn last_lock(&self, runtime: &RuntimeDirectory, job: JobId) -> Option<Lock> {
        let mut tries = 0..PATIENCE.as_millis() / PAUSE.as_millis();
        loop {
            if let Ok(lock) = runtime.lock(job, PAUSE) {
                return Some(lock);
            }
            let record = runtime.peek_record(job).as_deref().and_then(JobRecord::parse);
            if let Some(worker) = record.and_then(|record| record.worker) {
                self.processes.end(worker);
            }
            tries.next()?;
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
    let request = Request::of_step(all, inherited)?;
    Ok((request, environment::changes(&Environment::new(), false, variable)))
}

fn asked(request: &Request) -> Option<&ServiceAccountEmail> {
    match request {
        Request::Wanted { service_account } => service_account.as_ref(),
        Request::Unstated | Request::Refused => None,
    }
}

fn wants(site: &Site, request: &Request) -> bool {
    request.is_explicit() || (site.config.auto && *request == Request::Unstated)
}

/// What an exchange may take of the site's budget.
fn budget(site: &Site) -> Duration {
    let timeout = site.config.timeout();
    timeout.saturating_sub(TO_TELL.min(timeout / 4))
}

/// How long a step waits for another process that works on the same job.
fn patience(site: &Site) -> Duration {
    budget(site) + LEAST
}

#[cfg(test)]
mod tests;
