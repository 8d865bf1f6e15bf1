//! What only libc offers: the user database, child processes, and the end of a process.

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

/// Makes this process the user's for good: groups, group and user, real, effective and saved.
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

/// Whether a shared object with this ending of its name was loaded before the one that holds this function.
pub fn is_loaded_earlier(ending: &str) -> bool {
    struct Search<'a> {
        ending: &'a [u8],
        here: usize,
        found: bool,
        over: bool,
    }
    unsafe extern "C" fn look(info: *mut libc::dl_phdr_info, _: usize, data: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `data` is the Search of the call below, which outlives it.
        let search = unsafe { &mut *data.cast::<Search<'_>>() };
        // SAFETY: the loader passes a valid structure.
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
            // SAFETY: the name is a C string of the loader's.
            let name = unsafe { CStr::from_ptr(info.dlpi_name) };
            search.found |= name.to_bytes().ends_with(search.ending);
        }
        libc::c_int::from(search.over)
    }
    let mut search =
        Search { ending: ending.as_bytes(), here: is_loaded_earlier as *const () as usize, found: false, over: false };
    // SAFETY: `look` keeps to the loader's contract, and `search` lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut search).cast()) };
    search.found && search.over
}

/// Ends this process at once, without the destructors and handlers of the program that we are loaded into.
pub fn end_process(status: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Sets a variable of this process's own environment.
pub fn set_own_variable(name: &str, value: &str) {
    // SAFETY: as for `remove_own_variable`.
    unsafe { std::env::set_var(name, value) }
}

/// Takes a variable out of this process's own environment.
pub fn remove_own_variable(name: &str) {
    // SAFETY: called from the hooks of srun, sbatch and salloc, in their one thread of that time.
    unsafe { std::env::remove_var(name) }
}

/// Leaves the session, terminal and working directory of the process that started this one.
pub fn leave_session() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir("/");
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// A descriptor that this process was started with, by its number. Nothing else in the process may use it.
pub fn inherited_descriptor(number: i32) -> Option<OwnedFd> {
    // SAFETY: only the number is looked at.
    let exists = number > 2 && unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    // SAFETY: it is open, and the caller promises that nothing else owns it.
    exists.then(|| unsafe { std::os::fd::FromRawFd::from_raw_fd(number) })
}

/// Prepares this process to hold tokens: it leaves no core dump, and its user cannot trace it.
pub fn guard_secrets() {
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Has this process's threads share one heap, so that it stays small. Call it before the first thread starts.
pub fn share_heap() {
    // SAFETY: mallopt(3) has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1)
    };
}

/// Gives memory that is free back to the system.
pub fn trim_heap() {
    // SAFETY: malloc_trim(3) has no preconditions.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Lets this process have as many descriptors as it may.
pub fn allow_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_guarded_process_leaves_no_core_and_cannot_be_traced() {
        let told = in_child(Duration::from_secs(20), || {
            // As slurmd's administrators may set it. If this process may not, it is guarded already.
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
