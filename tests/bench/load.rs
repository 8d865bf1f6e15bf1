//! A load of HTTP requests from a single thread, which leaves the machine's other processors to the server.

use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv, sockopt};

use crate::samples::Samples;

/// Whether each request has its own connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    New,
    KeptAlive,
}

pub struct Loaded {
    pub each_second: f64,
    /// The time from the start of a request, or of its connection, to the end of its answer, in milliseconds.
    pub answers: Samples,
}

/// Keeps this many connections busy for some time. Each answer must be a 200.
pub fn load(server: SocketAddr, request: &str, connections: Connections, count: usize, time: Duration) -> Loaded {
    let begun = Instant::now();
    let mut answers = Samples::default();
    let mut clients: Vec<Client> = (0..count).map(|_| Client::begin(server, request)).collect();
    while begun.elapsed() < time {
        for index in readable(&clients) {
            let client = &mut clients[index];
            if client.read().expect("the server answers") {
                answers.push(client.begun.elapsed().as_secs_f64() * 1000.0);
                match connections {
                    Connections::New => *client = Client::begin(server, request),
                    Connections::KeptAlive => client.ask(request),
                }
            }
        }
    }
    Loaded { each_second: answers.len() as f64 / begun.elapsed().as_secs_f64(), answers }
}

/// Which clients have something to read.
fn readable(clients: &[Client]) -> Vec<usize> {
    let mut places: Vec<PollFd<'_>> = clients.iter().map(|client| PollFd::new(&client.stream, PollFlags::IN)).collect();
    poll(&mut places, None).expect("poll");
    let has_any = |place: &PollFd<'_>| !place.revents().is_empty();
    places.iter().enumerate().filter(|(_, place)| has_any(place)).map(|(index, _)| index).collect()
}

struct Client {
    stream: TcpStream,
    begun: Instant,
    answer: Vec<u8>,
}

impl Client {
    fn begin(server: SocketAddr, request: &str) -> Self {
        let begun = Instant::now();
        let stream = connect(server);
        // Otherwise the client's end would stay in TIME_WAIT, and the search for a free port would dominate the time.
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("a socket");
        let mut client = Self { stream, begun, answer: Vec::new() };
        client.ask(request);
        client.begun = begun;
        client
    }

    fn ask(&mut self, request: &str) {
        self.answer.clear();
        self.begun = Instant::now();
        self.stream.write_all(request.as_bytes()).expect("the server listens");
    }

    /// Reads the available bytes; true at the end of the answer.
    fn read(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 8 << 10];
        match recv(&self.stream, &mut chunk[..], RecvFlags::DONTWAIT).map(|(count, _)| count) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.answer.extend_from_slice(&chunk[..count]);
                Ok(is_whole(&self.answer))
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Connects. All ports of the loopback interface may be in use for a moment.
fn connect(server: SocketAddr) -> TcpStream {
    loop {
        match TcpStream::connect(server) {
            Ok(stream) => return stream,
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable => std::thread::yield_now(),
            Err(error) => panic!("{server}: {error}"),
        }
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = std::str::from_utf8(&answer[..end]).expect("a head in ASCII");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().expect("a length"))
    });
    answer.len() == end + 4 + length.expect("a length")
}
