use std::time::Duration;

use crate::google::{Endpoint, Fault, Google, Options, Source, Times};
use crate::world::World;

fn world() -> World {
    World::new(Google::start(Options::default()), &Source::file("/t"), |text| text)
}

#[test]
fn a_quota_that_is_used_up_for_seconds_is_waited_for() {
    let world = world();
    world.google.inject(Endpoint::Sts, Fault::throttled(None), Times::N(3));
    world.google.inject(Endpoint::Impersonation, Fault::status(429), Times::N(3));
    world.exchange(&world.client(None)).unwrap();
    assert_eq!(*world.clock.pauses.borrow(), [Duration::from_millis(3500); 6]);
}

#[test]
fn a_quota_that_stays_used_up_is_reported_in_googles_words() {
    let world = world();
    world.google.inject(Endpoint::Sts, Fault::throttled(None), Times::Forever);
    let error = world.exchange(&world.client(None)).unwrap_err().to_string();
    let expected = "HTTP 429 quota_exceeded: The request was throttled due to rate limit: sts.googleapis.com/requests. Please retry after a few seconds.";
    assert!(error.ends_with(expected), "{error}");
    // As many pauses of 3.5 seconds as fit into a minute.
    assert_eq!(world.clock.pauses.borrow().len(), 17);
}
