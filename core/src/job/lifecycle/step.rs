//! The start of a step: takes the job's credentials, waits for them or obtains them, and sets the step's environment.
#![forbid(unsafe_code)]

use super::{LOCK, asked, budget, has, may_want};
use crate::job::containers::UsersOwn;
use crate::job::issuance::{Issuance, TellEnded, save};
use crate::job::node::{Host, Job, Node, Outcome, StepDirectory};
use crate::job::places;
use crate::plan::audit::Event;
use crate::plan::environment::{self, Change, Environment};
use crate::plan::record::{Issued, JobRecord};
use crate::plan::report::Failure;
use crate::policy::config::{Config, ConfigError};
use crate::policy::grant::Grant;
use crate::policy::request::{Options, Request};
use crate::policy::rules::Denial;
use crate::policy::site::Site;
use crate::words::names::StepId;
use crate::world::fs::RuntimeDirectory;

impl Node<'_> {
    /// Runs the start of a step, as root, before its tasks are forked.
    pub fn step(&self, host: &dyn Host, job: &Job<'_>, step: StepId) -> Outcome {
        if step == StepId::EXTERN {
            return Outcome::None;
        }
        let (outcome, changes) = match self.step_outcome(host, job, step) {
            Ok((directory, warnings, changes)) => (Outcome::Issued { directory, warnings }, changes),
            Err(outcome) => (outcome, plan(host, &Environment::new(), false)),
        };
        for change in changes {
            host.change(&change);
        }
        outcome
    }

    fn step_outcome(&self, host: &dyn Host, job: &Job<'_>, step: StepId) -> Result<Given, Outcome> {
        let config = Config::load(self.config_path);
        let configured = config.as_ref().ok().map(|config| config.runtime_dir.as_path());
        let runtime = places::of_job(self.default_dir, configured, job.id);
        let submitted = runtime.as_ref().and_then(|runtime| self.submitted(host, runtime, job));
        let request = Request::of_step(&host.options(), &host.inherited_options(), submitted.as_ref())
            .map_err(|error| Outcome::Failed { failure: error.into(), explicit: true })?;
        if request == Request::Refused {
            return Err(Outcome::None);
        }
        let explicit = request.is_explicit();
        let failed = |failure| Outcome::Failed { failure, explicit };
        let config = match config {
            Ok(config) => config,
            Err(error) => {
                let absent = matches!(error, ConfigError::Absent(_));
                let is_told = explicit || (!absent && Config::refused_but_auto(self.config_path));
                return Err(if is_told { failed(error.into()) } else { Outcome::None });
            }
        };
        if !may_want(&config, &request) {
            return Err(Outcome::None);
        }
        let site = Site::of(config).map_err(|error| failed(error.into()))?;
        let runtime = match runtime {
            Some(runtime) => runtime,
            None => places::open(self.default_dir, &site.config.runtime_dir).map_err(|error| failed(error.into()))?,
        };
        let record = self.record_of_step(&runtime, job).map_err(failed)?;
        let grant = match record.grant_for(&site, asked(&request)) {
            Ok(grant) if has(&grant, &site, &request) => grant,
            Ok(_) => return Err(Outcome::None),
            // Without a matching rule, a job that has requested nothing runs without a message. A job that had
            // credentials is told why it has none now.
            Err(Denial::NoRuleMatches { .. }) if !explicit && record.issued.is_empty() => return Err(Outcome::None),
            Err(denial) => return Err(failed(denial.into())),
        };
        let wanted = Wanted { site: &site, record: &record, grant: &grant, explicit };
        self.step_credentials(host, &runtime, job, step, &wanted).map_err(failed)
    }

    /// Returns the options of the job's submission, if its prolog saw them. If the prolog ran with the first step, it
    /// saw that step's options too. The step with exactly the recorded options removes its own from the record.
    fn submitted(&self, host: &dyn Host, runtime: &RuntimeDirectory, job: &Job<'_>) -> Option<Options> {
        let parse =
            |text: Option<Vec<u8>>| JobRecord::parse(&text?).filter(|record: &JobRecord| record.facts.uid == job.uid);
        let record = parse(runtime.peek_record(job.id))?;
        if record.options_are_jobs || record.options == Options::default() {
            return Some(record.options);
        }
        let all = host.options();
        let own = Options::own(&all, &host.inherited_options());
        if record.options != all {
            // The recorded options may be the job's or another step's. A step with its own options does not need them.
            return (own == Options::default()).then_some(record.options);
        }
        let locked = runtime.lock_existing(job.id, LOCK).ok()??;
        let mut record = parse(locked.read_record().ok()?)?;
        if !record.options_are_jobs {
            record.options = record.options.without(&own);
            record.options_are_jobs = true;
            // If this fails, the next such step repeats it.
            let _ = save(&locked, &record);
        }
        Some(record.options)
    }

    fn step_credentials(
        &self,
        host: &dyn Host,
        runtime: &RuntimeDirectory,
        job: &Job<'_>,
        step: StepId,
        wanted: &Wanted<'_>,
    ) -> Result<Given, Failure> {
        let Wanted { site, record, grant, explicit } = *wanted;
        let _told = TellEnded(host, runtime);
        let (facts, run, event, audit) = (&record.facts, record.run, Event::Issuance, site.config.audit);
        let issuance = Issuance { node: self, log: host, runtime, facts, run, event, audit };
        let mut issued = issuance.obtain(site, grant, budget(site))?;
        // The agent reads the records while this process reads the user's configuration.
        let asked = issued.port.as_ref().and_then(|_| self.processes.ask_agent(runtime.path()));
        let step = step.to_string();
        let enroot = runtime.path_of_step(job.id, &step);
        let wanted = |issued: &Issued| environment::environment(issued, &runtime.path_of(&issued.place), &enroot);
        let clients_look = environment::clients_look(&wanted(&issued), &|name| host.variable(name));
        let users = issuance.users_own(host, job, clients_look);
        let prepare = |issued: &Issued| {
            let changes = plan(host, &wanted(issued), explicit);
            (issuance.prepare_containers(site, &step, &users, issued, &changes), changes)
        };
        let (mut prepared, mut changes) = prepare(&issued);
        let port = issued.port.as_ref().map(|port| port.number);
        issued = issuance.serve(site, issued, asked)?;
        if issued.port.as_ref().map(|port| port.number) != port {
            (prepared, changes) = prepare(&issued);
        }
        let mut warnings = Vec::from_iter(host.pyxis_is_earlier().then(|| issuance.tell_order()).flatten());
        warnings.extend(users.iter().filter_map(UsersOwn::warning));
        if let Err(failure) = prepared {
            host.log(&format!("{failure} (job {})", job.id));
            changes = plan(host, &environment::without_enroot(wanted(&issued)), explicit);
            warnings.push(failure);
        }
        let directory = StepDirectory { runtime_dir: runtime.path().to_owned(), job: job.id, step };
        Ok((directory, warnings, changes))
    }

    /// Returns the job's record, and creates it if no prolog has.
    fn record_of_step(&self, runtime: &RuntimeDirectory, job: &Job<'_>) -> Result<JobRecord, Failure> {
        let is_this = |record: &JobRecord| (record.facts.uid, record.facts.job) == (job.uid, job.id);
        let known = |text: Option<Vec<u8>>| JobRecord::parse(&text?).filter(is_this);
        if let Some(record) = known(runtime.peek_record(job.id)) {
            return Ok(record);
        }
        let facts = (job.facts)()?;
        let locked = runtime.lock(job.id, LOCK)?;
        if let Some(record) = known(locked.read_record()?) {
            return Ok(record);
        }
        let record = JobRecord::new(facts, Options::default(), self.processes.generation());
        save(&locked, &record)?;
        Ok(record)
    }
}

/// What a step should get.
struct Wanted<'a> {
    site: &'a Site,
    record: &'a JobRecord,
    grant: &'a Grant,
    /// Whether the user requested it.
    explicit: bool,
}

/// What a step gets: its enroot configuration, warnings for the user, and changes of its environment.
type Given = (StepDirectory, Vec<Failure>, Vec<Change>);

fn plan(host: &dyn Host, wanted: &Environment, explicit: bool) -> Vec<Change> {
    environment::changes(wanted, explicit, &|name| host.variable(name))
}
