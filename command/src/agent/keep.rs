//! Keeps the listening sockets beyond the serving process: the watcher has a copy of each and passes it to the next
//! serving process. A client that connects in between waits in the socket's queue instead of being refused, because
//! some clients never retry.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Error, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, pidfd_open, waitpid};

use tokio::net::unix::pipe::Receiver;

use gcp_wif_core::world::sys;

/// The variable that lists the inherited sockets as `PORT:DESCRIPTOR`, separated by commas.
const SOCKETS: &str = "GCP_WIF_AGENT_SOCKETS";

/// The interval of the serving process's heartbeat.
pub(super) const BEAT: Duration = Duration::from_secs(3);
/// The value that a heartbeat has in place of a port.
const HEARTBEAT: u16 = 0;
/// The value that the agent's lock has in place of a port.
const LOCK: u16 = 0;
/// How long a serving process may take to end.
const END: Duration = Duration::from_secs(5);

/// Listening sockets by port.
pub(super) type Sockets = BTreeMap<u16, OwnedFd>;

/// Takes ownership of the inherited sockets, which are not inherited further. Call it only once.
pub(super) fn inherited() -> Sockets {
    let value = std::env::var(SOCKETS).unwrap_or_default();
    let sockets = value.split(',').filter_map(|pair| {
        let (port, descriptor) = pair.split_once(':')?;
        let socket = sys::inherited_descriptor(descriptor.parse().ok()?)?;
        rustix::io::fcntl_setfd(&socket, FdFlags::CLOEXEC).ok()?;
        Some((port.parse().ok()?, socket))
    });
    sockets.collect()
}

/// Returns the inherited lock, if there is one.
pub(super) fn inherited_lock(sockets: &mut Sockets) -> Option<OwnedFd> {
    sockets.remove(&LOCK)
}

/// Makes the program of `command` inherit the lock and the sockets.
pub(super) fn hand_down_all(lock: BorrowedFd<'_>, sockets: &Sockets, command: &mut Command) {
    let sockets = sockets.iter().map(|(port, socket)| (*port, socket.as_fd()));
    hand_down(sockets.chain([(LOCK, lock)]), command);
}

/// Returns the arguments of an agent.
pub(super) fn arguments(config_path: &Path, runtime_dir: &Path) -> Vec<OsString> {
    let words = ["agent".as_ref(), "--config".as_ref(), config_path.as_os_str(), "--runtime-dir".as_ref()];
    words.into_iter().chain([runtime_dir.as_os_str()]).map(ToOwned::to_owned).collect()
}

/// Makes the program of `command` inherit the sockets.
fn hand_down<'a>(sockets: impl Iterator<Item = (u16, BorrowedFd<'a>)>, command: &mut Command) {
    let pairs = sockets.filter_map(|(port, socket)| {
        rustix::io::fcntl_setfd(socket, FdFlags::empty()).ok()?;
        Some(format!("{port}:{}", socket.as_raw_fd()))
    });
    command.env(SOCKETS, pairs.collect::<Vec<_>>().join(","));
}

/// Replaces the serving process with a new agent by exec. Returns only if that fails.
pub(super) fn start_over<'a>(
    config_path: &Path,
    runtime_dir: &Path,
    sockets: impl Iterator<Item = (u16, BorrowedFd<'a>)>,
) -> Error {
    // Do not use the path, because an upgrade may have removed or replaced the program.
    let mut start = Command::new("/proc/self/exe");
    let path = std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned();
    start.arg0(path.trim_end_matches(" (deleted)")).args(arguments(config_path, runtime_dir));
    hand_down(sockets, &mut start);
    start.exec()
}

/// Starts a serving process with the sockets and waits for its end. Keeps a copy of each new socket that it reports.
/// When `stop` becomes readable, makes the serving process end.
///
/// The serving process is a fork of this process, which takes half the memory of a newly started program.
pub(super) fn run(
    sockets: &mut Sockets,
    started: &mut dyn FnMut(u32),
    stop: Option<&OwnedFd>,
    serve: impl FnOnce(Sockets, Watcher) -> i32,
) -> Result<WaitStatus> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // The kernel closes `alive` when this process ends, for whatever reason.
    let (ends, alive) = pipe_with(PipeFlags::CLOEXEC)?;
    let (mut kept, mut watcher) = (Some((ours, alive)), Watcher { link: Some(theirs), ends: Some(ends) });
    let child = sys::fork_alone(|| {
        kept = None;
        serve(std::mem::take(sockets), std::mem::take(&mut watcher))
    });
    drop(watcher);
    let child = child.map_err(|error| Error::other(error.to_string()))?;
    started(child.as_raw_pid().unsigned_abs());
    let Some((ours, alive)) = kept else { return Err(Errno::CHILD.into()) };
    let attended = attend(child, &ours, &alive, stop, sockets);
    if attended.is_err() {
        // The serving process continues without a watcher and must not block on the link.
        drop(ours);
    }
    loop {
        if let Some((_, status)) = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))? {
            return Ok(status);
        }
    }
}

/// Keeps the sockets that the serving process reports, until it ends. Kills it if its heartbeat stops, because it is
/// stopped or hangs.
fn attend(child: Pid, ours: &OwnedFd, alive: &OwnedFd, stop: Option<&OwnedFd>, sockets: &mut Sockets) -> Result<()> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let mut silence = Silence::None;
    loop {
        // Without a service manager, poll the link twice.
        let stop = stop.unwrap_or(ours);
        let mut events = [&pidfd, ours, stop].map(|descriptor| PollFd::new(descriptor, PollFlags::IN));
        match poll(&mut events, Some(&silence.patience())) {
            Err(Errno::INTR) => continue,
            Ok(0) => {
                silence = silence.goes_on();
                if matches!(silence, Silence::Final) {
                    // The child is not yet reaped, so its process ID cannot have been reused.
                    let _ = kill_process(child, Signal::KILL);
                }
                continue;
            }
            result => result?,
        };
        silence = Silence::None;
        if !std::ptr::eq(stop, ours) && !events[2].revents().is_empty() {
            return end(child, &pidfd, alive);
        }
        let (ended, broken) = (!events[0].revents().is_empty(), events[1].revents().contains(PollFlags::HUP));
        while let Some((port, socket)) = receive(ours, RecvFlags::DONTWAIT) {
            match socket {
                _ if port == HEARTBEAT => None,
                Some(socket) => sockets.insert(port, socket),
                None => sockets.remove(&port),
            };
        }
        if ended || broken {
            return Ok(());
        }
    }
}

/// Makes the serving process end, and kills it after a while.
fn end(child: Pid, pidfd: &OwnedFd, alive: &OwnedFd) -> Result<()> {
    rustix::io::write(alive, &[0])?;
    let limit = Timespec::try_from(END).map_err(Error::other)?;
    if retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)))? == 0 {
        // The child is not yet reaped, so its process ID cannot have been reused.
        kill_process(child, Signal::KILL)?;
    }
    Ok(())
}

/// How long the serving process has been silent.
#[derive(Clone, Copy)]
enum Silence {
    /// Not long.
    None,
    /// Longer than the heartbeat allows. If both processes were stopped, the heartbeat arrives soon.
    Long,
    /// Too long. The process is killed.
    Final,
}

impl Silence {
    fn patience(self) -> Timespec {
        let seconds = match self {
            Self::None => 5,
            Self::Long | Self::Final => 2,
        };
        Timespec { tv_sec: seconds, tv_nsec: 0 }
    }

    fn goes_on(self) -> Self {
        match self {
            Self::None => Self::Long,
            Self::Long | Self::Final => Self::Final,
        }
    }
}

/// Receives a port, with its socket if there is one.
pub(super) fn receive(link: &OwnedFd, flags: RecvFlags) -> Option<(u16, Option<OwnedFd>)> {
    let mut port = [0; 2];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(link, &mut [IoSliceMut::new(&mut port)], &mut control, flags).ok()?;
    let socket = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    (message.bytes == port.len()).then(|| (u16::from_ne_bytes(port), socket))
}

/// Sends a port, with its socket if there is one.
pub(super) fn send(
    link: BorrowedFd<'_>,
    port: u16,
    socket: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = socket.map(|socket| [socket]);
    if let Some(sockets) = &sockets {
        control.push(SendAncillaryMessage::ScmRights(sockets));
    }
    sendmsg(link, &[IoSlice::new(&port.to_ne_bytes())], &mut control, flags).map(|_| ())
}

/// The serving process's ends of the link and the pipe to its watcher.
#[derive(Default)]
pub(super) struct Watcher {
    link: Option<OwnedFd>,
    ends: Option<OwnedFd>,
}

impl Watcher {
    /// Returns the pipe on which the watcher asks this process to end, and which closes when the watcher ends. Requires
    /// tokio's runtime.
    pub(super) fn end(&mut self) -> Option<Receiver> {
        Receiver::from_owned_fd(self.ends.take()?).ok()
    }

    /// Sends a heartbeat.
    pub(super) fn beat(&self) {
        self.tell(HEARTBEAT, None);
    }

    /// Reports a new socket, or that a port is no longer served. Does nothing without a watcher.
    pub(super) fn tell(&self, port: u16, socket: Option<BorrowedFd<'_>>) {
        if let Some(link) = &self.link {
            let _ = send(link.as_fd(), port, socket, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }
}

/// A message about the watcher.
pub(super) enum Heard {
    /// It asks this process to end.
    End,
    /// It has ended.
    Gone,
}

/// Waits for a message about the watcher.
pub(super) async fn heard(watcher: Option<&Receiver>) -> Heard {
    let Some(pipe) = watcher else { return std::future::pending().await };
    loop {
        let _ = pipe.readable().await;
        match pipe.try_read(&mut [0]) {
            Ok(1) => return Heard::End,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return Heard::Gone,
        }
    }
}
