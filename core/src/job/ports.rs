//! Chooses the port where the agent listens for a job.
//!
//! Ports below `net.ipv4.ip_unprivileged_port_start` come first. Only a process with a capability can bind them, so no
//! user can take all of them, or one whose agent has died. The ports of services stay free, and so do 665 to 1023, from
//! which NFS connects (`sunrpc.min_resvport`). The others are below the ports that the kernel gives to connections and
//! Kubernetes to NodePorts, so that none of these takes one while the agent restarts.
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
/// Node's fetch and browsers refuse these: the "bad ports" of <https://fetch.spec.whatwg.org/#port-blocking> that are
/// in the range.
const BAD: [u16; 66] = [
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
    111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532,
    540, 548, 554, 556, 563, 587, 601, 636, 80, 443, 88, 445, 631, 546, 547,
];
/// Kernels start here unless they are told otherwise.
const DEFAULT_START: u16 = 1024;
/// How each handle begins, so that one that strays into a log or a repository is found.
const HANDLE: &str = "gcpwif_";

/// A port that is free now and not taken, and a handle that nobody can guess.
///
/// # Errors
/// When there is none, or no randomness.
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

/// All candidates: first the ports that no user can bind, then the others, each kind turned by `offset`.
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

/// The first port of this network namespace that any user can bind.
fn first_unprivileged() -> u16 {
    let text = fs::read_system(Path::new("/proc/sys/net/ipv4/ip_unprivileged_port_start"));
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT_START)
}

/// The ports that services(5) names.
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
    fn a_new_port_is_not_taken_and_has_a_handle_of_its_own() {
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
        // Of the ports below 1024, those that users can bind are left alone.
        assert!(candidates(100, &services, 0).all(|port| !(100..20_000).contains(&port)));
        // A whole turn.
        let turned: BTreeSet<u16> = candidates(1024, &services, u64::MAX).collect();
        assert_eq!(turned, all.iter().copied().collect());
        // A site can keep all of them for root.
        assert_eq!(candidates(u16::MAX, &services, 0).count(), all.len());
    }
}
