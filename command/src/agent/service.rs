//! The agent under a service manager: the socket that shows its presence, the takeover of ports from an agent that a
//! hook has started, and the request to end.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gcp_wif_core::job::wake;
use gcp_wif_core::world::sys;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};

use super::keep::{self, Sockets};

/// How long a new agent waits for the lock of an agent that does not respond. A watcher replaces a hanging serving
/// process in less time, so after this the watcher hangs too, and both are killed.
pub(super) const STUCK: Duration = Duration::from_secs(9);
/// The time limit of sends and receives during the takeover.
const PATIENCE: Duration = Duration::from_secs(2);
/// The interval at which the agent that has the lock is woken, so that it notices the service.
const ASK: Duration = Duration::from_secs(1);

/// The service manager's request to end. Without a service manager, it never comes.
#[derive(Debug, Default)]
pub(super) struct Stop(Option<OwnedFd>);

impl Stop {
    /// Creates the value for a process that a service manager has started.
    pub(super) fn of_service() -> io::Result<Self> {
        Ok(Self(Some(sys::held_signals()?)))
    }

    /// Returns the descriptor that becomes readable with the request.
    pub(super) fn descriptor(&self) -> Option<&OwnedFd> {
        self.0.as_ref()
    }

    /// Waits for the request for at most `time`. Returns whether it came.
    pub(super) fn is_told_within(&self, time: Duration) -> bool {
        let Some(signals) = &self.0 else {
            std::thread::sleep(time);
            return false;
        };
        let time = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        retry_on_intr(|| poll(&mut [PollFd::new(signals, PollFlags::IN)], Some(&time))).is_ok_and(|ready| ready > 0)
    }
}

/// The socket on which another agent passes on its ports. Its file shows hooks that a service manager runs the agent,
/// even while none is running.
#[derive(Debug)]
pub(super) struct Reception {
    path: PathBuf,
    socket: Option<OwnedFd>,
    next: Instant,
    silent_since: Instant,
}

impl Reception {
    pub(super) fn new(runtime_dir: &Path) -> Self {
        Self { path: wake::service(runtime_dir), socket: None, next: Instant::now(), silent_since: Instant::now() }
    }

    /// Receives the ports that another agent passes on, and wakes that agent from time to time.
    pub(super) fn attend(&mut self, runtime_dir: &Path, sockets: &mut Sockets) -> io::Result<()> {
        // An agent that a hook has started can remove the file, because it takes it for that of a former service.
        if self.socket.is_none() || !self.path.exists() {
            let _ = std::fs::remove_file(&self.path);
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            bind(&socket, &SocketAddrUnix::new(&self.path)?)?;
            listen(&socket, 4)?;
            self.socket = Some(socket);
        }
        self.receive(sockets);
        if Instant::now() >= self.next {
            if wake::is_running(runtime_dir) {
                self.silent_since = Instant::now();
            }
            self.next = Instant::now() + ASK;
        }
        Ok(())
    }

    /// Returns whether the agent that has the lock has not responded for too long.
    pub(super) fn is_stuck(&mut self) -> bool {
        let is_stuck = self.silent_since.elapsed() > STUCK;
        if is_stuck {
            self.silent_since = Instant::now();
        }
        is_stuck
    }

    /// Receives the sockets that were passed on so far.
    pub(super) fn receive(&self, sockets: &mut Sockets) {
        let Some(socket) = &self.socket else { return };
        while let Ok(stream) = accept_with(socket, SocketFlags::CLOEXEC) {
            let _ = set_socket_timeout(&stream, Timeout::Recv, Some(PATIENCE));
            while let Some((port, socket)) = keep::receive(&stream, rustix::net::RecvFlags::empty()) {
                sockets.extend(socket.map(|socket| (port, socket)));
            }
        }
    }
}

/// Passes listening sockets to the agent of a service that waits for them. Returns whether there is one.
pub(super) fn hand_over<'a>(
    runtime_dir: &Path,
    sockets: impl Iterator<Item = (u16, std::os::fd::BorrowedFd<'a>)>,
) -> bool {
    let connected = || {
        let path = wake::service(runtime_dir);
        let stream = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        set_socket_timeout(&stream, Timeout::Send, Some(PATIENCE))?;
        connect(&stream, &SocketAddrUnix::new(&path)?)?;
        Ok::<_, io::Error>(stream)
    };
    let Ok(stream) = connected() else { return false };
    let mut sent = sockets.map(|(port, socket)| keep::send(stream.as_fd(), port, Some(socket), SendFlags::NOSIGNAL));
    // The service binds ports anew whose sockets do not arrive.
    let _ = sent.try_for_each(|sent| sent);
    true
}

/// Removes the socket file when the service ends, or after it did not return.
pub(super) fn forget(runtime_dir: &Path) {
    let _ = std::fs::remove_file(wake::service(runtime_dir));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_passed_to_a_service_if_there_is_one() {
        let directory = gcp_wif_core::testing::directory();
        let listeners: Vec<_> = (0..300).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let theirs = || listeners.iter().map(|one| (one.local_addr().unwrap().port(), one.as_fd()));
        assert!(!hand_over(&directory, theirs()), "there is no service");
        let (mut reception, mut sockets) = (Reception::new(&directory), Sockets::new());
        reception.attend(&directory, &mut sockets).unwrap();
        std::thread::scope(|scope| {
            let handed = scope.spawn(|| hand_over(&directory, theirs()));
            let end = Instant::now() + Duration::from_secs(60);
            while sockets.len() < listeners.len() && Instant::now() < end {
                reception.attend(&directory, &mut sockets).unwrap();
            }
            assert!(handed.join().unwrap());
        });
        assert!(sockets.keys().copied().eq(theirs().map(|(port, _)| port).collect::<std::collections::BTreeSet<_>>()));
        drop(reception);
        assert!(!hand_over(&directory, theirs()), "the service is gone");
    }
}
