//! Who is at the other end of a loopback connection, by the kernel's own record of the socket's owner.
//!
//! A process inside a container or a user namespace shows up as the user that it is outside.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// The kernel's table of IPv4 sockets of this network namespace, proc_net_tcp.txt in the kernel's documentation.
const TABLE: &str = "/proc/net/tcp";

/// The user that owns the socket at `peer` which is connected to `here`.
pub fn owner(peer: SocketAddr, here: SocketAddr) -> Option<u32> {
    let table = std::fs::read_to_string(Path::new(TABLE)).ok()?;
    find(&table, peer, here)
}

fn find(table: &str, peer: SocketAddr, here: SocketAddr) -> Option<u32> {
    let (local, remote) = (hexadecimal(peer)?, hexadecimal(here)?);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ends = (fields.next()?, fields.next()?);
        // Between the addresses and the owner: state, queues, timer, retransmissions.
        (ends == (local.as_str(), remote.as_str())).then(|| fields.nth(4)?.parse().ok())?
    })
}

/// An address as the table has it: in the machine's byte order, in hexadecimal.
fn hexadecimal(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(Ipv4Addr::octets(&ip)), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_real_connection_has_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let client = TcpStream::connect(here).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(owner(peer, here), Some(rustix::process::geteuid().as_raw()));
        let stranger = "127.0.0.1:1".parse().unwrap();
        assert_eq!(owner(stranger, here), None);
        drop(client);
    }

    #[test]
    fn the_client_end_is_looked_at_and_not_ours() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 1 1\n\
            1: 0100007F:C350 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2 1\n";
        let (peer, here) = ("127.0.0.1:50000".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
        assert_eq!(find(table, peer, here), Some(1000));
        assert_eq!(find(table, here, peer), Some(0));
        assert_eq!(find("", peer, here), None);
    }
}
