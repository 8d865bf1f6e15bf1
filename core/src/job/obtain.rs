//! An access token for a user's grant: the one that is kept on the node, or a new one.
//!
//! ```text
//! look ── one is kept that will do, or a failure holds ──────────────────────► known
//!   │
//!   └─ lock ── look again: another process was first ───────────────────────► known
//!        │
//!        └─ ask Google ── keep the token or the failure ── unlock
//! ```
//!
//! A prolog's worker, a step and the agent all come here, so that of all jobs of a user only one process asks at a time.
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

/// The pause between two looks whether the lock is free.
const LOOK: Duration = Duration::from_millis(5);
/// After so many looks the holder of the lock may be late.
const LOOKS: u32 = 64;
/// How much longer than its budget the holder of the lock may take: the time to read the certificates, and to write.
const GRACE: Duration = Duration::from_secs(3);

/// How long to wait for a subject token that is not there: its volume may be mounted a moment later than slurmd starts.
const PATIENCE: Duration = Duration::from_secs(3);

/// Which of the tokens that are kept will do.
#[derive(Debug, Clone, Copy)]
pub enum Need<'a> {
    /// One with which a job can begin.
    Begin(Delivery),
    /// Another one than this, which is due.
    Replace(&'a Token),
    /// One that a client which asks for it gets.
    HandOut,
}

/// A token or a failure, and where it comes from.
#[derive(Debug)]
pub struct Answer {
    /// The token, or why there is none.
    pub result: Result<Exchanged, Failure>,
    /// Where it comes from.
    pub source: Source,
    /// Whether a process has told the log of this failure for this run before.
    pub is_told: bool,
}

impl Answer {
    /// A failure for which nobody was asked.
    pub fn of_nobody(failure: Failure) -> Self {
        Self { result: Err(failure), source: Source::None, is_told: false }
    }
}

/// What comes of a look.
#[derive(Debug)]
pub enum Looked<'a> {
    /// Somebody was first.
    Known(Answer),
    /// This process has the right to ask Google.
    Ask(KeptLock<'a>),
    /// Another process is asking Google.
    Busy,
}

/// Looks for a token of one run of a job.
#[derive(Clone, Copy)]
pub struct Obtain<'a> {
    /// The node.
    pub node: &'a Node<'a>,
    /// Where tokens are kept.
    pub runtime: &'a RuntimeDirectory,
    /// What is asked for.
    pub key: &'a Key,
    /// For which run of a job.
    pub run: RunId,
    /// Which of those that are kept will do.
    pub need: Need<'a>,
}

impl<'a> Obtain<'a> {
    /// Looks for a token that will do or a failure that holds, and for the right to ask Google if there is neither.
    /// Waits for another process that is asking, at most for `limit`.
    ///
    /// # Errors
    /// When the place where it is kept cannot be used.
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

    /// What is kept, without asking anybody: the token that will do or the failure that holds, and the last token for as
    /// long as it lives.
    ///
    /// # Errors
    /// When the place where it is kept cannot be used.
    pub fn kept(&self) -> Result<(Option<Answer>, Option<Token>), FileError> {
        let kept = self.parse(self.runtime.kept_place(&self.key.name())?.read());
        let now = self.node.clock.moment();
        let living = kept.token(|token| token.lives(now)).map(|kept| kept.token.clone());
        Ok((self.known(&kept), living))
    }

    /// Asks Google within `budget`, and keeps what comes of it.
    pub fn ask(
        &self,
        lock: KeptLock<'_>,
        budget: Duration,
        exchange: impl FnOnce(Limits) -> Result<Exchanged, Failure>,
    ) -> Answer {
        let clock = self.node.clock;
        let until = clock.elapsed().saturating_add(budget + GRACE).as_secs();
        // If it cannot be written, nobody takes the right away from a process that hangs.
        let _ = lock.say_until(i64::try_from(until).unwrap_or(i64::MAX));
        let parse = || self.parse(lock.read());
        // Somebody has just waited in vain; whoever was next meanwhile does not do so again.
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
        // On a full disk each job asks for itself.
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
        // What is wrong on this node is looked at again by each job: it may be mended by now.
        let failed = kept.failure(now).filter(|failed| matches!(failed.failure.blame, Blame::Google { .. }))?;
        let (source, is_told) = (source(failed.asked_by), failed.asked_by == self.run);
        Some(Answer { result: Err(failed.failure.clone()), source, is_told })
    }
}

/// Removes what is kept and has ended. What another process works on is left alone.
pub fn sweep(clock: &dyn Clock, runtime: &RuntimeDirectory) {
    let now = clock.moment();
    let is_useless = |text: Result<Option<Vec<u8>>, FileError>| Kept::is_useless(text.ok().flatten().as_deref(), now);
    for name in runtime.kept() {
        // If something here fails, the next sweep tries it again.
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
