//! A server at a distance: a relay that carries each byte half a round trip later.
//!
//! Each direction of a connection is independent, as on a long line: the relay forwards a chunk half a round trip after
//! its arrival. The kernel accepts a client's connection before the relay knows about it, so the TCP handshake takes no
//! time here. On a long line, the client could send its first byte only one round trip after it began to connect.
//! Therefore the relay treats everything that a client sends within the first round trip as sent at its end. The relay
//! does not model congestion windows, because all data of an exchange fits into the first one.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Listens until the process ends.
pub struct Relay {
    address: SocketAddr,
}

impl Relay {
    pub fn start(server: SocketAddr, round_trip: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound port");
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let connected = Instant::now() + round_trip;
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                carry(&client, &upstream, connected, round_trip / 2);
                carry(&upstream, &client, connected, round_trip / 2);
            }
        });
        Self { address }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

/// Carries one direction of a connection. Nothing counts as sent before it is `connected`.
fn carry(from: &TcpStream, to: &TcpStream, connected: Instant, delay: Duration) {
    let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
    let _ = to.set_nodelay(true);
    let (under_way, arriving) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut chunk = [0; 16 << 10];
        loop {
            let count = from.read(&mut chunk).unwrap_or_default();
            let due = Instant::now().max(connected) + delay;
            if under_way.send((due, chunk[..count].to_vec())).is_err() || count == 0 {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in arriving {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                let _ = to.shutdown(Shutdown::Write);
            }
        }
    });
}
