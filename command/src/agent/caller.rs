//! Finds the user at the other end of a loopback connection, from the kernel's record of the socket's owner.
//!
//! A process in a container or user namespace appears as the user that it is outside. For a socket that its process has
//! closed, the kernel reports root without an inode; such a socket has no owner here.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use gcp_wif_core::world::fs::read_limited;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

/// The kernel's socket tables of this network namespace, proc_net_tcp.txt in the kernel's documentation. The second
/// table has the sockets of IPv6 programs, which connect to IPv4 with an address such as `::ffff:127.0.0.1`.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The size limit of a table, in bytes: 400,000 sockets with a line of 150 bytes each.
const LONGEST_TABLE: u64 = 64 << 20;

/// Returns the user that owns the socket at `peer` that is connected to `here`.
pub(crate) fn owner(peer: SocketAddr, here: SocketAddr) -> Result<Option<u32>, Errno> {
    // A kernel without sock_diag, which is rare, responds as if the socket did not exist. So trust such a response only
    // after the kernel has found a socket before.
    static ANSWERS: AtomicBool = AtomicBool::new(false);
    let asked = ask(peer, here);
    if asked.is_ok() {
        ANSWERS.store(true, Ordering::Relaxed);
    }
    match asked {
        Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => Err(errno),
        asked if ANSWERS.load(Ordering::Relaxed) => Ok(asked.ok().flatten()),
        _ => Ok(look_up(peer, here)),
    }
}

/// Queries the one socket with sock_diag(7). Reading the tables takes milliseconds, and any user could cause it often.
fn ask(peer: SocketAddr, here: SocketAddr) -> Result<Option<u32>, Errno> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (peer.ip(), here.ip()) else { return Err(Errno::AFNOSUPPORT) };
    // struct inet_diag_req_v2: family, protocol, two unused bytes, all states, the socket's two addresses with room for
    // IPv6, any interface, no cookie.
    let mut body = vec![2, 6, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(peer.port().to_be_bytes());
    body.extend(here.port().to_be_bytes());
    for address in [from, to] {
        body.extend(address.octets());
        body.extend([0; 12]);
    }
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    KERNEL.with_borrow_mut(|kernel| {
        if let Some(Ok(answer)) = kernel.as_mut().map(|kernel| kernel.ask(&body)) {
            return owner_in(&answer);
        }
        // The first question, or one whose answer got lost: over another socket.
        owner_in(&kernel.insert(Kernel::new()?).ask(&body)?)
    })
}

thread_local! {
    /// One socket for all requests, so that the process can send one when no descriptor is free.
    static KERNEL: RefCell<Option<Kernel>> = const { RefCell::new(None) };
}

/// Opens the socket to the kernel before descriptors run short. If this fails, the first request opens it.
pub(crate) fn prepare() {
    KERNEL.with_borrow_mut(|kernel| *kernel = Kernel::new().ok());
}

/// A netlink socket to the kernel.
struct Kernel {
    socket: OwnedFd,
    /// Of the last question; its answer has the same.
    number: u32,
}

impl Kernel {
    fn new() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::SOCK_DIAG))?;
        Ok(Self { socket, number: 0 })
    }

    fn ask(&mut self, body: &[u8]) -> Result<Vec<u8>, Errno> {
        self.number = self.number.wrapping_add(1);
        let number = self.number.to_ne_bytes();
        // struct nlmsghdr: length, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, the number, and a sender that is not needed.
        let mut question = u32::try_from(16 + body.len()).unwrap_or_default().to_ne_bytes().to_vec();
        question.extend(20_u16.to_ne_bytes());
        question.extend(1_u16.to_ne_bytes());
        question.extend(number);
        question.extend([0; 4]);
        question.extend(body);
        send(&self.socket, &question, SendFlags::empty())?;
        loop {
            let mut answer = [0; 512];
            // The answer is there as soon as the question is sent.
            let (_, length) = recv(&self.socket, &mut answer, RecvFlags::DONTWAIT)?;
            let answer = answer.get(..length).unwrap_or_default();
            if answer.get(8..12) == Some(&number) {
                return Ok(answer.to_vec());
            }
        }
    }
}

/// Returns the owner from the kernel's response: struct nlmsghdr, then struct inet_diag_msg, which ends with uid and
/// inode.
fn owner_in(answer: &[u8]) -> Result<Option<u32>, Errno> {
    let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    // Any other type is NLMSG_ERROR.
    if answer.get(4..6) != Some(&20_u16.to_ne_bytes()) {
        return Err(Errno::NOENT);
    }
    let (uid, inode) = (word(80).ok_or(Errno::BADMSG)?, word(84).ok_or(Errno::BADMSG)?);
    Ok((inode != 0).then_some(uid))
}

fn look_up(peer: SocketAddr, here: SocketAddr) -> Option<u32> {
    TABLES.iter().find_map(|table| {
        let table = String::from_utf8(read_limited(Path::new(table), LONGEST_TABLE).ok()?).ok()?;
        find(&table, peer, here)
    })
}

fn find(table: &str, peer: SocketAddr, here: SocketAddr) -> Option<u32> {
    let (local, remote) = (hexadecimal(peer)?, hexadecimal(here)?);
    // An IPv4 address has the same digits at the end in both tables.
    let is = |field: &str, address: &str| field == address || field.strip_prefix(MAPPED) == Some(address);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (here, there) = (fields.next()?, fields.next()?);
        if !(is(here, &local) && is(there, &remote)) {
            return None;
        }
        // State, queues, timer and retransmissions come before the uid, and one more field before the inode.
        let uid = fields.nth(4)?.parse().ok()?;
        (fields.nth(1)? != "0").then_some(uid)
    })
}

/// `::ffff:0:0/96` in the notation of the table.
const MAPPED: &str =
    if cfg!(target_endian = "little") { "0000000000000000FFFF0000" } else { "00000000000000000000FFFF" };

/// Formats an address as in the table: hexadecimal, in the machine's byte order.
fn hexadecimal(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(Ipv4Addr::octets(&ip)), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener, TcpStream};

    fn this_user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn known(peer: SocketAddr, here: SocketAddr) -> Option<u32> {
        owner(peer, here).unwrap()
    }

    #[test]
    fn the_owner_of_a_real_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let client = TcpStream::connect(here).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        let stranger = "127.0.0.1:1".parse().unwrap();
        for way in [known, look_up, |peer, here| ask(peer, here).ok().flatten()] {
            assert_eq!(way(peer, here), Some(this_user()));
            assert_eq!(way(stranger, here), None);
        }
        // A client that has shut down only its sending side still has an owner.
        client.shutdown(Shutdown::Write).unwrap();
        for way in [known, look_up] {
            assert_eq!(way(peer, here), Some(this_user()));
        }
    }

    #[test]
    fn the_owner_of_an_ipv6_clients_connection_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let Ok(_client) = TcpStream::connect(("::ffff:127.0.0.1", here.port())) else { return };
        let (_accepted, peer) = listener.accept().unwrap();
        for way in [known, look_up] {
            assert_eq!(way(peer, here), Some(this_user()));
        }
    }

    #[test]
    fn a_closed_socket_has_no_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let client = TcpStream::connect(here).unwrap();
        let (_accepted, peer) = listener.accept().unwrap();
        drop(client);
        // The kernel still lists the connection, with root as its owner.
        assert!(ask(peer, here).is_ok());
        for way in [known, look_up] {
            assert_eq!(way(peer, here), None);
        }
    }

    #[test]
    fn the_clients_end_is_looked_up_and_not_the_servers() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 5 1\n\
            1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 6 1\n\
            2: 0100007F:C351 0100007F:1F90 06 00000000:00000000 00:00000000 00000000     0        0 0 1\n";
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(find(table, at(50_000), at(8080)), Some(1000));
        assert_eq!(find(table, at(8080), at(50_000)), Some(0));
        assert_eq!(find(table, at(50_001), at(8080)), None);
        assert_eq!(find("", at(50_000), at(8080)), None);
    }
}
