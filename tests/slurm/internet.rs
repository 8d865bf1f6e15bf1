//! The internet as jobs see it: an HTTP proxy behind which Google's host names lead to the embedded Google, and no
//! other host exists.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::google::Google;

/// The host names in the embedded Google's certificate.
const HOSTS: [&str; 5] = [
    "CONNECT sts.googleapis.com:443 ",
    "CONNECT iamcredentials.googleapis.com:443 ",
    "CONNECT storage.googleapis.com:443 ",
    // TensorFlow's host name for Cloud Storage.
    "CONNECT www.googleapis.com:443 ",
    "CONNECT bigquery.googleapis.com:443 ",
];

/// A running proxy, ended when dropped.
pub(super) struct Internet {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    google: String,
    refused: Mutex<Vec<String>>,
    stopping: AtomicBool,
}

impl Internet {
    pub(super) fn start(google: &Google) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("a bound port");
        let google = google.https_url().trim_start_matches("https://").to_owned();
        let shared = Arc::new(Shared { google, refused: Mutex::default(), stopping: AtomicBool::new(false) });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for stream in listener.incoming().flatten() {
                    if shared.stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    let shared = Arc::clone(&shared);
                    // It does not matter to the proxy if a client disconnects early.
                    thread::spawn(move || shared.serve(stream));
                }
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// The proxy's URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The request lines for hosts that do not exist.
    pub(super) fn refused(&self) -> Vec<String> {
        self.shared.refused.lock().expect("no thread panics").clone()
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let _wakes_the_acceptor = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut request = String::new();
        reader.read_line(&mut request)?;
        let mut header = String::new();
        while reader.read_line(&mut header)? > 2 {
            header.clear();
        }
        if request.is_empty() {
            // A client that ends while its library connects sends no request.
            return Ok(());
        }
        if !HOSTS.iter().any(|host| request.starts_with(host)) {
            self.refused.lock().expect("no thread panics").push(request.trim_end().to_owned());
            return client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        let mut google = TcpStream::connect(&self.google)?;
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        let (mut answers, mut back) = (google.try_clone()?, client);
        let answering = thread::spawn(move || {
            let _ = io::copy(&mut answers, &mut back);
            back.shutdown(Shutdown::Both)
        });
        let _ = io::copy(&mut reader, &mut google);
        let _ = google.shutdown(Shutdown::Write);
        let _ = answering.join();
        Ok(())
    }
}
