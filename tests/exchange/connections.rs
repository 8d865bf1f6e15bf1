//! How many connections an exchange opens, when it opens them, and which of them it uses.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use gcp_wif_core::exchange::Leg;
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::world::http::{Request, Transport, TransportError};

use crate::google::{Certificate, Endpoint, Fault, Google, Options, Source, Times};
use crate::relay::{Manner, Relay};
use crate::world::World;

fn source() -> Source {
    Source::file("/t").secure()
}

fn google() -> Google {
    Google::start(Options::default())
}

fn https(google: &Google) -> SocketAddr {
    google.https_url().trim_start_matches("https://").parse().unwrap()
}

/// A world where IAM Credentials has this address and its own name, as at the real Google.
fn world(google: Google, iam: SocketAddr) -> World {
    let own = format!("url\": \"{}/v1/projects", google.https_url());
    let other = format!("url\": \"https://localhost:{}/v1/projects", iam.port());
    World::new(google, &source(), |text| {
        assert!(text.contains(&own), "{text}");
        text.replace(&own, &other)
    })
}

fn two_servers() -> World {
    let google = google();
    let iam = https(&google);
    world(google, iam)
}

#[test]
fn the_second_connection_is_open_before_the_first_answer() {
    let world = two_servers();
    world.google.inject(Endpoint::Sts, Fault::after_connections(2), Times::Once);
    world.exchange(&world.client(None)).unwrap();
    // And it is used.
    assert_eq!((world.google.connections().len(), world.google.requests().len()), (2, 2));
}

#[test]
fn the_second_connection_is_opened_ahead_through_a_proxy_as_well() {
    let world = two_servers();
    let proxy = Relay::start(Manner::Proxy);
    world.google.inject(Endpoint::Sts, Fault::after_connections(2), Times::Once);
    world.exchange(&world.client(Some(&format!("http://{}", proxy.address())))).unwrap();
    assert_eq!((world.google.connections().len(), world.google.requests().len()), (2, 2));
    let (mut targets, port) = (proxy.targets(), https(&world.google).port());
    targets.sort();
    assert_eq!(targets, [format!("127.0.0.1:{port}"), format!("localhost:{port}")]);
}

#[test]
fn one_server_needs_one_connection() {
    let world = World::new(google(), &source(), |text| text);
    world.exchange(&world.client(None)).unwrap();
    assert_eq!((world.google.connections().len(), world.google.requests().len()), (1, 2));
}

#[test]
fn direct_federation_needs_one_connection() {
    let world = World::new(google(), &source().direct(), |text| text);
    world.exchange(&world.client(None)).unwrap();
    assert_eq!((world.google.connections().len(), world.google.requests().len()), (1, 1));
}

#[test]
fn what_could_not_be_opened_ahead_is_opened_by_the_request() {
    let google = google();
    let relay = Relay::start(Manner::DropsFirst(https(&google)));
    let world = world(google, relay.address());
    world.exchange(&world.client(None)).unwrap();
    assert_eq!((relay.targets().len(), world.google.requests().len()), (2, 2));
    assert!(world.clock.pauses.borrow().is_empty(), "it counts as a try");
}

#[test]
fn a_connection_that_was_closed_meanwhile_is_opened_again() {
    let world = two_servers();
    // Longer than a connection counts as open unseen, even if the thread that opened it gets no processor for a while.
    let earlier = Duration::from_secs(2);
    world.google.inject(Endpoint::Sts, Fault::closing_others_after_connections(2, earlier), Times::Once);
    world.exchange(&world.client(None)).unwrap();
    assert_eq!((world.google.connections().len(), world.google.requests().len()), (3, 2));
    assert!(world.clock.pauses.borrow().is_empty(), "it counts as a try");
}

#[test]
fn what_the_user_reads_is_the_requests_own_error() {
    let iam = Google::start(Options { certificate: Certificate::WrongName, ..Options::default() });
    let world = world(google(), https(&iam));
    let error = world.exchange(&world.client(None)).unwrap_err();
    assert_eq!((error.leg, world.google.requests().len()), (Leg::Impersonation, 1));
    assert!(error.to_string().contains("TLS: invalid peer certificate"), "{error}");
}

#[test]
fn the_first_failure_is_reported_while_the_second_server_is_silent() {
    // Only the kernel accepts connections here.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = world(google(), silent.local_addr().unwrap());
    world.google.inject(Endpoint::Sts, Fault::status(403), Times::Once);
    let error = world.exchange(&world.client(None)).unwrap_err();
    assert_eq!(error.leg, Leg::TokenExchange);
    // The thread still waits for the handshake, because nobody waited for the thread.
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(silent.accept()));
    let (stream, _) = told.recv_timeout(Duration::from_secs(20)).unwrap().unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut hello = [0; 16 << 10];
    let mut reading = || (&stream).read(&mut hello);
    while reading().is_ok_and(|length| length > 0) {}
    assert_eq!(reading().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_request_whose_time_is_over_opens_no_connection() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let google = google();
    let client = World::new(google, &source(), |text| text).client(None);
    let endpoint = gcp_wif_core::words::google::Endpoint::parse(&format!("https://{}/", silent.local_addr().unwrap()));
    let (content_type, headers, body) = ("text/plain", Vec::new(), Secret::new(String::new()));
    let request = Request { endpoint: endpoint.unwrap(), bearer: None, content_type, headers, body };
    client.open_ahead(&request.endpoint, Duration::from_millis(300));
    let error = client.send(&request, Duration::from_millis(200)).unwrap_err();
    assert_eq!(error, TransportError::Timeout);
    silent.set_nonblocking(true).unwrap();
    assert!(silent.accept().is_ok(), "it was not opened ahead");
    assert_eq!(silent.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
