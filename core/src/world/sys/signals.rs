//! The signals by which a service manager ends a process.

use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};

use super::child::last_errno;
use rustix::io::Errno;

/// A descriptor that can be read from once SIGTERM or SIGINT has come. From now on neither ends this process, or those
/// that it starts.
///
/// # Errors
/// When there is no descriptor left.
pub fn held_signals() -> Result<OwnedFd, Errno> {
    let set = ending();
    mask(libc::SIG_BLOCK, &set);
    // SAFETY: the set is initialized.
    let descriptor = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    if descriptor < 0 {
        return Err(last_errno());
    }
    // SAFETY: it is new, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Lets SIGTERM and SIGINT end this process, as they do unless the one that started it has held them back.
pub fn release_signals() {
    mask(libc::SIG_UNBLOCK, &ending());
}

fn mask(how: libc::c_int, set: &libc::sigset_t) {
    // SAFETY: the set is initialized, and the former one is not asked for.
    let _ = unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) };
}

fn ending() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) initializes the set.
    let _ = unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    // SAFETY: it is initialized now.
    let mut set = unsafe { set.assume_init() };
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the set is initialized, and there is such a signal.
        let _ = unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}
