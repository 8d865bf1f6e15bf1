//! The clocks.
#![forbid(unsafe_code)]

use std::time::Duration;

use rustix::time::ClockId;

use crate::words::time::{Moment, UnixSeconds};

/// The time source of an exchange. Tests replace it.
pub trait Clock {
    /// Returns the time of day.
    fn now(&self) -> UnixSeconds;
    /// Returns the time since boot, which is not affected when the clock is set.
    fn elapsed(&self) -> Duration;
    /// Sleeps for the duration of `pause`.
    fn sleep(&self, pause: Duration);
    /// Returns a random number in the range 0..1, for jitter.
    fn jitter(&self) -> f64;

    /// Returns the current time by both clocks.
    fn moment(&self) -> Moment {
        Moment { unix: self.now(), since_boot: i64::try_from(self.elapsed().as_secs()).unwrap_or(i64::MAX) }
    }
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixSeconds {
        time::OffsetDateTime::now_utc().unix_timestamp()
    }

    fn elapsed(&self) -> Duration {
        let time = rustix::time::clock_gettime(ClockId::Boottime);
        Duration::try_from(time).unwrap_or_default()
    }

    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }

    fn jitter(&self) -> f64 {
        let mut bytes = [0; 4];
        // Without random bytes there is no jitter, which is acceptable.
        let _ = getrandom::getrandom(&mut bytes);
        f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}
