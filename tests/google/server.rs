//! The two listeners, with one thread for each connection. They record every request, and answer it correctly or with a
//! fault. No server library is used, because faults need the raw socket.

use std::io::{self, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::fault::{Endpoint, Fault};
use super::state::{Recorded, State};
use super::wire::{self, Request, Response, Stream};
use super::{errors, iam, registry, storage, sts};

/// How long a client may take to open the connections that an answer waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a listener speaks.
#[derive(Clone)]
pub enum Port {
    Http,
    Https(Arc<ServerConfig>),
}

/// An answer on its way to the wire.
pub enum Answer {
    Response(Response),
    Late(Duration, Response),
    Afterwards { connections: usize, closes_others: Option<Duration>, response: Response },
    Nothing,
    Truncated(Response),
    Endless { chunked: bool },
    Drip(Duration, Response),
    Garbage,
}

impl Answer {
    fn status(&self) -> Option<u16> {
        match self {
            Self::Response(response)
            | Self::Late(_, response)
            | Self::Afterwards { response, .. }
            | Self::Truncated(response)
            | Self::Drip(_, response) => Some(response.status),
            Self::Endless { .. } => Some(200),
            Self::Nothing | Self::Garbage => None,
        }
    }
}

/// Accepts connections until the state says stop.
pub fn accept(listener: TcpListener, port: Port, state: Arc<State>) -> JoinHandle<()> {
    thread::spawn(move || {
        for stream in listener.incoming() {
            if state.is_stopping() {
                return;
            }
            let Ok(stream) = stream else { continue };
            let (port, state) = (port.clone(), Arc::clone(&state));
            thread::spawn(move || {
                let number = state.connected(&stream);
                // It does not matter to the server if a client disconnects early.
                let _ = serve(stream, port, number, &state);
                state.disconnected(number);
            });
        }
    })
}

fn serve(stream: TcpStream, port: Port, connection: u64, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (secure, stream): (bool, Box<dyn Stream>) = match port {
        Port::Http => {
            state.opened(None);
            (false, Box::new(stream))
        }
        Port::Https(config) => {
            let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
            session.complete_io(&mut &stream)?;
            state.opened(session.handshake_kind());
            (true, Box::new(StreamOwned::new(session, stream)))
        }
    };
    let mut stream = BufReader::new(stream);
    while let Some(request) = wire::read(&mut stream, secure)? {
        let (number, answer) = answer(&request, state);
        let close = request.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if !send(stream.get_mut(), answer, (connection, number), state)? || close {
            return Ok(());
        }
    }
    Ok(())
}

/// Records the request and finds its answer, faults included.
fn answer(request: &Request, state: &State) -> (usize, Answer) {
    let endpoint = Endpoint::of(&request.path);
    let number = state.arrived(Recorded {
        endpoint,
        secure: request.secure,
        method: request.method.clone(),
        target: request.target.clone(),
        headers: request.headers.clone(),
        body: String::from_utf8_lossy(&request.body).into_owned(),
        status: None,
        time: SystemTime::now(),
    });
    let answer = match state.take_fault(endpoint) {
        Some(Fault::Repeat) => Fault::Repeat.apply(errors::repeating(request)),
        Some(fault) if fault.needs_right_answer() => fault.apply(dispatch(endpoint, request, state)),
        Some(fault) => fault.apply(Response::new(200, "text/plain", "")),
        None => Answer::Response(dispatch(endpoint, request, state)),
    };
    (number, answer)
}

fn dispatch(endpoint: Endpoint, request: &Request, state: &State) -> Response {
    if !state.options().services_reachable {
        return errors::no_service();
    }
    let (method, handle): (&str, fn(&Request, &State) -> Response) = match endpoint {
        Endpoint::Sts => ("POST", sts::token),
        Endpoint::Introspect => ("POST", sts::introspect),
        Endpoint::Impersonation => ("POST", iam::generate_access_token),
        Endpoint::IdToken => ("POST", iam::generate_id_token),
        // It looks at the method itself.
        Endpoint::Storage => (&request.method, storage::answer),
        Endpoint::Registry => ("GET", registry::token),
        Endpoint::Unknown => return errors::not_found(&request.path),
    };
    let response =
        if request.method == method { handle(request, state) } else { errors::wrong_method(&request.method) };
    let response = response.header("Date", &http_date(state.now()));
    if request.method == "HEAD" { response.without_body() } else { response }
}

/// A date as HTTP writes it, RFC 9110 section 5.6.7.
pub fn http_date(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).expect("a time of this age");
    time.format(&Rfc2822).expect("a time that can be written").replace("+0000", "GMT")
}

/// Sends an answer; false if the connection ends with it.
fn send(
    stream: &mut dyn Stream,
    answer: Answer,
    (connection, number): (u64, usize),
    state: &State,
) -> io::Result<bool> {
    if let Some(status) = answer.status() {
        state.answered(number, status);
    }
    match answer {
        Answer::Response(response) => stream.write_all(&response.bytes())?,
        Answer::Late(time, response) => {
            if state.pause(time) {
                return Ok(false);
            }
            stream.write_all(&response.bytes())?;
        }
        Answer::Afterwards { connections, closes_others, response } => {
            let response = if state.wait_for_connections(connections, PATIENCE) {
                response
            } else {
                errors::oauth("invalid_request", format!("There are no {connections} connections."))
            };
            if let Some(earlier) = closes_others {
                state.close_others(connection);
                thread::sleep(earlier);
            }
            stream.write_all(&response.bytes())?;
        }
        Answer::Nothing => return Ok(false),
        Answer::Truncated(response) => {
            let bytes = response.bytes();
            let cut = response.body.len().div_ceil(2).max(1);
            stream.write_all(&bytes[..bytes.len() - cut])?;
            stream.flush()?;
            return Ok(false);
        }
        Answer::Endless { chunked } => return endless(stream, chunked, state),
        Answer::Drip(interval, response) => {
            for byte in response.bytes() {
                stream.write_all(&[byte])?;
                stream.flush()?;
                if state.pause(interval) {
                    return Ok(false);
                }
            }
        }
        Answer::Garbage => {
            stream.write_all(b"\x15\x03\x01\x00\x02\x02\x46\0\0\0 no http\r\n\r\n")?;
            stream.flush()?;
            return Ok(false);
        }
    }
    stream.flush()?;
    Ok(true)
}

fn endless(stream: &mut dyn Stream, chunked: bool, state: &State) -> io::Result<bool> {
    let response = Response::new(200, "application/json; charset=UTF-8", "");
    let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 1073741824" };
    stream.write_all(response.head(framing).as_bytes())?;
    let start = br#"{"access_token":""#;
    let block = vec![b'a'; 64 << 10];
    if chunked {
        stream.write_all(format!("{:x}\r\n", start.len()).as_bytes())?;
        stream.write_all(start)?;
        stream.write_all(b"\r\n")?;
    } else {
        stream.write_all(start)?;
    }
    let mut left = (1usize << 30) - start.len();
    while !state.is_stopping() && left > 0 {
        let part = &block[..block.len().min(left)];
        if chunked {
            stream.write_all(format!("{:x}\r\n", part.len()).as_bytes())?;
            stream.write_all(part)?;
            stream.write_all(b"\r\n")?;
        } else {
            stream.write_all(part)?;
            left -= part.len();
        }
    }
    Ok(false)
}
