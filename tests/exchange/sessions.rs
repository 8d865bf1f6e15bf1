//! TLS sessions that a later exchange resumes.

use std::fs;
use std::time::Duration;

use gcp_wif_core::world::http::Sessions;
use rustls::HandshakeKind::{Full, Resumed};

use crate::google::{Google, Options, Source};
use crate::relay::{Manner, Relay};
use crate::world::World;

fn world() -> World {
    World::new(Google::start(Options::default()), &Source::file("/t").secure(), |text| text)
}

impl World {
    fn exchange_over(&self, sessions: &Sessions) {
        self.exchange(&sessions.client(Some(&self.authorities()), None).unwrap()).unwrap();
    }
}

#[test]
fn a_later_exchange_resumes_and_keeps_no_connection() {
    let world = world();
    let sessions = Sessions::new();
    for _ in 0..3 {
        world.exchange_over(&sessions);
    }
    assert_eq!(world.google.connections(), [Some(Full), Some(Resumed), Some(Resumed)]);
    assert!(world.google.wait_until_closed(Duration::from_secs(20)));
    // Through a proxy, the server is the same.
    let proxy = Relay::start(Manner::Proxy);
    let url = format!("http://{}", proxy.address());
    world.exchange(&sessions.client(Some(&world.authorities()), Some(&url)).unwrap()).unwrap();
    assert_eq!((world.google.connections()[3], proxy.targets().len()), (Some(Resumed), 1));
}

#[test]
fn an_exchange_without_the_sessions_resumes_nothing() {
    let world = world();
    world.exchange_over(&Sessions::new());
    world.exchange_over(&Sessions::new());
    world.exchange(&world.client(None)).unwrap();
    assert_eq!(world.google.connections(), [Some(Full); 3]);
}

#[test]
fn other_authorities_end_the_sessions() {
    let world = world();
    let sessions = Sessions::new();
    world.exchange_over(&sessions);
    let stranger = Google::start(Options::default());
    // One more.
    let both = format!("{}{}", world.google.ca_certificate(), stranger.ca_certificate());
    fs::write(world.authorities(), both).unwrap();
    world.exchange_over(&sessions);
    assert_eq!(world.google.connections(), [Some(Full); 2]);
    // No longer Google's.
    fs::write(world.authorities(), stranger.ca_certificate()).unwrap();
    let error = world.exchange(&sessions.client(Some(&world.authorities()), None).unwrap()).unwrap_err();
    assert!(error.to_string().contains("TLS: invalid peer certificate"), "{error}");
}
