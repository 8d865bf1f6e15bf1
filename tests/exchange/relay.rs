//! A relay between a node and Google.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the relay does with each connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Connects to one target, except for the first connection, which it drops.
    DropsFirst(SocketAddr),
    /// Connects to the client's target, by HTTP's method CONNECT.
    Proxy,
}

/// A relay, which lasts as long as its clients.
pub struct Relay {
    address: SocketAddr,
    targets: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// Listens on a port of 127.0.0.1 that the kernel chooses.
    pub fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Self { address: listener.local_addr().unwrap(), targets: Arc::default() };
        let targets = Arc::clone(&relay.targets);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let targets = Arc::clone(&targets);
                thread::spawn(move || serve(&stream, manner, &targets));
            }
        });
        relay
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The targets of its connections, in the order of their arrival.
    pub fn targets(&self) -> Vec<String> {
        self.targets.lock().unwrap().clone()
    }
}

fn serve(stream: &TcpStream, manner: Manner, targets: &Mutex<Vec<String>>) -> io::Result<()> {
    match manner {
        Manner::DropsFirst(target) => {
            let mut targets = targets.lock().unwrap();
            targets.push(target.to_string());
            if targets.len() == 1 {
                return Ok(());
            }
            drop(targets);
            join(stream, &TcpStream::connect(target)?)
        }
        Manner::Proxy => {
            let target = head(stream)?;
            targets.lock().unwrap().push(target.clone());
            let server = TcpStream::connect(target)?;
            (&mut &*stream).write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
            join(stream, &server)
        }
    }
}

/// Reads the head of a CONNECT request; nothing follows it until it is answered.
fn head(stream: &TcpStream) -> io::Result<String> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
    while !lines.next().ok_or(io::ErrorKind::UnexpectedEof)??.is_empty() {}
    let target = first.strip_prefix("CONNECT ").and_then(|rest| rest.split_once(' '));
    Ok(target.ok_or(io::ErrorKind::InvalidData)?.0.to_owned())
}

fn join(one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| copy(one, other));
        copy(other, one)
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        let length = from.read(&mut buffer).unwrap_or(0);
        if length == 0 {
            return to.shutdown(Shutdown::Write);
        }
        to.write_all(&buffer[..length])?;
    }
}
