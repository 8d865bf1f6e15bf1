//! Drives an exchange: retries with full jitter, all within one deadline.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::{AccessToken, Exchange, ExchangeError, Next, Problem};
use crate::world::clock::Clock;
use crate::world::http::{Transport, TransportError};

/// Tries of one request. A service that is down rarely comes back within the budget, so more would not help.
const TRIES: u32 = 4;
/// The first pause is up to this long; each further one up to twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// A try takes at most this part of the budget, so that a server that hangs can be asked again.
const PART_OF_BUDGET: u32 = 2;

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
    loop {
        if let Next::Done(token) = exchange.next() {
            return Ok(token);
        }
        send(exchange, transport, clock, budget, end)?;
    }
}

/// Sends the exchange's next request until the answer is a success.
fn send(
    exchange: &mut Exchange<'_>,
    transport: &dyn Transport,
    clock: &dyn Clock,
    budget: Duration,
    end: Duration,
) -> Result<(), ExchangeError> {
    let mut longest_pause = FIRST_PAUSE;
    for attempt in 1.. {
        let Next::Send(_, request) = exchange.next() else { break };
        let left = end.saturating_sub(clock.elapsed());
        if left.is_zero() {
            return Err(exchange.error(Problem::Transport(TransportError::Timeout)));
        }
        let limit = if attempt < TRIES { left.min(budget / PART_OF_BUDGET) } else { left };
        let result = match transport.send(&request, limit) {
            Ok(response) => exchange.receive(&response, clock.now()),
            Err(error) => Err(exchange.error(Problem::Transport(error))),
        };
        let Err(error) = result else { break };
        let pause = pause(&error, longest_pause, clock);
        longest_pause = (longest_pause * 2).min(LONGEST_PAUSE);
        let in_time = clock.elapsed() + pause < end;
        if attempt == TRIES || !error.is_transient() || !in_time {
            return Err(error);
        }
        clock.sleep(pause);
    }
    Ok(())
}

/// Full jitter spreads the retries of a thousand nodes that begin at the same moment; the server's own wish is
/// a lower bound.
fn pause(error: &ExchangeError, longest: Duration, clock: &dyn Clock) -> Duration {
    let jittered = longest.mul_f64(clock.jitter());
    error.retry_after().map_or(jittered, |seconds| Duration::from_secs(seconds) + jittered)
}

#[cfg(test)]
mod tests;
