//! The listening sockets outlive the serving process: the watcher has a copy of each, and hands it to the next one. A
//! client that connects in between waits in the socket's queue. It is not refused, because some clients never try
//! again.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{Error, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
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
    start.arg0(path.trim_end_matches(" (deleted)")).args(["agent", "--config"]).arg(config_path);
    start.arg("--runtime-dir").arg(runtime_dir);
    hand_down(sockets, &mut start);
    start.exec()
}

/// Starts a serving process, which has the sockets and tells of new ones, and waits for its end.
///
/// It is a copy of this process, which takes half as much memory as a program that starts.
pub(super) fn run(
    sockets: &mut Sockets,
    started: &mut dyn FnMut(u32),
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
    let Some((ours, _alive)) = kept else { return Err(Errno::CHILD.into()) };
    let attended = attend(child, &ours, sockets);
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
fn attend(child: Pid, ours: &OwnedFd, sockets: &mut Sockets) -> Result<()> {
    let pidfd = pidfd_open(child, PidfdFlags::empty())?;
    let mut silence = Silence::None;
    loop {
        let mut events = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(ours, PollFlags::IN)];
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
        let (ended, broken) = (!events[0].revents().is_empty(), events[1].revents().contains(PollFlags::HUP));
        while let Some((port, socket)) = receive(ours) {
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

fn receive(ours: &OwnedFd) -> Option<(u16, Option<OwnedFd>)> {
    let mut port = [0; 2];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = recvmsg(ours, &mut [IoSliceMut::new(&mut port)], &mut control, flags).ok()?;
    let socket = control.drain().find_map(|part| match part {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    (message.bytes == port.len()).then(|| (u16::from_ne_bytes(port), socket))
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
        let Some(link) = &self.link else { return };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = socket.map(|socket| [socket]);
        if let Some(sockets) = &sockets {
            control.push(SendAncillaryMessage::ScmRights(sockets));
        }
        let _ = sendmsg(
            link,
            &[IoSlice::new(&port.to_ne_bytes())],
            &mut control,
            SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
        );
    }
}

/// Waits for the watcher's end.
pub(super) async fn ended(watcher: Option<&Receiver>) {
    match watcher {
        // Nothing is ever written to it.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}
