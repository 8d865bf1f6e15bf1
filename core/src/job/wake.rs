//! The agent as a hook sees it: its socket, its start, and new endpoints for it.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::plan::record::Endpoint;
use crate::plan::report::Failure;
use crate::policy::config::Config;
use crate::words::secret::Secret;
use crate::world::fs;
use crate::world::sys;

/// Below the ports that the kernel gives to connections, so that none of these takes one while the agent restarts.
const PORTS: std::ops::Range<u16> = 20_000..32_000;
const TRIES: u32 = 200;
/// How long an agent may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Room for every port that there is.
const LONGEST_ANSWER: u64 = 1 << 17;
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
pub(crate) fn new_endpoint(taken: &BTreeSet<u16>) -> Result<Endpoint, Failure> {
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

/// Has the agent look at the records, and waits until it did. One that does not answer is started. Returns the ports that
/// it serves.
///
/// # Errors
/// When none answers in time.
pub fn wake(config: &Config, config_path: &Path) -> Result<BTreeSet<u16>, Failure> {
    let socket = socket(&config.runtime_dir);
    if let Ok(ports) = ask(&socket) {
        return Ok(ports);
    }
    // What root runs must be root's own.
    fs::check_trusted(&config.command)
        .map_err(|error| Failure::of_agent(&format!("command: {error}; install gcp-wif there or set command")))?;
    let arguments = ["agent", "--config"].map(str::to_owned).into_iter().chain([config_path.display().to_string()]);
    sys::spawn_detached(&config.command, &arguments.collect::<Vec<_>>())
        .map_err(|error| Failure::of_agent(&format!("{}: {error}", config.command.display())))?;
    let end = Instant::now() + START;
    while Instant::now() < end {
        if let Ok(ports) = ask(&socket) {
            return Ok(ports);
        }
        std::thread::sleep(LOOK);
    }
    Err(Failure::of_agent("the agent does not answer"))
}

/// Whether an agent runs and answers; it has then looked at the records.
pub fn is_running(runtime_dir: &Path) -> bool {
    ask(&socket(runtime_dir)).is_ok()
}

/// The agent's answer to whoever has woken it: the ports that it serves, on a line.
pub fn answer(ports: impl Iterator<Item = u16>) -> String {
    let ports: Vec<String> = ports.map(|port| port.to_string()).collect();
    format!("{}\n", ports.join(" "))
}

fn ask(socket: &Path) -> std::io::Result<BTreeSet<u16>> {
    // To come is to ask.
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let mut answer = String::new();
    stream.take(LONGEST_ANSWER).read_to_string(&mut answer)?;
    // An agent that dies cuts it off.
    let ports = answer.strip_suffix('\n').ok_or(std::io::ErrorKind::UnexpectedEof)?;
    Ok(ports.split_whitespace().filter_map(|port| port.parse().ok()).collect())
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
}
