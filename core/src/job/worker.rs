//! The real exchangers: [`Worker`] runs in a child process, for hooks; [`Direct`] runs in the calling thread, for the
//! agent.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::exchange::credential_configuration::CredentialConfiguration;
use crate::exchange::run;
use crate::exchange::subject_token::SubjectToken;
use crate::exchange::{Exchange, Wanted};
use crate::job::node::{Exchanged, Exchanger, Limits, TokenRequest};
use crate::plan::report::Failure;
use crate::tokens::Token;
use crate::world::clock::{Clock, SystemClock};
use crate::world::http::Sessions;
use crate::world::{fs, sys};

/// How much longer than its budget the child may take before it is killed, to read the certificates.
const GRACE: Duration = Duration::from_secs(1);

/// The size limit of the subject token file, in bytes. Google accepts JWTs of a few kilobytes only.
const LONGEST_SUBJECT_TOKEN: u64 = 64 << 10;

/// Exchanges in a child process.
#[derive(Debug, Default)]
pub struct Worker;

/// The child's answer, which it writes to a pipe.
#[derive(Serialize, Deserialize)]
enum Answer {
    Exchanged { name: String, token: Token },
    Failed(Failure),
}

impl Exchanger for Worker {
    fn exchange(&self, request: TokenRequest<'_>, limits: Limits) -> Result<Exchanged, Failure> {
        let answer = sys::in_child(limits.budget + GRACE, || {
            let answer = match exchange(&Sessions::new(), request, limits) {
                Ok(Exchanged { name, token }) => Answer::Exchanged { name, token },
                Err(failure) => Answer::Failed(failure),
            };
            serde_json::to_vec(&answer).unwrap_or_default()
        })?;
        let answer = Zeroizing::new(answer);
        match serde_json::from_slice(&answer) {
            Ok(Answer::Exchanged { name, token }) => Ok(Exchanged { name, token }),
            Ok(Answer::Failed(failure)) => Err(failure),
            Err(_) => Err(sys::ChildError::Died("its answer is cut off".to_owned()).into()),
        }
    }
}

/// Exchanges in the calling thread and resumes TLS sessions of earlier exchanges. The agent uses it, because a process
/// with threads must not fork.
#[derive(Debug, Default)]
pub struct Direct {
    sessions: Sessions,
}

impl Direct {
    /// Creates an exchanger without TLS sessions.
    pub const fn new() -> Self {
        Self { sessions: Sessions::new() }
    }
}

impl Exchanger for Direct {
    fn exchange(&self, request: TokenRequest<'_>, limits: Limits) -> Result<Exchanged, Failure> {
        exchange(&self.sessions, request, limits)
    }
}

/// Reads the subject token from the file that the credential configuration names, and waits up to `patience` if the
/// file is absent. The file is read for each exchange, because the kubelet replaces it long before it expires.
///
/// # Errors
/// When the file cannot be read or does not contain a JWT.
pub fn read_subject_token(
    configuration: &CredentialConfiguration,
    patience: Duration,
) -> Result<SubjectToken, Failure> {
    let path = &configuration.subject_token_file;
    let content = fs::read_projected(path, LONGEST_SUBJECT_TOKEN, patience).map_err(Failure::of_subject_token)?;
    SubjectToken::parse(&Zeroizing::new(content), &configuration.subject_token_format)
        .map_err(|problem| Failure::of_subject_token(format_args!("{}: {problem}", path.display())))
}

/// Performs an exchange in this process.
///
/// # Errors
/// The failure, as it is shown to the user.
fn exchange(sessions: &Sessions, request: TokenRequest<'_>, limits: Limits) -> Result<Exchanged, Failure> {
    let TokenRequest { site, grant, purpose, facts } = request;
    let configuration = &site.configuration;
    let client = sessions.client(site.config.ca_certificates.as_deref(), site.config.proxy.as_deref())?;
    let begun = SystemClock.elapsed();
    let subject_token = read_subject_token(configuration, limits.patience)?;
    let budget = limits.budget.saturating_sub(SystemClock.elapsed().saturating_sub(begun));
    let reason = format!("slurm job {} of user {}", facts.job, facts.user_text());
    let identity = grant.identity();
    let wanted = Wanted { identity, scopes: grant.scopes(), lifetime: grant.lifetime() };
    let mut exchange = Exchange::new(configuration, &subject_token, wanted, reason).for_purpose(purpose);
    let (clock, claims) = (SystemClock, subject_token.claims());
    let token = run::run(&mut exchange, &client, &clock, budget)
        .map_err(|error| Failure::of_exchange(&error, configuration, claims, identity, clock.now()))?;
    let name = match identity.service_account() {
        Some(email) => email.to_string(),
        None => claims.name(),
    };
    Ok(Exchanged { name, token: Token::new(token, clock.moment()) })
}
