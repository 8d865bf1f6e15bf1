//! The listening sockets outlive the serving process: the watcher has a copy of each, and hands it to the next one. A
//! client that comes in between waits in the socket's queue and is not refused. Some never try again.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, ExitStatus};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::FdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::sys;

/// The variable that names what a process inherits: `PORT:DESCRIPTOR` and commas.
const SOCKETS: &str = "GCP_WIF_AGENT_SOCKETS";

/// Listening sockets by their ports.
pub(super) type Sockets = BTreeMap<u16, OwnedFd>;

/// The sockets that this process was started with, from now on its own alone. To be asked once.
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

/// Lets the program that `command` becomes have the sockets.
pub(super) fn hand_down<'a>(sockets: impl Iterator<Item = (u16, BorrowedFd<'a>)>, command: &mut Command) {
    let pairs = sockets.filter_map(|(port, socket)| {
        rustix::io::fcntl_setfd(socket, FdFlags::empty()).ok()?;
        Some(format!("{port}:{}", socket.as_raw_fd()))
    });
    command.env(SOCKETS, pairs.collect::<Vec<_>>().join(","));
}

/// Runs a serving process to its end, which has the sockets and tells of new ones.
pub(super) fn run(mut command: Command, sockets: &mut Sockets) -> Result<ExitStatus> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    hand_down(sockets.iter().map(|(port, socket)| (*port, socket.as_fd())), &mut command);
    let mut child = command.stdin(theirs).spawn()?;
    // It holds the child's end.
    drop(command);
    let attended = attend(&child, &ours, sockets);
    if attended.is_err() {
        // Serving goes on, without this help.
        drop(ours);
    }
    child.wait()
}

fn attend(child: &Child, ours: &OwnedFd, sockets: &mut Sockets) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(rustix::io::Errno::SRCH)?;
    let child = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        let mut events = [PollFd::new(&child, PollFlags::IN), PollFd::new(ours, PollFlags::IN)];
        match poll(&mut events, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let ended = !events[0].revents().is_empty();
        while let Some((port, socket)) = receive(ours) {
            match socket {
                Some(socket) => sockets.insert(port, socket),
                None => sockets.remove(&port),
            };
        }
        if ended {
            return Ok(());
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

/// Tells the watcher of a new socket, or that a port is no longer served. Without a watcher it is told to nobody.
pub(super) fn tell(port: u16, socket: Option<BorrowedFd<'_>>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = socket.map(|socket| [socket]);
    if let Some(sockets) = &sockets {
        control.push(SendAncillaryMessage::ScmRights(sockets));
    }
    let _ = sendmsg(rustix::stdio::stdin(), &[IoSlice::new(&port.to_ne_bytes())], &mut control, SendFlags::NOSIGNAL);
}
