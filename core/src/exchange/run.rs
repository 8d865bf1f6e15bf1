//! Drives an exchange over a transport: one decision after each error, and a driver that follows it.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::{AccessToken, Exchange, ExchangeError, Next, Problem};
use crate::world::clock::Clock;
use crate::world::http::{Transport, TransportError};

/// Tries of one request. A service that is down rarely comes back within the budget, so more would not help.
const TRIES: u32 = 4;
/// The first pause is up to this long; each further one up to twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Google counts requests by the minute and asks a throttled client to come back "after a few seconds". That a quota
/// is used up says nothing about the service, so these requests are not counted as tries.
const THROTTLED_PAUSE: Duration = Duration::from_secs(2);
/// The pauses of throttled clients differ by up to this much.
const THROTTLED_SPREAD: Duration = Duration::from_secs(3);

/// Carries an exchange out.
///
/// # Errors
/// The last error: one that another try cannot mend, or the one after which tries or budget were used up.
pub fn run(
    exchange: &mut Exchange<'_>,
    transport: &dyn Transport,
    clock: &dyn Clock,
    budget: Duration,
) -> Result<AccessToken, ExchangeError> {
    let end = clock.elapsed() + budget;
    if let Some(endpoint) = exchange.afterwards() {
        // Two round trips less: TCP and TLS of the second server go on while the first one answers. Where one server
        // has both endpoints, the first request takes this connection, and the second one takes it again.
        transport.open_ahead(&endpoint, budget / 2);
    }
    loop {
        if let Next::Done(token) = exchange.next() {
            return Ok(token);
        }
        send(exchange, transport, clock, end)?;
    }
}

/// Sends the exchange's next request until the answer is a success.
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
        // A server that hangs is asked again, for as long as before.
        limit = matches!(error.problem, Problem::Transport(_)).then_some(this);
        let Some(pause) = pause(&error, tries, clock.jitter(), end.saturating_sub(clock.elapsed())) else {
            return Err(error);
        };
        clock.sleep(pause);
    }
    Ok(())
}

/// How long to wait after an error until the same request is sent again; none if the error is final. `tries` counts
/// the failed ones so far, throttled ones excepted, `jitter` is from 0 to 1, `left` is what remains of the budget: a
/// pause that would use it up is not begun, so that the user hears of the error at once.
///
/// The jitter spreads the retries of a thousand nodes that begin at the same moment. A server's own wish (Retry-After)
/// is a lower bound.
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
