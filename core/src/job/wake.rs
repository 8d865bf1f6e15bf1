//! The hooks' interface to the agent: its socket, and its start.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::plan::report::Failure;
use crate::world::{fs, sys};

/// How long an agent may take to respond.
const ANSWER: Duration = Duration::from_secs(2);
/// The size limit of a response, in bytes, which has room for all ports.
const LONGEST_ANSWER: u64 = 1 << 17;
/// How long a new agent may take to start, including the time to kill one that hangs.
const START: Duration = Duration::from_secs(13);
/// How long a service manager may take to restart an agent. This leaves time to start one after that.
const SERVICE: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(20);

/// Returns the path of the agent's socket, which only root can use.
pub fn socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("agent.sock")
}

/// Returns the path of the socket that exists while a service manager runs the agent. An agent that a hook has started
/// passes its ports to the service through this socket.
pub fn service(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("agent.service")
}

/// Makes the agent of a runtime directory read the records and waits until it has. Starts an agent if none responds.
/// Returns the ports that it serves.
///
/// # Errors
/// When no agent responds in time.
pub fn wake(
    command: &Path,
    config_path: &Path,
    runtime_dir: &Path,
    asked: Option<Asked>,
) -> Result<BTreeSet<u16>, Failure> {
    let socket = socket(runtime_dir);
    if let Ok(ports) = asked.map_or_else(|| ask(&socket), Asked::answer) {
        return Ok(ports);
    }
    let begun = Instant::now();
    if let Some(ports) = of_service(runtime_dir, begun + SERVICE) {
        return Ok(ports);
    }
    // Root must not run a program that another user can change.
    fs::check_trusted(command)
        .map_err(|error| Failure::of_agent(&format!("command: {error}; install gcp-wif there or set command")))?;
    let (config_path, runtime_dir) = (config_path.display().to_string(), runtime_dir.display().to_string());
    let arguments = ["agent", "--config", &config_path, "--runtime-dir", &runtime_dir].map(str::to_owned);
    sys::spawn_detached(command, &arguments)
        .map_err(|error| Failure::of_agent(&format!("{}: {error}", command.display())))?;
    let end = begun + START;
    while Instant::now() < end {
        if let Ok(ports) = ask(&socket) {
            return Ok(ports);
        }
        std::thread::sleep(LOOK);
    }
    Err(Failure::of_agent("the agent does not respond"))
}

/// Waits for an agent that a service manager restarts. Returns `None` if no service manager runs it, or if it hangs.
fn of_service(runtime_dir: &Path, end: Instant) -> Option<BTreeSet<u16>> {
    let (service, socket) = (service(runtime_dir), socket(runtime_dir));
    while service.exists() && Instant::now() < end {
        match ask(&socket) {
            Ok(ports) => return Some(ports),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return None,
            Err(_) => std::thread::sleep(LOOK),
        }
    }
    None
}

/// A request to the agent whose response is pending.
#[derive(Debug)]
pub struct Asked(UnixStream);

/// Asks an agent to read the records, and does not wait for its response. Returns `None` if no agent runs.
pub fn begin(runtime_dir: &Path) -> Option<Asked> {
    connect(&socket(runtime_dir), Duration::ZERO).ok().map(Asked)
}

/// Returns whether an agent runs and responds. It has then read the records.
pub fn is_running(runtime_dir: &Path) -> bool {
    ask(&socket(runtime_dir)).is_ok()
}

/// Formats the agent's response to a process that has woken it: a line with the ports that it serves.
pub fn answer(ports: impl Iterator<Item = u16>) -> String {
    let ports: Vec<String> = ports.map(|port| port.to_string()).collect();
    format!("{}\n", ports.join(" "))
}

/// Connects to the agent and reads its response. The connection itself is the request.
fn ask(socket: &Path) -> io::Result<BTreeSet<u16>> {
    Asked(connect(socket, ANSWER)?).answer()
}

impl Asked {
    fn answer(self) -> io::Result<BTreeSet<u16>> {
        self.0.set_read_timeout(Some(ANSWER))?;
        let mut answer = String::new();
        self.0.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
        // The response is truncated if the agent dies.
        let ports = answer.strip_suffix('\n').ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(ports.split_whitespace().filter_map(|port| port.parse().ok()).collect())
    }
}

/// Connects within `limit`. A plain connect would block forever on a socket whose queue is full because its agent
/// hangs.
fn connect(socket: &Path, limit: Duration) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let (address, end) = (SocketAddrUnix::new(socket)?, Instant::now() + limit);
    loop {
        match connect(&stream, &address) {
            Ok(()) => break,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if Instant::now() < end => std::thread::sleep(LOOK),
            Err(errno) => return Err(errno.into()),
        }
    }
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_hangs_is_not_waited_for() {
        let directory = crate::testing::directory();
        let path = socket(&directory);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        // Connect without accepting until the queue is full.
        let queue: Vec<_> = std::iter::from_fn(|| connect(&path, ANSWER).ok()).collect();
        assert!(queue.len() > 1 && !is_running(&directory));
        // The service manager considers it running.
        std::fs::write(service(&directory), "").unwrap();
        assert_eq!(of_service(&directory, Instant::now() + START), None);
        drop(listener);
    }

    #[test]
    fn a_service_is_waited_for_and_not_for_ever() {
        use std::io::Write;
        let directory = crate::testing::directory();
        let never = Instant::now() + Duration::from_secs(600);
        assert_eq!(of_service(&directory, never), None, "no service");
        std::fs::write(service(&directory), "").unwrap();
        assert_eq!(of_service(&directory, Instant::now() + LOOK * 3), None, "it does not come back");
        let path = socket(&directory);
        let back = std::thread::spawn(move || {
            std::thread::sleep(LOOK * 3);
            let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
            listener.accept().unwrap().0.write_all(b"7 8\n").unwrap();
        });
        assert_eq!(of_service(&directory, never), Some(BTreeSet::from([7, 8])));
        back.join().unwrap();
    }
}
