//! Obtains a token for a user's grant: the one that the node keeps, or a new one from an exchange.
//!
//! ```text
//! look ── a kept token is sufficient, or a failure holds ────────────────────► known
//!   │
//!   └─ lock ── look again: another process was faster ──────────────────────► known
//!        │
//!        └─ exchange ── keep the token or the failure ── unlock
//! ```
//!
//! A prolog's worker, a step and the agent all use this module, so of all processes for a user's jobs only one at a
//! time performs the same exchange.
#![forbid(unsafe_code)]

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::job::node::{Exchanged, Limits, Node};
use crate::plan::audit::Source;
use crate::plan::kept::{Kept, KeptToken};
use crate::plan::record::RunId;
use crate::plan::report::{Blame, Failure};
use crate::policy::config::Delivery;
use crate::tokens::{Key, Token};
use crate::world::clock::Clock;
use crate::world::fs::{FileError, KeptLock, RuntimeDirectory, TryLock};

/// The pause between two attempts to take the lock.
const LOOK: Duration = Duration::from_millis(5);
/// The number of attempts after which the deadline of the lock's holder is checked.
const LOOKS: u32 = 64;
/// How much longer than its budget the lock's holder may take, to read the certificates and to write files.
const GRACE: Duration = Duration::from_secs(3);

/// How long to wait for an absent subject token, whose volume may be mounted shortly after slurmd starts.
const PATIENCE: Duration = Duration::from_secs(3);

/// The requirement for a kept token.
#[derive(Debug, Clone, Copy)]
pub enum Need<'a> {
    /// A job or step can start with it.
    Begin(Delivery),
    /// It replaces this token, which is due for a refresh.
    Replace(&'a Token),
    /// It can be handed out to a client.
    HandOut,
}

/// A token or a failure, with its source.
#[derive(Debug)]
pub struct Answer {
    /// The token, or the failure.
    pub result: Result<Exchanged, Failure>,
    /// The source.
    pub source: Source,
    /// Whether a process has already logged this failure for this run.
    pub is_told: bool,
}

impl Answer {
    /// Creates a failure that happened before any exchange.
    pub fn of_nobody(failure: Failure) -> Self {
        Self { result: Err(failure), source: Source::None, is_told: false }
    }
}

/// The result of [`Obtain::look`].
#[derive(Debug)]
pub enum Looked<'a> {
    /// There is a token or a failure.
    Known(Answer),
    /// There is neither. This process has the lock and performs the exchange.
    Ask(KeptLock<'a>),
    /// Another process is performing the exchange.
    Busy,
}

/// Looks up and obtains tokens for a run of a job.
#[derive(Clone, Copy)]
pub struct Obtain<'a> {
    /// The node.
    pub node: &'a Node<'a>,
    /// The runtime directory with the kept tokens.
    pub runtime: &'a RuntimeDirectory,
    /// The properties of the token.
    pub key: &'a Key,
    /// The run of a job.
    pub run: RunId,
    /// The requirement for a kept token.
    pub need: Need<'a>,
}

impl<'a> Obtain<'a> {
    /// Looks for a sufficient token or a failure that holds. If there is neither, takes the lock for an exchange, and
    /// waits at most `limit` for another process's exchange.
    ///
    /// # Errors
    /// When the directory of the kept token cannot be used.
    pub fn look(&self, limit: Duration) -> Result<Looked<'a>, FileError> {
        let (end, name) = (Instant::now() + limit, self.key.name());
        let mut place = self.runtime.kept_place(&name)?;
        if let Some(answer) = self.known(&self.parse(place.read())) {
            return Ok(Looked::Known(answer));
        }
        for look in 1.. {
            place = match place.try_lock()? {
                TryLock::Locked(lock) => match self.known(&self.parse(lock.read())) {
                    Some(answer) => {
                        lock.release();
                        return Ok(Looked::Known(answer));
                    }
                    None => return Ok(Looked::Ask(lock)),
                },
                TryLock::Gone => self.runtime.kept_place(&name)?,
                TryLock::Busy(place) => {
                    if look % LOOKS == 0 {
                        place.end_late_lock(self.node.clock.moment().since_boot)?;
                    }
                    if Instant::now() >= end {
                        break;
                    }
                    sleep(LOOK);
                    place
                }
            };
        }
        Ok(Looked::Busy)
    }

    /// Returns what is kept, without locking: the sufficient token or the failure that holds, and the last token if it
    /// is unexpired.
    ///
    /// # Errors
    /// When the directory of the kept token cannot be used.
    pub fn kept(&self) -> Result<(Option<Answer>, Option<Token>), FileError> {
        let kept = self.parse(self.runtime.kept_place(&self.key.name())?.read());
        let now = self.node.clock.moment();
        let living = kept.token(|token| token.lives(now)).map(|kept| kept.token.clone());
        Ok((self.known(&kept), living))
    }

    /// Performs the exchange within `budget`, and keeps its result.
    pub fn ask(
        &self,
        lock: KeptLock<'_>,
        budget: Duration,
        exchange: impl FnOnce(Limits) -> Result<Exchanged, Failure>,
    ) -> Answer {
        let clock = self.node.clock;
        let until = clock.elapsed().saturating_add(budget + GRACE).as_secs();
        // If this fails, no process takes the lock from this one if it hangs.
        let _ = lock.say_until(i64::try_from(until).unwrap_or(i64::MAX));
        let parse = || self.parse(lock.read());
        // If another process has just waited in vain for the subject token, do not wait again.
        let patience =
            if parse().failure(clock.moment()).is_some() { Duration::ZERO } else { PATIENCE.min(budget / 2) };
        let result = exchange(Limits { budget, patience });
        let (mut kept, asked_by) = (parse(), self.run);
        match &result {
            Ok(Exchanged { name, token }) => {
                kept.keep(KeptToken { name: name.clone(), token: token.clone(), asked_by });
            }
            Err(failure) => kept.keep_failure(failure.clone(), clock.moment(), asked_by),
        }
        // If this fails, on a full disk for example, each job performs its own exchange.
        let _ = lock.write(kept.to_text().expose());
        lock.release();
        Answer { result, source: Source::Google, is_told: false }
    }

    fn parse(&self, text: Result<Option<Vec<u8>>, FileError>) -> Kept {
        Kept::parse(text.ok().flatten().as_deref(), self.key)
    }

    fn known(&self, kept: &Kept) -> Option<Answer> {
        let now = self.node.clock.moment();
        let will_do = |token: &Token| match self.need {
            Need::Begin(delivery) => token.can_begin(now, delivery),
            Need::HandOut => token.can_be_handed_out(now),
            Need::Replace(old) => token.secret() != old.secret() && token.can_begin(now, Delivery::Agent),
        };
        let source = |asked_by| if asked_by == self.run { Source::Google } else { Source::Kept };
        if let Some(kept) = kept.token(will_do) {
            let exchanged = Exchanged { name: kept.name.clone(), token: kept.token.clone() };
            return Some(Answer { result: Ok(exchanged), source: source(kept.asked_by), is_told: false });
        }
        // A failure on this node does not hold for other jobs, because it may have been fixed.
        let failed = kept.failure(now).filter(|failed| matches!(failed.failure.blame, Blame::Google { .. }))?;
        let (source, is_told) = (source(failed.asked_by), failed.asked_by == self.run);
        Some(Answer { result: Err(failed.failure.clone()), source, is_told })
    }
}

/// Removes kept tokens that have expired, except those that another process has locked.
pub fn sweep(clock: &dyn Clock, runtime: &RuntimeDirectory) {
    let now = clock.moment();
    // What cannot be read at this moment, for want of a descriptor or memory, may be of use later.
    let is_useless =
        |text: Result<Option<Vec<u8>>, FileError>| text.is_ok_and(|text| Kept::is_useless(text.as_deref(), now));
    for name in runtime.kept() {
        // If something fails here, the next sweep tries again.
        let Ok(place) = runtime.kept_place(&name) else { continue };
        if !is_useless(place.read()) {
            continue;
        }
        if let Ok(TryLock::Locked(lock)) = place.try_lock() {
            if is_useless(lock.read()) {
                let _ = lock.remove();
            } else {
                lock.release();
            }
        }
    }
}
