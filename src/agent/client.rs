//! The plugin's side of the agent: its socket, its start, and new endpoints for it.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::caller;
use crate::config::Config;
use crate::fs;
use crate::record::Endpoint;
use crate::report::Failure;
use crate::secret::Secret;
use crate::sys;

/// Below the ports that the kernel gives to connections, so that none of these takes one while the agent restarts.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: u32 = 200;
/// How long an agent may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a new one may take to start.
const START: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(20);

/// The agent's socket in the runtime directory; root's alone.
pub fn socket(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("agent.sock")
}

/// A port that is free now and not one of those, and a handle that nobody can guess.
///
/// # Errors
/// When there is none, or no randomness.
pub fn new_endpoint(taken: &BTreeSet<u16>) -> Result<Endpoint, Failure> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::getrandom(bytes.as_mut_slice()).map_err(|_| Failure::of_agent("the system has no randomness"))?;
    let handle = Secret::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
    let width = u64::from(PORTS.end - PORTS.start);
    for _ in 0..TRIES {
        let mut bytes = [0; 8];
        getrandom::getrandom(&mut bytes).map_err(|_| Failure::of_agent("the system has no randomness"))?;
        let offset = u16::try_from(u64::from_ne_bytes(bytes) % width).unwrap_or_default();
        let port = PORTS.start + offset;
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(Endpoint { port, handle });
        }
    }
    Err(Failure::of_agent("no loopback port is free"))
}

/// Has the agent look at the records, and waits until it did. One that does not answer is started.
///
/// # Errors
/// When none answers in time.
pub fn wake(config: &Config, config_path: &Path) -> Result<(), Failure> {
    let socket = socket(&config.runtime_dir);
    if ask(&socket).is_ok() {
        return Ok(());
    }
    // What root runs must be root's own.
    fs::check_trusted(&config.command)
        .map_err(|error| Failure::of_agent(&format!("command: {error}; install gcp-wif there or set command")))?;
    let arguments = ["agent", "--config"].map(str::to_owned).into_iter().chain([config_path.display().to_string()]);
    sys::spawn_detached(&config.command, &arguments.collect::<Vec<_>>())
        .map_err(|error| Failure::of_agent(&format!("{}: {error}", config.command.display())))?;
    let end = Instant::now() + START;
    while Instant::now() < end {
        if ask(&socket).is_ok() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    Err(Failure::of_agent("the agent does not answer"))
}

/// Whether an agent runs and answers; it has then looked at the records.
pub fn is_running(runtime_dir: &Path) -> bool {
    ask(&socket(runtime_dir)).is_ok()
}

/// Whether it is root, as this process is, who listens at a port.
pub fn is_served(port: u16) -> bool {
    let (here, anyone) = (SocketAddr::from(([127, 0, 0, 1], port)), SocketAddr::from(([0, 0, 0, 0], 0)));
    caller::owner(here, anyone) == Some(rustix::process::geteuid().as_raw())
}

fn ask(socket: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(b"r")?;
    stream.read_exact(&mut [0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_endpoint_has_a_port_that_is_not_taken() {
        // All but one in ten.
        let taken: BTreeSet<u16> = PORTS.filter(|port| port % 10 != 0).collect();
        let ports: BTreeSet<u16> = (0..20).map(|_| new_endpoint(&taken).unwrap().port).collect();
        assert!(ports.len() > 1 && ports.iter().all(|port| PORTS.contains(port) && port % 10 == 0), "{ports:?}");
        assert!(new_endpoint(&PORTS.collect()).is_err());
    }

    #[test]
    fn a_port_where_we_listen_is_served_and_another_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        assert!(is_served(here.port()));
        assert_eq!(
            caller::look_up(here, SocketAddr::from(([0, 0, 0, 0], 0))),
            caller::owner(here, "0.0.0.0:0".parse().unwrap())
        );
        // One that is bound, for nobody else to have it, and does not listen.
        let socket =
            rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let port = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap().port();
        assert!(!is_served(port));
    }
}
