//! The real exchanger: the exchange in a child process of the hook's own.
#![forbid(unsafe_code)]

use std::time::Duration;

use once_cell::sync::OnceCell;
use serde::{Deserialize, Serialize};

use crate::exchange::run::{self, Clock};
use crate::exchange::subject_token::{Claims, SubjectToken};
use crate::exchange::{AccessToken, Exchange, Instant};
use crate::job::lifecycle::{Exchanger, Site};
use crate::plan::record::Issued;
use crate::plan::report::Failure;
use crate::policy::facts::JobFacts;
use crate::policy::rules::Grant;
use crate::words::names::Identity;
use crate::words::secret::Secret;
use crate::world::http::Client;
use crate::world::sys;

/// How much longer than its budget the child may take until it is killed: the time to read the certificates.
const GRACE: Duration = Duration::from_secs(1);

/// Exchanges in a child process.
#[derive(Debug, Default)]
pub struct Worker;

/// What the child tells its parent over the pipe between them.
#[derive(Serialize, Deserialize)]
enum Answer {
    Issued(Issued),
    Failed(Failure),
}

impl Exchanger for Worker {
    fn exchange(&self, site: &Site, grant: &Grant, facts: &JobFacts, budget: Duration) -> Result<Issued, Failure> {
        let answer = sys::in_child(budget + GRACE, || {
            let answer = match exchange(site, grant, facts, budget) {
                Ok(issued) => Answer::Issued(issued),
                Err(failure) => Answer::Failed(failure),
            };
            serde_json::to_vec(&answer).unwrap_or_default()
        })?;
        let answer = zeroize::Zeroizing::new(answer);
        match serde_json::from_slice(&answer) {
            Ok(Answer::Issued(issued)) => Ok(issued),
            Ok(Answer::Failed(failure)) => Err(failure),
            Err(_) => Err(sys::ChildError::Died("its answer is cut off".to_owned()).into()),
        }
    }

    fn now(&self) -> Instant {
        SystemClock.now()
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }
}

/// An OpenID token of a service account, got in a child process as well.
///
/// # Errors
/// The failure, ready to be told.
pub fn id_token(site: &Site, identity: &Identity, facts: &JobFacts, audience: &str) -> Result<Secret, Failure> {
    let answer = sys::in_child(site.config.timeout() + GRACE, || {
        let token = over_network(site, identity, facts, site.config.timeout(), Some(audience));
        serde_json::to_vec(&token.map(|(token, _)| token.token.expose().to_owned())).unwrap_or_default()
    })?;
    let answer = zeroize::Zeroizing::new(answer);
    let token: Result<String, Failure> =
        serde_json::from_slice(&answer).map_err(|_| sys::ChildError::Died("its answer is cut off".to_owned()))?;
    token.map(Secret::new)
}

/// One exchange over the network, in this process.
///
/// # Errors
/// The failure, ready to be told.
pub fn exchange(site: &Site, grant: &Grant, facts: &JobFacts, budget: Duration) -> Result<Issued, Failure> {
    let identity = grant.identity();
    let (token, claims) = over_network(site, identity, facts, budget, None)?;
    let name = match identity.service_account() {
        Some(email) => email.to_string(),
        None => claims.subject.unwrap_or_default(),
    };
    Ok(Issued::new(identity.clone(), name, token, SystemClock.now()))
}

fn over_network(
    site: &Site,
    identity: &Identity,
    facts: &JobFacts,
    budget: Duration,
    id_token_for: Option<&str>,
) -> Result<(AccessToken, Claims), Failure> {
    let configuration = &site.configuration;
    let client = Client::new(site.config.ca_certificates.as_deref(), site.config.proxy.as_deref())?;
    let subject_token = SubjectToken::read(configuration)?;
    let reason = format!("slurm job {} of user {}", facts.job, facts.user_text());
    let mut exchange = Exchange::new(configuration, &subject_token, identity, &site.config.scopes, reason);
    if let Some(audience) = id_token_for {
        exchange = exchange.for_id_token(audience);
    }
    let (clock, claims) = (SystemClock, subject_token.claims());
    let token = run::run(&mut exchange, &client, &clock, budget)
        .map_err(|error| Failure::of_exchange(&error, configuration, claims, identity, clock.now()))?;
    Ok((token, claims.clone()))
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        time::OffsetDateTime::now_utc().unix_timestamp()
    }

    fn elapsed(&self) -> Duration {
        static START: OnceCell<std::time::Instant> = OnceCell::new();
        START.get_or_init(std::time::Instant::now).elapsed()
    }

    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }

    fn jitter(&self) -> f64 {
        let mut bytes = [0; 4];
        // Without randomness there is no jitter, which is no reason to fail.
        let _ = getrandom::getrandom(&mut bytes);
        f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}
