//! Obtains credentials for a run of a job, stores them in the record, publishes the job's files, and has the agent
//! serve them.
//!
//! A process does not hold the job's lock during an exchange ([`crate::job::obtain`]). It stores and publishes the
//! token under the job's lock, and only if the job is still the same run.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use crate::exchange::Purpose;
use crate::job::node::{Exchanged, Log, Node, TokenRequest};
use crate::job::obtain::{Answer, Looked, Need, Obtain};
use crate::job::tell::tell;
use crate::job::wake::Asked;
use crate::plan::audit::{Entry, Event};
use crate::plan::enroot::credentials;
use crate::plan::environment::{self, ACCESS_TOKEN_FILE, CREDENTIALS_FILE, HANDLE_FILE, STATUS_FILE};
use crate::plan::record::{Issued, JobRecord, Metadata, Port, RunId, StepPart};
use crate::plan::report::Failure;
use crate::policy::config::{Audit, ConfigError, Delivery};
use crate::policy::facts::JobFacts;
use crate::policy::grant::Grant;
use crate::policy::site::Site;
use crate::tokens::Key;
use crate::words::google::Identity;
use crate::words::time::UnixSeconds;
use crate::world::fs::{FileError, FileProblem, KeptLock, LockedJob, NewFile, Place, RuntimeDirectory, Turn};

/// The number of ports that a step can lose to other programs before it fails.
const PORTS: usize = 5;
/// How long to wait for a job's lock, whose holders only write a few files.
pub(super) const LOCK: Duration = Duration::from_secs(5);
/// The minimum budget of an exchange, even after waiting for another process's exchange.
pub(super) const LEAST: Duration = Duration::from_secs(1);

/// On drop, logs the processes that were killed to make room in a runtime directory.
pub(super) struct TellEnded<'a>(pub(super) &'a dyn Log, pub(super) &'a RuntimeDirectory);

impl Drop for TellEnded<'_> {
    fn drop(&mut self) {
        for line in self.1.ended() {
            self.0.log(&format!("gcp-wif: files: {line}"));
        }
    }
}

/// The context for issuing credentials to a run of a job.
pub(super) struct Issuance<'a> {
    pub(super) node: &'a Node<'a>,
    pub(super) log: &'a dyn Log,
    pub(super) runtime: &'a RuntimeDirectory,
    pub(super) facts: &'a JobFacts,
    pub(super) run: RunId,
    /// The occasion, for the audit record.
    pub(super) event: Event,
    pub(super) audit: Audit,
}

/// When a process began to obtain credentials, and when the token was issued that the job had then.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    at: Duration,
    token: Option<UnixSeconds>,
}

impl Issuance<'_> {
    /// Returns the credentials for a grant: those in the record while they are fresh, or else credentials with a kept
    /// token or a new one.
    pub(super) fn obtain(&self, site: &Site, grant: &Grant, budget: Duration) -> Result<Issued, Failure> {
        let record = self.record()?;
        let issued = record.issued_for(grant.identity());
        if let Some(issued) = issued.filter(|issued| issued.token.is_fresh(self.node.clock.moment())) {
            self.heal(&record)?;
            return Ok(issued.clone());
        }
        let begun = self.begin(&record, grant);
        let (key, need) = (self.key(site, grant), Need::Begin(grant.delivery()));
        match self.at(&key, need).look(budget + LEAST)? {
            Looked::Known(answer) => self.take(Some(site), grant, begun, answer),
            Looked::Ask(lock) => {
                let waited = self.node.clock.elapsed().saturating_sub(begun.at);
                self.ask(site, grant, &key, lock, begun, budget.saturating_sub(waited).max(LEAST))
            }
            Looked::Busy => Err(Failure::of_wait()),
        }
    }

    /// Notes the start of an attempt to obtain credentials for a job with this record.
    pub(super) fn begin(&self, record: &JobRecord, grant: &Grant) -> Begun {
        let issued = record.issued_for(grant.identity());
        Begun { at: self.node.clock.elapsed(), token: issued.map(|issued| issued.token.issued_at) }
    }

    /// Returns the key of the kept token for a grant.
    pub(super) fn key(&self, site: &Site, grant: &Grant) -> Key {
        Key::new(self.facts.uid, grant, site)
    }

    /// Returns the value that looks up and obtains tokens with a key.
    pub(super) fn at<'b>(&'b self, key: &'b Key, need: Need<'b>) -> Obtain<'b> {
        Obtain { node: self.node, runtime: self.runtime, key, run: self.run, need }
    }

    /// Obtains new credentials from Google.
    pub(super) fn ask(
        &self,
        site: &Site,
        grant: &Grant,
        key: &Key,
        lock: KeptLock<'_>,
        begun: Begun,
        budget: Duration,
    ) -> Result<Issued, Failure> {
        // The logged duration is that of the exchange, without the wait for the lock.
        let begun = Begun { at: self.node.clock.elapsed(), ..begun };
        let request = TokenRequest { site, grant, purpose: Purpose::AccessToken, facts: self.facts };
        let exchange = |limits| self.node.exchanger.exchange(request, limits);
        let answer = self.at(key, Need::Begin(grant.delivery())).ask(lock, budget, exchange);
        self.take(Some(site), grant, begun, answer)
    }

    /// Stores and publishes a token. Logs the result and writes the job's status file.
    pub(super) fn take(
        &self,
        site: Option<&Site>,
        grant: &Grant,
        begun: Begun,
        answer: Answer,
    ) -> Result<Issued, Failure> {
        let Answer { result, source, is_told } = answer;
        let identity = grant.identity();
        let result = result.and_then(|exchanged| self.remember(site, grant, exchanged));
        let duration = self.node.clock.elapsed().saturating_sub(begun.at);
        let is_news = match &result {
            Ok((_, is_new)) => *is_new,
            Err(_) => !is_told,
        };
        let result = result.map(|(issued, _)| issued);
        if is_news {
            let outcome = result.as_ref().map(|issued| issued.token.expires_at);
            let JobFacts { job, uid, .. } = *self.facts;
            let entry = Entry { event: self.event, job, uid, identity, asked: None, source, outcome, duration };
            tell(self.log, self.runtime, self.audit, &entry, self.node.clock.now());
        }
        if let Err(failure) = &result {
            self.tell_status(identity, begun.token, failure);
        }
        result
    }

    /// Stores and publishes a token for a grant. The second value tells whether the token is new to the job.
    fn remember(&self, site: Option<&Site>, grant: &Grant, exchanged: Exchanged) -> Result<(Issued, bool), Failure> {
        let (locked, mut record) = self.lock()?;
        let Exchanged { name, token } = exchanged;
        let old = record.issued_for(grant.identity()).cloned();
        if let Some(old) = old.as_ref().filter(|old| old.token == token) {
            publish(&locked, &mut record)?;
            return Ok((old.clone(), false));
        }
        let (turn, issued) = match old {
            Some(old) => (None, Issued { grant: grant.clone(), name, token, is_published: false, ..old }),
            None => {
                let Some(site) = site else { return Err(Failure::internal()) };
                let (turn, port) = match grant.delivery() {
                    Delivery::Agent => {
                        let (turn, port) = self.new_port(&record, &BTreeSet::new())?;
                        (Some(turn), Some(port))
                    }
                    Delivery::Direct => (None, None),
                };
                let place = record.new_place(grant.identity());
                let credentials = self.credentials(site, &place, grant.identity(), port.as_ref())?;
                let (grant, metadata) = (grant.clone(), Metadata::new(site, grant.identity()));
                (turn, Issued { grant, place, name, token, port, credentials, metadata, is_published: false })
            }
        };
        give(&locked, &mut record, &issued, turn)?;
        Ok((issued, true))
    }

    /// Waits until the agent serves the credentials; `asked` is a request to the agent that is already under way. If
    /// another program has taken the port, the job gets another port and handle, because a step must not start with a
    /// port that another user has.
    pub(super) fn serve(&self, site: &Site, mut issued: Issued, mut asked: Option<Asked>) -> Result<Issued, Failure> {
        let mut given_up = BTreeSet::new();
        while given_up.len() < PORTS {
            let Some(port) = &issued.port else { return Ok(issued) };
            if self.node.processes.wake_agent(&site.config, self.runtime.path(), asked.take())?.contains(&port.number) {
                return Ok(issued);
            }
            given_up.insert(port.number);
            let (locked, mut record) = self.lock()?;
            // Another step of the job may have replaced the port already.
            let now = record.issued_for(issued.identity()).cloned().unwrap_or(issued);
            if now.port.as_ref().is_some_and(|port| given_up.contains(&port.number)) {
                let (turn, port) = self.new_port(&record, &given_up)?;
                let credentials = self.credentials(site, &now.place, now.identity(), Some(&port))?;
                issued = Issued { port: Some(port), credentials, is_published: false, ..now };
                give(&locked, &mut record, &issued, Some(turn))?;
            } else {
                issued = now;
            }
        }
        Err(Failure::of_agent("other programs take the ports of 127.0.0.1 before the agent can"))
    }

    /// Returns a port that no other job has. The caller holds the turn until the record has the port: the agent binds
    /// it only later, so jobs that start together would otherwise find the same port free.
    fn new_port(&self, record: &JobRecord, given_up: &BTreeSet<u16>) -> Result<(Turn, Port), Failure> {
        let turn = self.runtime.turn(LOCK)?;
        let jobs = self.runtime.jobs().into_iter().filter(|job| *job != self.facts.job);
        let others = jobs.filter_map(|job| JobRecord::parse(&self.runtime.peek_record(job)?));
        let mut taken: BTreeSet<u16> = others.flat_map(|other| other.ports().collect::<Vec<_>>()).collect();
        taken.extend(record.ports().chain(given_up.iter().copied()));
        Ok((turn, self.node.processes.new_port(&taken)?))
    }

    fn credentials(
        &self,
        site: &Site,
        place: &Place,
        identity: &Identity,
        port: Option<&Port>,
    ) -> Result<String, Failure> {
        let directory = self.runtime.path_of(place);
        environment::credentials(&site.configuration, identity, port, &directory).map_err(|problem| {
            ConfigError::Content { path: site.config.credential_configuration.clone(), problem }.into()
        })
    }

    /// Publishes files again if they are incomplete, because a process was killed, the disk was full, or the user
    /// changed a file.
    pub(super) fn heal(&self, record: &JobRecord) -> Result<(), Failure> {
        if is_whole(self.runtime, record) {
            return Ok(());
        }
        let (locked, mut record) = self.lock()?;
        publish(&locked, &mut record)
    }

    /// Like [`Self::heal`], but does nothing while another process holds the job's lock, because it may be publishing.
    pub(super) fn heal_if_idle(&self, record: &JobRecord) -> Result<(), Failure> {
        if is_whole(self.runtime, record) {
            return Ok(());
        }
        match self.runtime.lock_existing(self.facts.job, Duration::ZERO) {
            Ok(Some(locked)) => publish(&locked, &mut self.of_this_run(locked.read_record()?)?),
            Ok(None) => Ok(()),
            Err(error) if error.problem == FileProblem::Locked => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes to the status file why there is no newer token.
    fn tell_status(&self, identity: &Identity, before: Option<UnixSeconds>, failure: &Failure) {
        // If the job is over, it needs no status.
        let Ok((locked, record)) = self.lock() else { return };
        let Some(old) = record.issued_for(identity) else { return };
        if Some(old.token.issued_at) > before {
            // Another process has obtained a newer token meanwhile.
            return;
        }
        let status = environment::status(old, Some(failure));
        let file = NewFile { name: STATUS_FILE, content: &status, is_users: false };
        // If this fails, the failure is still in the log.
        let _ = locked.publish(&old.place, record.owner(), &[file]);
    }

    /// Logs and returns, once per job, the failure that plugstack.conf names the plugins in the wrong order.
    pub(super) fn tell_order(&self) -> Option<Failure> {
        let (locked, mut record) = self.lock().ok()?;
        if record.told_order {
            return None;
        }
        let failure = Failure::of_order();
        self.log.log(&failure.to_string());
        record.told_order = true;
        // If this fails, the warning is repeated.
        let _ = save(&locked, &record);
        Some(failure)
    }

    /// Stores this process as the job's worker, so that the epilog can kill it.
    pub(super) fn remember_worker(&self) -> Result<(), Failure> {
        let (locked, mut record) = self.lock()?;
        record.worker = Some(self.node.processes.this());
        save(&locked, &record)
    }

    /// Takes the job's lock and reads the record. Fails if the job is no longer the same run.
    pub(super) fn lock(&self) -> Result<(LockedJob<'_>, JobRecord), Failure> {
        let locked = self.runtime.lock_existing(self.facts.job, LOCK)?.ok_or_else(|| self.over())?;
        let record = self.of_this_run(locked.read_record()?)?;
        Ok((locked, record))
    }

    /// Reads the record without the lock.
    fn record(&self) -> Result<JobRecord, Failure> {
        self.of_this_run(self.runtime.peek_record(self.facts.job))
    }

    fn of_this_run(&self, text: Option<Vec<u8>>) -> Result<JobRecord, Failure> {
        let record = text.as_deref().and_then(JobRecord::parse);
        Ok(record.filter(|record| record.run == self.run).ok_or_else(|| self.over())?)
    }

    fn over(&self) -> FileError {
        FileError::new(&self.runtime.path_of_job(self.facts.job), FileProblem::Over)
    }
}

pub(super) fn save(locked: &LockedJob<'_>, record: &JobRecord) -> Result<(), Failure> {
    Ok(locked.write_record(record.to_text().expose())?)
}

/// Stores issued credentials in the record, which ends the turn for their port, and publishes them.
fn give(locked: &LockedJob<'_>, record: &mut JobRecord, issued: &Issued, turn: Option<Turn>) -> Result<(), Failure> {
    record.remember(issued.clone());
    save(locked, record)?;
    drop(turn);
    publish(locked, record)
}

/// Renders all files that do not yet contain the issued credentials from the record and the steps' parts, and marks the
/// credentials as published.
fn publish(locked: &LockedJob<'_>, record: &mut JobRecord) -> Result<(), Failure> {
    let owner = record.owner();
    for issued in record.issued.iter().filter(|issued| !is_whole_for(locked.runtime(), issued)) {
        let mut files = vec![
            NewFile { name: ACCESS_TOKEN_FILE, content: issued.token.secret().expose(), is_users: true },
            NewFile { name: CREDENTIALS_FILE, content: &issued.credentials, is_users: true },
        ];
        if let Some(port) = &issued.port {
            files.push(NewFile { name: HANDLE_FILE, content: port.handle.expose(), is_users: false });
        }
        let status = environment::status(issued, None);
        if !issued.is_published {
            files.push(NewFile { name: STATUS_FILE, content: &status, is_users: false });
        }
        locked.publish(&issued.place, owner, &files)?;
    }
    let renewed = |identity: &Identity| record.issued_for(identity).filter(|issued| !issued.is_published);
    for (step, part) in locked.parts() {
        let Some(part) = StepPart::parse(&part) else { continue };
        let Some(issued) = renewed(&part.identity) else { continue };
        let (content, _) = credentials::merge(&part.credentials, &part.hosts, issued.token.secret());
        let file = NewFile { name: credentials::FILE, content: content.expose(), is_users: false };
        locked.replace_in_step(&step, owner, &file)?;
    }
    if record.issued.iter().any(|issued| !issued.is_published) {
        record.issued.iter_mut().for_each(|issued| issued.is_published = true);
        save(locked, record)?;
    }
    Ok(())
}

/// Returns whether all files of a job are complete. Checks only the sizes of the user's files and never reads them.
fn is_whole(runtime: &RuntimeDirectory, record: &JobRecord) -> bool {
    record.issued.iter().all(|issued| is_whole_for(runtime, issued))
}

fn is_whole_for(runtime: &RuntimeDirectory, issued: &Issued) -> bool {
    let sizes =
        [(ACCESS_TOKEN_FILE, issued.token.secret().expose().len()), (CREDENTIALS_FILE, issued.credentials.len())];
    issued.is_published && runtime.have_sizes(&issued.place, &sizes)
}
