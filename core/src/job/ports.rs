//! Chooses the port at which the agent serves a job.
//!
//! Ports below `net.ipv4.ip_unprivileged_port_start` come first. Only a process with CAP_NET_BIND_SERVICE can bind
//! them, so a user can neither exhaust them nor take a job's port while the agent restarts. Ports of known services are
//! left free, and so are 665 to 1023, from which NFS connects (`sunrpc.min_resvport`). The other candidates are below
//! the kernel's ephemeral ports and Kubernetes' NodePorts, so that neither takes one while the agent restarts.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use crate::plan::record::Port;
use crate::plan::report::Failure;
use crate::words::secret::Secret;
use crate::world::fs;

const PRIVILEGED: std::ops::RangeInclusive<u16> = 1..=664;
const OTHERS: std::ops::RangeInclusive<u16> = 20_000..=29_499;
/// The "bad ports" of <https://fetch.spec.whatwg.org/#port-blocking> within the range. Node's fetch and browsers refuse
/// them.
const BAD: [u16; 66] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532,
    540, 548, 554, 556, 563, 587, 601, 636, 80, 443, 88, 445, 631, 546, 547,
];
/// The kernel's default for `ip_unprivileged_port_start`.
const DEFAULT_START: u16 = 1024;
/// The prefix of handles, so that secret scanners find one in a log or a repository.
const HANDLE: &str = "gcpwif_";

/// Returns a port that is free now and not in `taken`, with a random handle.
///
/// # Errors
/// When no port is free, or no random bytes are available.
pub(super) fn new_port(taken: &BTreeSet<u16>) -> Result<Port, Failure> {
    let mut bytes = Zeroizing::new([0; 32]);
    random(bytes.as_mut_slice())?;
    let handle = Secret::new(format!("{HANDLE}{}", URL_SAFE_NO_PAD.encode(bytes.as_slice())));
    let mut offset = [0; 8];
    random(&mut offset)?;
    let services = services();
    let is_free = |port: &u16| !taken.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut candidates = candidates(first_unprivileged(), &services, u64::from_ne_bytes(offset));
    let number = candidates.find(is_free).ok_or_else(|| Failure::of_agent("no loopback port is free"))?;
    Ok(Port { number, handle })
}

/// Returns all candidates: first the ports that no user can bind, then the others. Both groups are rotated by `offset`.
fn candidates(start: u16, services: &BTreeSet<u16>, offset: u64) -> impl Iterator<Item = u16> {
    let all = PRIVILEGED.filter(|port| !services.contains(port) && !BAD.contains(port)).chain(OTHERS);
    let (privileged, others): (Vec<u16>, Vec<u16>) =
        all.filter(|port| *port < start || OTHERS.contains(port)).partition(|port| *port < start);
    from(privileged, offset).chain(from(others, offset))
}

fn from(mut ports: Vec<u16>, offset: u64) -> impl Iterator<Item = u16> {
    if let Some(offset) = usize::try_from(offset).ok().and_then(|offset| offset.checked_rem(ports.len())) {
        ports.rotate_left(offset);
    }
    ports.into_iter()
}

/// Returns the first port that any user can bind in this network namespace.
fn first_unprivileged() -> u16 {
    let text = fs::read_system(Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start"));
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_START)
}

/// Returns the ports in services(5).
fn services() -> BTreeSet<u16> {
    let text = fs::read_system(Path::new("/etc/services")).unwrap_or_default();
    let port = |line: &str| line.split('#').next()?.split_whitespace().nth(1)?.split('/').next()?.parse().ok();
    text.lines().filter_map(port).collect()
}

fn random(bytes: &mut [u8]) -> Result<(), Failure> {
    getrandom::getrandom(bytes).map_err(|_| Failure::of_agent("the system has no randomness"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_port_is_not_taken_and_has_its_own_handle() {
        let first = new_port(&BTreeSet::new()).unwrap();
        let second = new_port(&BTreeSet::from([first.number])).unwrap();
        assert_ne!(first.number, second.number);
        let handle = first.handle.expose();
        assert!(handle.starts_with(HANDLE) && handle.len() == HANDLE.len() + 43 && handle != second.handle.expose());
        assert!(new_port(&(0..=u16::MAX).collect()).is_err());
    }

    #[test]
    fn ports_that_no_user_can_bind_come_first() {
        let services = BTreeSet::from([2, 664]);
        let first = |start: u16, offset| candidates(start, &services, offset).next();
        let all: Vec<u16> = candidates(1024, &services, 0).collect();
        assert_eq!((all.first(), all.last()), (Some(&3), Some(&29_499)));
        assert!(!all.contains(&664) && !all.contains(&22) && !all.contains(&665));
        assert_eq!((first(0, 0), first(100, 0), first(0, 7)), (Some(20_000), Some(3), Some(20_007)));
        // Ports below 1024 that users can bind are not used.
        assert!(candidates(100, &services, 0).all(|port| !(100..20_000).contains(&port)));
        // A rotation keeps all candidates.
        let turned: BTreeSet<u16> = candidates(1024, &services, u64::MAX).collect();
        assert_eq!(turned, all.iter().copied().collect());
        // A site can reserve all ports for root.
        assert_eq!(candidates(u16::MAX, &services, 0).count(), all.len());
    }
}
