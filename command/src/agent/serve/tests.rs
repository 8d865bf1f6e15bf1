use std::path::Path;

use super::*;
use crate::agent::journal::Journal;
use crate::agent::served::tests::{served, token_of};
use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::policy::facts::JobFacts;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::time::UnixSeconds;

const GET: &str =
    "GET /computeMetadata/v1/instance/service-accounts/default/token HTTP/1.1\r\nMetadata-Flavor: Google\r\n";

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// Builds the credentials of a job of this process's user.
fn ours() -> Served {
    let uid = rustix::process::geteuid().as_raw();
    of_user(uid, served())
}

fn of_user(uid: u32, served: Served) -> Served {
    let facts = JobFacts { uid, ..served.facts };
    Served { facts, token: token_of("ya29.t", 0, UnixSeconds::MAX), ..served }
}

fn workplace() -> Rc<RefCell<Workplace>> {
    let place = || "/nonexistent".into();
    let journal = Journal::new(Path::new("/nonexistent"), None, LogLevel::Error);
    Rc::new(RefCell::new(Workplace { config_path: place(), runtime_dir: place(), journal }))
}

/// Serves one port, chosen by the kernel.
async fn ports(served: Served) -> (Ports, u16) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut ports = Ports::new(Sockets::from([(port, listener.into())]), Watcher::default(), workplace());
    assert_eq!(ports.set(BTreeMap::from([(port, served)])).await, [(port, Event::Served)]);
    (ports, port)
}

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

/// Sends a request with additional headers, and reads the response.
async fn ask(stream: &mut TcpStream, port: u16, headers: &str) -> String {
    stream.write_all(format!("{GET}Host: 127.0.0.1:{port}\r\n{headers}\r\n").as_bytes()).await.unwrap();
    let mut bytes = [0; 4096];
    let length = stream.read(&mut bytes).await.unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn the_users_requests_are_answered_unless_they_come_from_a_page_or_a_proxy() {
    run(async {
        let (_ports, port) = ports(ours()).await;
        // A header that Node's fetch adds.
        for header in ["", "Sec-Fetch-Mode: cors\r\n", "User-Agent: x\r\nAccept: */*\r\n"] {
            let answer = ask(&mut connect(port).await, port, header).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("ya29.t"), "{header:?}: {answer}");
            assert!(!answer.to_lowercase().contains("access-control"), "{answer}");
        }
        for header in [
            "Origin: null",
            "Origin: http://127.0.0.1:8888",
            "Referer: http://localhost:8888/lab",
            "Sec-Fetch-Site: none",
            "Sec-Fetch-Dest: image",
            "X-Forwarded-For: 127.0.0.1",
        ] {
            let answer = ask(&mut connect(port).await, port, &format!("{header}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("ya29"), "{header:?}: {answer}");
        }
        for host in ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", ""] {
            let mut stream = connect(port).await;
            stream.write_all(format!("{GET}Host: {host}\r\n\r\n").as_bytes()).await.unwrap();
            let answer = rest(stream).await;
            assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("ya29"), "{host:?}: {answer}");
        }
    });
}

/// Opens a connection as another user, which a thread of this process can become.
async fn connect_as_stranger(port: u16) -> TcpStream {
    let stranger = std::thread::spawn(move || {
        gcp_wif_core::world::sys::become_user(61_001, 61_001, &[]).unwrap();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap()
    });
    let stream = stranger.join().unwrap();
    stream.set_nonblocking(true).unwrap();
    TcpStream::from_std(stream).unwrap()
}

#[test]
fn another_user_is_refused_before_sending_anything() {
    run(async {
        let (_ports, port) = ports(ours()).await;
        let answer = rest(connect_as_stranger(port).await).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        // Many connections at once are refused too.
        let mut crowd = Vec::new();
        for _ in 0..4 * STRANGERS {
            crowd.push(connect_as_stranger(port).await);
        }
        for stream in crowd {
            rest(stream).await;
        }
    });
}

#[test]
fn root_gets_answers_at_every_port() {
    run(async {
        let (_ports, port) = ports(of_user(61_001, ours())).await;
        assert!(ask(&mut connect(port).await, port, "").await.contains("ya29.t"));
        assert!(ask(&mut connect_as_stranger(port).await, port, "").await.contains("ya29.t"));
    });
}

#[test]
fn a_connection_that_outlives_its_job_gets_no_token() {
    run(async {
        let (mut ports, port) = ports(ours()).await;
        let mut stream = connect(port).await;
        assert!(ask(&mut stream, port, "").await.contains("ya29.t"));
        assert_eq!(ports.set(BTreeMap::new()).await, [(port, Event::Ended)]);
        let answer = ask(&mut stream, port, "").await;
        assert!(answer.starts_with("HTTP/1.1 403") && !answer.contains("ya29"), "{answer}");
        assert_eq!(rest(stream).await, "");
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
    });
}

#[test]
fn a_port_that_passes_to_another_job_drops_its_connections() {
    run(async {
        let (mut ports, port) = ports(ours()).await;
        let mut stream = connect(port).await;
        assert!(ask(&mut stream, port, "").await.contains("ya29.t"));
        let mut other = of_user(ours().uid() + 1, ours());
        other.facts.job = JobId(8);
        ports.set(BTreeMap::from([(port, other)])).await;
        let answer = ask(&mut stream, port, "").await;
        assert!(!answer.contains("ya29"), "{answer}");
    });
}

#[test]
fn a_taken_port_is_reported_once_and_served_when_it_is_free() {
    run(async {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let wanted = || BTreeMap::from([(port, ours())]);
        let mut ports = Ports::default();
        assert_eq!(ports.set(wanted()).await, [(port, Event::Taken)]);
        assert_eq!(ports.set(wanted()).await, []);
        // The job's tokens are refreshed nevertheless.
        assert_eq!((ports.served(Served::job).len(), ports.sockets().count()), (1, 0));
        drop(other);
        assert_eq!(ports.set(wanted()).await, [(port, Event::Served)]);
        assert_eq!(ports.set(wanted()).await, []);
        assert!(ask(&mut connect(port).await, port, "").await.contains("ya29.t"));
    });
}

#[test]
fn a_users_connections_are_limited_and_closed_when_idle() {
    run(async {
        let (ports, port) = ports(ours()).await;
        let free = || ports.served[&port].user.connections.available_permits();
        let mut stream = connect(port).await;
        assert!(ask(&mut stream, port, "").await.contains("ya29.t"));
        assert_eq!(free(), CONNECTIONS - 1);
        assert_eq!(rest(stream).await, "", "an idle connection is ended");
        while free() != CONNECTIONS {
            tokio::task::yield_now().await;
        }
        // A second job of the same user shares the limit.
        assert!(Rc::ptr_eq(&ports.user(ours().uid()), &ports.served[&port].user));
        assert!(!Rc::ptr_eq(&ports.user(ours().uid() + 1), &ports.served[&port].user));
    });
}

#[test]
fn a_user_with_too_many_connections_waits_until_one_ends() {
    run(async {
        let (ports, port) = ports(ours()).await;
        let user = Rc::clone(&ports.served[&port].user);
        let all = Arc::clone(&user.connections).try_acquire_many_owned(CONNECTIONS as u32).unwrap();
        let mut stream = connect(port).await;
        let waiting = tokio::time::timeout(Duration::from_millis(200), ask(&mut stream, port, "")).await;
        assert!(waiting.is_err(), "{waiting:?}");
        drop(all);
        let mut bytes = [0; 4096];
        let length = stream.read(&mut bytes).await.unwrap();
        assert!(String::from_utf8_lossy(&bytes[..length]).contains("ya29.t"));
    });
}

#[test]
fn malformed_and_oversized_requests_are_refused_and_others_still_answered() {
    run(async {
        let (_ports, port) = ports(ours()).await;
        let host = format!("Host: 127.0.0.1:{port}\r\n");
        let long = "x".repeat(2 * LONGEST);
        for request in [
            "\r\n\r\n\0\0\0\u{1b}[2J\r\n\r\n".to_owned(),
            format!("GET /{long} HTTP/1.1\r\n{host}\r\n"),
            format!("GET / HTTP/1.1\r\n{host}X: {long}\r\n\r\n"),
            format!("POST /v1/token HTTP/1.1\r\n{host}Content-Length: {}\r\n\r\n{long}", long.len()),
            format!("POST /v1/token HTTP/1.1\r\n{host}Content-Length: 18446744073709551616\r\n\r\n"),
            format!("POST /v1/token HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
            format!("POST /v1/token HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
            "GET /computeMetadata/v1/instance/service-accounts/default/token HTTP/1.0\r\nMetadata-Flavor: Google\r\n\r\n"
                .to_owned(),
        ] {
            let mut stream = connect(port).await;
            // The server may close the connection in the middle of it.
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.shutdown().await;
            let answer = rest(stream).await;
            let shown: String = request.chars().take(60).collect();
            let refused = ["HTTP/1.1 4", "HTTP/1.0 4"].iter().any(|start| answer.starts_with(start));
            assert!(answer.is_empty() || refused, "{shown:?}: {answer}");
        }
        let mut stream = connect(port).await;
        let pipelined = format!("{GET}{host}\r\n").repeat(50) + &format!("{GET}{host}Connection: close\r\n\r\n");
        stream.write_all(pipelined.as_bytes()).await.unwrap();
        assert_eq!(rest(stream).await.matches("ya29.t").count(), 51);
    });
}

#[test]
fn a_port_that_is_closed_finishes_its_requests_and_can_be_reopened() {
    run(async {
        let (mut ports, port) = ports(ours()).await;
        let host = format!("Host: 127.0.0.1:{port}\r\n");
        let mut late = connect(port).await;
        late.write_all(format!("{GET}{host}").as_bytes()).await.unwrap();
        // Until it is accepted.
        while ports.served[&port].user.connections.available_permits() == CONNECTIONS {
            tokio::task::yield_now().await;
        }
        let (_, answer) = tokio::join!(ports.close(), async {
            late.write_all(b"\r\n").await.unwrap();
            rest(late).await
        });
        assert!(answer.contains("ya29.t") && answer.contains("connection: close"), "{answer}");
        let mut waiting = connect(port).await;
        let unanswered = tokio::time::timeout(Duration::from_millis(200), ask(&mut waiting, port, "")).await;
        assert!(unanswered.is_err(), "{unanswered:?}");
        ports.reopen();
        assert!(rest(waiting).await.contains("ya29.t"));
        assert!(ask(&mut connect(port).await, port, "").await.contains("ya29.t"));
    });
}
