//! The listening sockets outlive the serving process: the watcher has a copy of each, and hands it to the next one. A
//! client that connects in between waits in the socket's queue. It is not refused, because some clients never try
//! again.
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

/// The variable that names what a process inherits: `PORT:DESCRIPTOR` and commas.
const SOCKETS: &str = "GCP_WIF_AGENT_SOCKETS";

/// How often the serving process tells that it is at work.
pub(super) const BEAT: Duration = Duration::from_secs(3);
/// What a heartbeat has in the place of a port.
const HEARTBEAT: u16 = 0;
/// What the agent's lock has there.
const LOCK: u16 = 0;
/// How long a serving process that is told to end may take.
const END: Duration = Duration::from_secs(5);

/// Listening sockets by their ports.
pub(super) type Sockets = BTreeMap<u16, OwnedFd>;

/// The sockets that this process was started with, which it does not hand down any more. Call it once.
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

/// The lock that this process was started with, if it has one.
pub(super) fn inherited_lock(sockets: &mut Sockets) -> Option<OwnedFd> {
    sockets.remove(&LOCK)
}

/// Hands the lock and the sockets down to the program of `command`.
pub(super) fn hand_down_all(lock: BorrowedFd<'_>, sockets: &Sockets, command: &mut Command) {
    let sockets = sockets.iter().map(|(port, socket)| (*port, socket.as_fd()));
    hand_down(sockets.chain([(LOCK, lock)]), command);
}

/// The arguments of an agent.
pub(super) fn arguments(config_path: &Path, runtime_dir: &Path) -> Vec<OsString> {
    let words = ["agent".as_ref(), "--config".as_ref(), config_path.as_os_str(), "--runtime-dir".as_ref()];
    words.into_iter().chain([runtime_dir.as_os_str()]).map(ToOwned::to_owned).collect()
}

/// Hands the sockets down to the program of `command`.
fn hand_down<'a>(sockets: impl Iterator<Item = (u16, BorrowedFd<'a>)>, command: &mut Command) {
    let pairs = sockets.filter_map(|(port, socket)| {
        rustix::io::fcntl_setfd(socket, FdFlags::empty()).ok()?;
        Some(format!("{port}:{}", socket.as_raw_fd()))
    });
    command.env(SOCKETS, pairs.collect::<Vec<_>>().join(","));
}

/// Replaces the serving process by a new agent. Returns only when that fails.
pub(super) fn start_over<'a>(
    config_path: &Path,
    runtime_dir: &Path,
    sockets: impl Iterator<Item = (u16, BorrowedFd<'a>)>,
) -> Error {
    // Not by its path: an upgrade may have removed it, or have put another program in its place.
    let mut start = Command::new("/proc/self/exe");
    let path = std::env::current_exe().unwrap_or_default().to_string_lossy().into_owned();
    start.arg0(path.trim_end_matches(" (deleted)")).args(arguments(config_path, runtime_dir));
    hand_down(sockets, &mut start);
    start.exec()
}

/// Starts a serving process, which has the sockets and tells of new ones, and waits for its end. Has it end when this
/// process is told to, which `stop` tells.
///
/// It is a copy of this process, which takes half as much memory as a program that starts.
pub(super) fn run(
    sockets: &mut Sockets,
    started: &mut dyn FnMut(u32),
    stop: Option<&OwnedFd>,
    serve: impl FnOnce(Sockets, Watcher) -> i32,
) -> Result<WaitStatus> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // The kernel closes it when this process ends, in whatever way.
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
        // Serving goes on without this help, and must not wait for it.
        drop(ours);
    }
    loop {
        if let Some((_, status)) = retry_on_intr(|| waitpid(Some(child), WaitOptions::empty()))? {
            return Ok(status);
        }
    }
}

/// Keeps the sockets that the serving process tells of, until it ends. Ends it when its heartbeat stays away: it is
/// stopped, or hangs.
fn attend(child: Pid, ours: &OwnedFd, alive: &OwnedFd, stop: Option<&OwnedFd>, sockets: &mut Sockets) -> Result<()> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let mut silence = Silence::None;
    loop {
        // Without a service manager it looks at the link twice.
        let stop = stop.unwrap_or(ours);
        let mut events = [&pidfd, ours, stop].map(|descriptor| PollFd::new(descriptor, PollFlags::IN));
        match poll(&mut events, Some(&silence.patience())) {
            Err(Errno::INTR) => continue,
            Ok(0) => {
                silence = silence.goes_on();
                if matches!(silence, Silence::Final) {
                    // Our child, not yet waited for: the number is its own.
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

/// Has the serving process end.
fn end(child: Pid, pidfd: &OwnedFd, alive: &OwnedFd) -> Result<()> {
    rustix::io::write(alive, &[0])?;
    let limit = Timespec::try_from(END).map_err(Error::other)?;
    if retry_on_intr(|| poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)))? == 0 {
        // Our child, not yet waited for: the number is its own.
        kill_process(child, Signal::KILL)?;
    }
    Ok(())
}

/// How long nothing was heard of the serving process.
#[derive(Clone, Copy)]
enum Silence {
    /// Not for long.
    None,
    /// For longer than it should be. If both processes were stopped, its heartbeat is on its way now.
    Long,
    /// Too long: it is ended.
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

/// A port, and its socket or none.
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

/// Tells of a port, and hands over its socket.
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

/// The serving process's ends of what ties it to its watcher.
#[derive(Default)]
pub(super) struct Watcher {
    link: Option<OwnedFd>,
    ends: Option<OwnedFd>,
}

impl Watcher {
    /// A pipe that tells of the watcher's end. Needs tokio's runtime.
    pub(super) fn end(&mut self) -> Option<Receiver> {
        Receiver::from_owned_fd(self.ends.take()?).ok()
    }

    /// Tells that the serving process is at work.
    pub(super) fn beat(&self) {
        self.tell(HEARTBEAT, None);
    }

    /// Tells of a new socket, or that a port is no longer served. Does nothing without a watcher.
    pub(super) fn tell(&self, port: u16, socket: Option<BorrowedFd<'_>>) {
        if let Some(link) = &self.link {
            let _ = send(link.as_fd(), port, socket, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }
}

/// What the serving process hears of its watcher.
pub(super) enum Heard {
    /// It wants this process to end.
    End,
    /// It has ended.
    Gone,
}

/// Waits for something to hear of the watcher.
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
