//! System interfaces that need libc: the user database, child processes, signals and process attributes.

mod child;
mod signals;
mod users;

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid, getrlimit, setrlimit};

pub use child::{ChildError, detach, fork_alone, in_child, in_child_of_user, spawn_detached};
pub use signals::{held_signals, release_signals};
pub use users::{Group, User, groups, named_groups, user, user_name, user_named};

/// Changes this process to a user irrevocably: supplementary groups, and the real, effective and saved group and user.
///
/// # Errors
/// When one of them cannot be set.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<(), Errno> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}

/// Returns whether a shared object whose name ends in `ending` was loaded before the one that contains this function.
pub fn is_loaded_earlier(ending: &str) -> bool {
    struct Search<'a> {
        ending: &'a [u8],
        here: usize,
        found: bool,
        over: bool,
    }
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _: usize, data: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `data` points to the `Search` of the call below, which outlives this function.
        let search = unsafe { &mut *data.cast::<Search<'_>>() };
        // SAFETY: the dynamic loader passes a valid structure.
        let info = unsafe { &*info };
        // SAFETY: the structure has that many headers.
        let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let holds = |header: &libc::Elf64_Phdr| {
            let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
            header.p_type == libc::PT_LOAD
                && (start..start.wrapping_add(header.p_memsz as usize)).contains(&search.here)
        };
        if headers.iter().any(holds) {
            search.over = true;
        } else if !info.dlpi_name.is_null() && !search.over {
            // SAFETY: the dynamic loader passes a C string.
            let name = unsafe { CStr::from_ptr(info.dlpi_name) };
            search.found |= name.to_bytes().ends_with(search.ending);
        }
        libc::c_int::from(search.over)
    }
    let mut search =
        Search { ending: ending.as_bytes(), here: is_loaded_earlier as *const () as usize, found: false, over: false };
    // SAFETY: `look` has the signature that dl_iterate_phdr(3) requires, and `search` lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found && search.over
}

/// Ends this process at once, without running destructors and exit handlers of the program that has loaded the plugin.
pub fn end_process(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Sets an environment variable of this process.
pub fn set_own_variable(name: &str, value: &str) {
    // SAFETY: as for `remove_own_variable`.
    unsafe { std::env::set_var(name, value) }
}

/// Removes an environment variable of this process.
pub fn remove_own_variable(name: &str) {
    // SAFETY: only the hooks of srun, sbatch and salloc call this, while the process has one thread.
    unsafe { std::env::remove_var(name) }
}

/// Starts a new session, changes to `/` and connects the standard streams to /dev/null.
pub fn leave_session() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Takes ownership of a descriptor that this process inherited. Nothing else in the process may use it.
pub fn inherited_descriptor(number: i32) -> Option<OwnedFd> {
    // SAFETY: F_GETFD only checks whether the number is open.
    let exists = number > 2 && unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    // SAFETY: it is open, and the caller promises that nothing else owns it.
    exists.then(|| unsafe { std::os::fd::FromRawFd::from_raw_fd(number) })
}

/// Protects the memory of this process, which holds tokens: no core dump, and its user cannot trace it.
pub fn guard_secrets() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Makes all threads of this process share one heap, which keeps it small. Call it before the first thread starts.
pub fn share_heap() {
    // SAFETY: mallopt(3) has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Returns free memory to the system.
pub fn trim_heap() {
    // SAFETY: malloc_trim(3) has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Raises the limit of open descriptors to its maximum.
pub fn allow_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_protected_process_dumps_no_core_and_cannot_be_traced() {
        let told = in_child(Duration::from_secs(20), || {
            // Enable both first, as an administrator may have done for slurmd. If that fails, the process is protected
            // already.
            let _ = setrlimit(Resource::Core, Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) });
            let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
            guard_secrets();
            let core = getrlimit(Resource::Core);
            format!("{:?} {core:?}", rustix::process::dumpable_behavior()).into_bytes()
        });
        let expected = "Ok(NotDumpable) Rlimit { current: Some(0), maximum: Some(0) }";
        assert_eq!(String::from_utf8(told.unwrap()).unwrap(), expected);
    }
}
