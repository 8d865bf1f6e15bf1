//! The clocks.
#![forbid(unsafe_code)]

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::words::time::UnixSeconds;

/// Time as an exchange needs it.
pub trait Clock {
    /// The time of day.
    fn now(&self) -> UnixSeconds;
    /// Time since some fixed point, which no clock step changes.
    fn elapsed(&self) -> Duration;
    /// Waits.
    fn sleep(&self, pause: Duration);
    /// A number for jitter, from 0 up to and without 1.
    fn jitter(&self) -> f64;
}

/// The system's clocks.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixSeconds {
        time::OffsetDateTime::now_utc().unix_timestamp()
    }

    fn elapsed(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
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
