//! The clocks.
#![forbid(unsafe_code)]

use std::time::Duration;

use rustix::time::ClockId;

use crate::words::time::{Moment, UnixSeconds};

/// Time as an exchange needs it.
pub trait Clock {
    /// The time of day.
    fn now(&self) -> UnixSeconds;
    /// Time since the machine was started, which no clock step changes.
    fn elapsed(&self) -> Duration;
    /// Waits.
    fn sleep(&self, pause: Duration);
    /// A number for jitter, from 0 up to and without 1.
    fn jitter(&self) -> f64;

    /// Now, by both clocks.
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
        // Without randomness there is no jitter, which is no reason to fail.
        let _ = getrandom::getrandom(&mut bytes);
        f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
    }
}
