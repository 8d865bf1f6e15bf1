//! Credentials for one job: decided, exchanged, published, remembered.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use crate::job::lifecycle::{Host, Node, PATIENCE, Site};
use crate::plan::environment::{self, ACCESS_TOKEN_FILE, CREDENTIALS_FILE, HANDLE_FILE, STATUS_FILE};
use crate::plan::record::{Endpoint, Issued, JobRecord};
use crate::plan::report::Failure;
use crate::policy::config::{ConfigError, Delivery};
use crate::policy::facts::JobFacts;
use crate::policy::rules::{self, Grant};
use crate::words::names::{Identity, ServiceAccountEmail};
use crate::words::time::rfc3339;
use crate::world::fs::{Lock, NewFile, Place, RuntimeDirectory};

/// How many ports a step tries that other programs are faster to take.
const PORTS: usize = 5;

/// A job whose lock is held.
pub(crate) struct Issuance<'a> {
    pub(crate) node: &'a Node<'a>,
    pub(crate) host: &'a dyn Host,
    pub(crate) site: &'a Site,
    pub(crate) runtime: &'a RuntimeDirectory,
    pub(crate) lock: &'a Lock,
    pub(crate) record: JobRecord,
    /// What an exchange may take.
    pub(crate) budget: Duration,
}

impl Issuance<'_> {
    /// What the prolog's worker does. A failure stays in the record, where the step finds it.
    pub(crate) fn work(&mut self, asked: Option<&ServiceAccountEmail>) {
        self.record.worker = Some(self.node.processes.this());
        // Without a record of it the epilog could not end it.
        if self.save().is_err() {
            return;
        }
        if let Ok((Issued { endpoint: Some(_), .. }, _)) = self.obtain(asked) {
            // From here it starts outside of the job's cgroup. If it cannot, the step says why.
            let _ = self.node.processes.wake_agent(&self.site.config);
        }
    }

    /// The credentials for a request: those of the record while they are fresh, else new ones.
    pub(crate) fn obtain(&mut self, asked: Option<&ServiceAccountEmail>) -> Result<(Issued, Place), Failure> {
        let (site, record, exchanger) = (self.site, &self.record, self.node.exchanger);
        let grant = rules::decide(site.config.rules.as_deref(), &site.default_identity(), &record.facts, asked)?;
        let identity = grant.identity();
        let place = self.place(identity);
        if let Some(issued) = record.issued_for(identity).filter(|issued| issued.is_fresh(exchanger.now())) {
            return Ok((issued.clone(), place));
        }
        if let Some(failure) = record.recent_failure(identity, exchanger.now()) {
            return Err(failure.clone());
        }
        let issued = self.issue(&grant, &place)?;
        Ok((issued, place))
    }

    /// New credentials for an identity that has some: the agent's refresh.
    pub(crate) fn renew(&mut self, identity: &Identity) -> Result<Issued, Failure> {
        let (site, record) = (self.site, &self.record);
        let default = site.default_identity();
        let asked = identity.service_account().filter(|_| *identity != default);
        let grant = rules::decide(site.config.rules.as_deref(), &default, &record.facts, asked)?;
        let place = self.place(identity);
        let old = record.issued_for(identity).map(|issued| issued.token().clone());
        let issued = self.issue(&grant, &place)?;
        if let Some(old) = old {
            let facts = &self.record.facts;
            self.runtime.replace_in_trees(
                facts.job,
                facts.uid,
                facts.gid,
                old.expose(),
                issued.token().expose(),
                self.lock,
            )?;
        }
        Ok(issued)
    }

    /// Where an identity's files are: the first one's in the job's directory itself.
    fn place(&self, identity: &Identity) -> Place {
        let below = identity.service_account().filter(|_| !self.record.is_first(identity)).cloned();
        Place { job: self.record.facts.job, below }
    }

    /// Exchanges, publishes and remembers.
    fn issue(&mut self, grant: &Grant, place: &Place) -> Result<Issued, Failure> {
        let (exchanger, identity) = (self.node.exchanger, grant.identity());
        let begun = exchanger.elapsed();
        let result = exchanger.exchange(self.site, grant, &self.record.facts, self.budget).and_then(|mut issued| {
            if self.site.config.delivery == Delivery::Agent {
                let old = self.record.issued_for(identity).and_then(|old| old.endpoint.clone());
                issued.endpoint = Some(old.map_or_else(|| self.new_endpoint(&BTreeSet::new()), Ok)?);
            }
            self.publish(place, &issued)?;
            Ok(issued)
        });
        let duration = exchanger.elapsed().saturating_sub(begun);
        self.host.log(&line(&self.record.facts, identity, &result, duration));
        match result {
            Ok(issued) => {
                self.record.remember(issued.clone());
                self.save()?;
                Ok(issued)
            }
            Err(failure) => {
                self.record.remember_failure(identity, failure.clone(), exchanger.now());
                self.publish_failure(place, identity, &failure);
                // Where even that cannot be written, the step asks again and tells the failure that it sees.
                let _ = self.save();
                Err(failure)
            }
        }
    }

    /// Has the agent serve what was issued. A port that another program took before the agent could is given up, with
    /// the handle: no step begins with a port that is another user's.
    pub(crate) fn serve(&mut self, mut issued: Issued, place: &Place) -> Result<Issued, Failure> {
        let mut given_up = BTreeSet::new();
        while given_up.len() < PORTS {
            let Some(endpoint) = &issued.endpoint else { return Ok(issued) };
            if self.node.processes.wake_agent(&self.site.config)?.contains(&endpoint.port) {
                return Ok(issued);
            }
            given_up.insert(endpoint.port);
            issued.endpoint = Some(self.new_endpoint(&given_up)?);
            self.publish(place, &issued)?;
            self.record.remember(issued.clone());
            self.save()?;
        }
        Err(Failure::of_agent("other programs take the ports of 127.0.0.1 before it can"))
    }

    /// An endpoint at a port that no other job has, or is about to have: the agent listens there only later, and jobs
    /// that start at the same time would find the same port free.
    fn new_endpoint(&mut self, given_up: &BTreeSet<u16>) -> Result<Endpoint, Failure> {
        let _turn = self.runtime.turn(PATIENCE)?;
        let jobs = self.runtime.jobs().into_iter().filter(|job| *job != self.record.facts.job);
        let others = jobs.filter_map(|job| JobRecord::parse(&self.runtime.peek_record(job)?));
        let mut taken: BTreeSet<u16> = others.flat_map(|other| other.ports().collect::<Vec<_>>()).collect();
        taken.extend(self.record.ports().chain(given_up.iter().copied()));
        let endpoint = self.node.processes.endpoint(&taken)?;
        self.record.reserved.push(endpoint.port);
        self.save()?;
        Ok(endpoint)
    }

    /// Says once for a job, and in slurmd's log, that plugstack.conf has the plugins in the wrong order.
    pub(crate) fn order_of_plugins(&mut self) -> Option<Failure> {
        if self.record.told_order || !self.host.pyxis_is_earlier() {
            return None;
        }
        let failure = Failure::of_order();
        self.host.log(&failure.to_string());
        self.record.told_order = true;
        // If it is not remembered it is told again.
        let _ = self.save();
        Some(failure)
    }

    fn save(&self) -> Result<(), Failure> {
        Ok(self.runtime.write_record(self.record.facts.job, self.lock, self.record.to_text().expose())?)
    }

    fn publish(&self, place: &Place, issued: &Issued) -> Result<(), Failure> {
        let Site { config, configuration } = self.site;
        let portable = match &issued.endpoint {
            Some(endpoint) => environment::served(configuration, endpoint, &self.runtime.path_of(place))
                .map_err(|error| error.to_string())
                .and_then(|served| served.portable(None)),
            None => configuration.portable(issued.identity.service_account()),
        };
        let credentials = portable.map_err(|problem| {
            Failure::from(ConfigError::Content { path: config.credential_configuration.clone(), problem })
        })?;
        let credentials = format!("{credentials:#}\n");
        let status = environment::status(issued, None);
        let mut files = vec![
            NewFile { name: ACCESS_TOKEN_FILE, content: issued.token().expose() },
            NewFile { name: STATUS_FILE, content: &status },
            NewFile { name: CREDENTIALS_FILE, content: &credentials },
        ];
        if let Some(endpoint) = &issued.endpoint {
            files.push(NewFile { name: HANDLE_FILE, content: endpoint.handle.expose() });
        }
        let facts = &self.record.facts;
        Ok(self.runtime.publish(place, facts.uid, facts.gid, &files, self.lock)?)
    }

    /// Says beside an older access token why there is no newer one.
    fn publish_failure(&self, place: &Place, identity: &Identity, failure: &Failure) {
        let Some(old) = self.record.issued_for(identity) else { return };
        let (facts, status) = (&self.record.facts, environment::status(old, Some(failure)));
        let file = NewFile { name: STATUS_FILE, content: &status };
        // It is a help to people; what it tells is in the log as well.
        let _ = self.runtime.publish(place, facts.uid, facts.gid, &[file], self.lock);
    }
}

/// The line in slurmd's log for each issuance.
fn line(facts: &JobFacts, identity: &Identity, result: &Result<Issued, Failure>, duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let outcome = match result {
        Ok(issued) => {
            format!("outcome=issued duration={seconds:.3}s expiry={}", rfc3339(issued.expires_at))
        }
        Err(failure) => format!("outcome=failed duration={seconds:.3}s expiry=none {failure}"),
    };
    let identity = identity.service_account().map_or("federated", |email| email.as_str());
    format!("gcp-wif: issuance job={} uid={} identity={identity} {outcome}", facts.job, facts.uid)
}
