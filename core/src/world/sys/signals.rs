//! SIGTERM and SIGINT, with which a service manager ends a process.

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

use super::child::last_errno;
use rustix::io::Errno;

/// Blocks SIGTERM and SIGINT for this process and for processes that it starts. Returns a descriptor that becomes
/// readable when one of them arrives.
///
/// # Errors
/// When no descriptor can be opened.
pub fn held_signals() -> Result<OwnedFd, Errno> {
    let set = ending();
    mask(libc::SIG_BLOCK, &set);
    // SAFETY: the set is initialized.
    let descriptor = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(last_errno());
    }
    // SAFETY: the descriptor is new, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Unblocks SIGTERM and SIGINT, which the parent process may have blocked with [`held_signals`].
pub fn release_signals() {
    mask(libc::SIG_UNBLOCK, &ending());
}

fn mask(how: libc::c_int, set: &libc::sigset_t) {
    // SAFETY: the set is initialized, and a null pointer is allowed for the old mask.
    let _ = unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) };
}

fn ending() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) initializes the set.
    let _ = unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: the set is initialized now.
    let mut set = unsafe { set.assume_init() };
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the set is initialized, and the signal number is valid.
        let _ = unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}
