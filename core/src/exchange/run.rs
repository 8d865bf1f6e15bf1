//! Drives an exchange over a transport, with retries and a deadline.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::{AccessToken, Exchange, ExchangeError, Next, Problem};
use crate::world::clock::Clock;
use crate::world::http::{Transport, TransportError};

/// The number of attempts for one request. A service that is down rarely recovers within the budget, so more would not
/// help.
const TRIES: u32 = 4;
/// The upper limit of the first pause. It doubles with each further pause.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The shortest pause after a throttled request. Google's quotas are per minute, and its error text asks to retry
/// "after a few seconds". Throttling does not mean that the service is down, so it does not count as an attempt.
const THROTTLED_PAUSE: Duration = Duration::from_secs(2);
/// The range of the jitter in pauses after throttled requests.
const THROTTLED_SPREAD: Duration = Duration::from_secs(3);

/// Runs an exchange to its end.
///
/// # Errors
/// The last error: either it is not transient, or the attempts or the budget are used up.
pub fn run(
    exchange: &mut Exchange<'_>,
    transport: &dyn Transport,
    clock: &dyn Clock,
    budget: Duration,
) -> Result<AccessToken, ExchangeError> {
    let end = clock.elapsed() + budget;
    if let Some(endpoint) = exchange.afterwards() {
        // Connect to the second server during the first request, which saves two round trips. If both endpoints are on
        // one server, both requests use this connection.
        transport.open_ahead(&endpoint, budget / 2);
    }
    loop {
        if let Next::Done(token) = exchange.next() {
            return Ok(token);
        }
        send(exchange, transport, clock, end)?;
    }
}

/// Sends the exchange's next request until it succeeds.
fn send(
    exchange: &mut Exchange<'_>,
    transport: &dyn Transport,
    clock: &dyn Clock,
    end: Duration,
) -> Result<(), ExchangeError> {
    let mut tries = 0;
    let mut limit = None;
    while let Next::Send(_, request) = exchange.next() {
        let left = end.saturating_sub(clock.elapsed());
        if left.is_zero() {
            return Err(exchange.error(Problem::Transport(TransportError::Timeout)));
        }
        let this = if tries + 1 == TRIES { left } else { limit.take().unwrap_or(left / 2).min(left) };
        let result = match transport.send(&request, this) {
            Ok(response) => exchange.receive(&response, clock.now()),
            Err(error) => Err(exchange.error(Problem::Transport(error))),
        };
        let Err(error) = result else { break };
        if !error.is_throttled() {
            tries += 1;
        }
        // If the server hangs, the next attempt may take as long as this one.
        limit = matches!(error.problem, Problem::Transport(_)).then_some(this);
        let Some(pause) = pause(&error, tries, clock.jitter(), end.saturating_sub(clock.elapsed())) else {
            return Err(error);
        };
        clock.sleep(pause);
    }
    Ok(())
}

/// Returns how long to wait before the same request is sent again, or `None` if the error is final. `tries` is the
/// number of failed attempts without throttled ones, `jitter` is in the range 0..1, and `left` is the rest of the
/// budget. A pause that exceeds the rest is not started, so that the user sees the error at once.
///
/// The jitter spreads the retries of a thousand nodes that start at the same time. The server's Retry-After is a lower
/// bound.
fn pause(error: &ExchangeError, tries: u32, jitter: f64, left: Duration) -> Option<Duration> {
    let (shortest, spread) = if error.is_throttled() {
        (THROTTLED_PAUSE, THROTTLED_SPREAD)
    } else if error.is_transient() && tries < TRIES {
        (Duration::ZERO, FIRST_PAUSE * 2_u32.pow(tries.saturating_sub(1)))
    } else {
        return None;
    };
    let asked = Duration::from_secs(error.retry_after().unwrap_or(0));
    let pause = shortest.max(asked).saturating_add(spread.mul_f64(jitter));
    (pause < left).then_some(pause)
}

#[cfg(test)]
mod tests;
