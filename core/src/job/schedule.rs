//! When the agent refreshes what: what is due, and how long a token is left alone after a try.
//!
//! All pauses are by the machine's own clock, which nobody sets: after a clock was set back by two hours, a pause of a
//! minute still is one.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::job::refresh::{Due, Refreshed};
use crate::plan::report::Failure;
use crate::words::time::{Moment, UnixSeconds};

/// A failed refresh is tried again after so many seconds, and after twice as long each further time.
const FIRST_PAUSE: i64 = 5;
const LONGEST_PAUSE: i64 = 60;
/// The pause while another process gets a token for the same identity.
const BUSY_PAUSE: i64 = 1;

/// What the agent has tried.
#[derive(Debug, Default)]
pub struct Schedule(BTreeMap<Due, Tried>);

/// What is under way, or has been tried.
#[derive(Debug, Clone, Copy)]
struct Tried {
    /// When it may be tried again, in seconds since the boot; none while it is under way.
    again: Option<i64>,
    /// The pause after a failure.
    pause: i64,
}

impl Schedule {
    /// Begins what is due of all that is served, each with the time of day when it is ([`Token::due`]). Brings what to
    /// refresh now, and how long nothing else is due, at most `longest`. Nothing begins again before [`Self::ended`] tells
    /// its end.
    ///
    /// [`Token::due`]: crate::tokens::Token::due
    pub fn begin(&mut self, served: Vec<(Due, UnixSeconds)>, now: Moment, longest: Duration) -> (Vec<Due>, Duration) {
        self.0.retain(|tried, _| served.iter().any(|(due, _)| due == tried));
        let (mut begun, mut next) = (Vec::new(), longest);
        for (due, at) in served {
            let tried = self.0.get(&due).copied();
            let left = at.saturating_sub(now.unix);
            let left = match tried.map(|tried| tried.again) {
                Some(None) => continue,
                Some(Some(again)) => left.max(again.saturating_sub(now.since_boot)),
                None => left,
            };
            if left > 0 {
                next = next.min(Duration::from_secs(left.unsigned_abs()));
                continue;
            }
            let pause = tried.map_or(FIRST_PAUSE, |tried| (tried.pause * 2).min(LONGEST_PAUSE));
            self.0.insert(due.clone(), Tried { again: None, pause });
            begun.push(due);
        }
        (begun, next)
    }

    /// Tells the end of a refresh: how it went, or none if it was not even tried. Until the record shows another token,
    /// this one is not tried sooner, whatever the refresh returned.
    pub fn ended(&mut self, due: Due, how: Option<&Result<Refreshed, Failure>>, now: Moment) {
        let pause = self.0.get(&due).map_or(FIRST_PAUSE, |tried| tried.pause);
        let this = match how {
            Some(Ok(Refreshed::Busy)) => BUSY_PAUSE,
            Some(Ok(Refreshed::Done | Refreshed::NotDue)) => FIRST_PAUSE,
            Some(Err(_)) | None => pause,
        };
        self.0.insert(due, Tried { again: Some(now.since_boot.saturating_add(this)), pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::record::RunId;
    use crate::testing;
    use crate::words::names::JobId;

    const LOOK: Duration = Duration::from_secs(15);

    /// A machine that was started at 0, and whose clock was set by so much since.
    fn at(since_boot: i64, set: i64) -> Moment {
        Moment { unix: since_boot + set, since_boot }
    }

    fn job(number: u32) -> Due {
        let identity = testing::issued("t", 1).identity().clone();
        Due { job: JobId(number), run: RunId::new(), identity, issued_at: 1000 }
    }

    fn failed() -> Result<Refreshed, Failure> {
        Err(Failure::internal())
    }

    #[test]
    fn what_is_due_begins_once_and_the_next_look_is_when_something_is() {
        let (mut schedule, first, second) = (Schedule::default(), job(1), job(2));
        let served = || vec![(first.clone(), 2800), (second.clone(), 2810)];
        assert_eq!(schedule.begin(served(), at(2700, 0), LOOK), (vec![], LOOK));
        assert_eq!(schedule.begin(served(), at(2795, 0), LOOK), (vec![], Duration::from_secs(5)));
        assert_eq!(schedule.begin(served(), at(2800, 0), LOOK), (vec![first.clone()], Duration::from_secs(10)));
        assert_eq!(schedule.begin(served(), at(2801, 0), LOOK), (vec![], Duration::from_secs(9)));
        // A pause after success as well, in case the record is not read again at once.
        schedule.ended(first.clone(), Some(&Ok(Refreshed::Done)), at(2801, 0));
        assert_eq!(schedule.begin(served(), at(2805, 0), LOOK), (vec![], Duration::from_secs(1)));
        assert_eq!(schedule.begin(served(), at(2806, 0), LOOK).0, vec![first.clone()]);
        schedule.ended(first.clone(), Some(&Ok(Refreshed::Busy)), at(2807, 0));
        assert_eq!(schedule.begin(served(), at(2808, 0), LOOK).0, vec![first.clone()]);
    }

    #[test]
    fn pauses_after_failures_grow_to_a_minute_and_begin_anew_with_another_token() {
        let (mut schedule, due, mut now) = (Schedule::default(), job(1), 2800);
        let mut pauses = Vec::new();
        for _ in 0..6 {
            assert_eq!(schedule.begin(vec![(due.clone(), 2800)], at(now, 0), LOOK).0, vec![due.clone()]);
            let how = failed();
            // It makes no difference if not even a thread is found.
            schedule.ended(due.clone(), (pauses.len() % 2 == 0).then_some(&how), at(now, 0));
            let (begun, pause) = schedule.begin(vec![(due.clone(), 2800)], at(now, 0), Duration::MAX);
            assert_eq!(begun, vec![]);
            pauses.push(pause.as_secs());
            now += pause.as_secs() as i64;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        let other = Due { issued_at: now, ..due };
        assert_eq!(schedule.begin(vec![(other.clone(), now + 9)], at(now + 9, 0), LOOK).0, vec![other]);
    }

    #[test]
    fn a_clock_that_was_set_neither_lengthens_a_pause_nor_ends_it() {
        for set in [-7200, 7200] {
            let (mut schedule, due) = (Schedule::default(), job(1));
            // A token from before the clock was set is due at once.
            let served = |now: Moment| vec![(due.clone(), now.unix)];
            assert_eq!(schedule.begin(served(at(2800, 0)), at(2800, 0), LOOK).0, vec![due.clone()]);
            schedule.ended(due.clone(), Some(&failed()), at(2800, 0));
            let (then, later) = (at(2801, set), at(2805, set));
            assert_eq!(schedule.begin(served(then), then, LOOK), (vec![], Duration::from_secs(4)), "{set}");
            assert_eq!(schedule.begin(served(later), later, LOOK).0, vec![due.clone()], "{set}");
        }
    }
}
