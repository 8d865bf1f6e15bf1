//! Reads of files that a user names, in a process that has become this user.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::{FileError, FileProblem, READ, read_opened};

/// The magic numbers of file systems whose content the kernel generates: from `linux/magic.h`, or from the file in
/// parentheses.
const PSEUDO: [u32; 27] = [
    0x0000_9fa0, // proc
    0x6265_6572, // sysfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x0765_5821, // resctrl
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0xf97c_ff8c, // selinuxfs
    0x4341_5d53, // smackfs
    0x5a3c_69f0, // apparmorfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0x4249_4e4d, // binfmt_misc
    0x6265_6570, // configfs (fs/configfs/mount.c)
    0x6573_5543, // fusectl (fs/fuse/control.c)
    0x0000_1cd1, // devpts
    0x6c6f_6f70, // binder
    0x1980_0202, // mqueue (ipc/mqueue.c)
    0x6759_6969, // rpc_pipefs (net/sunrpc/rpc_pipe.c)
    0x6e66_7364, // nfsd (fs/nfsd/nfsctl.c)
    0x6e73_6673, // nsfs
    0x5049_4446, // pidfs
    0xabba_1974, // xenfs
    0x0000_9fa1, // openpromfs
    0x0000_9fa2, // usbfs
];

/// Reads a regular file of at most `longest` bytes from a path that a user names. Refuses files whose content the
/// kernel generates, as in `/proc`.
///
/// # Errors
/// When it is not such a file or cannot be read.
pub fn read_users(path: &Path, longest: u64) -> Result<Vec<u8>, FileError> {
    let file = open(path)?;
    let stat = rustix::fs::fstatfs(&file).map_err(|errno| FileError::system(path, "examine it", errno))?;
    // Magic numbers have 32 bits; the field is signed and can be longer.
    if PSEUDO.contains(&(stat.f_type as u32)) {
        return Err(FileError::new(path, FileProblem::Pseudo));
    }
    read_opened(file, path, longest, |_| Ok(()))
}

/// Opens a file without following magic links such as those in `/proc/PID/fd`, which bypass path permissions.
fn open(path: &Path) -> Result<OwnedFd, FileError> {
    let problem = |errno| FileError::system(path, "open it", errno);
    match rustix::fs::openat2(CWD, path, READ, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        // Kernels before 5.6 do not have the call, and a container's seccomp filter that does not know it returns
        // EPERM.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::open(path, READ, Mode::empty()).map_err(problem),
        Err(Errno::LOOP) if rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).is_ok() => {
            Err(FileError::new(path, FileProblem::Pseudo))
        }
        result => result.map_err(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_that_the_kernel_generates_are_refused() {
        let directory = crate::testing::directory();
        let link = directory.join("link");
        for target in
            ["/proc/self/maps", "/proc/self/../version", "/sys/kernel/uevent_seqnum", "/sys/fs/cgroup/cgroup.procs"]
        {
            if !Path::new(target).exists() {
                continue;
            }
            let _ = std::fs::remove_file(&link);
            symlink(target, &link).unwrap();
            for path in [Path::new(target), &link] {
                assert_eq!(read_users(path, 1 << 20).unwrap_err().problem, FileProblem::Pseudo, "{}", path.display());
            }
        }
    }

    #[test]
    fn an_open_file_is_not_read_through_its_descriptor_link() {
        let directory = crate::testing::directory();
        let path = directory.join("file");
        std::fs::write(&path, "content").unwrap();
        assert_eq!(read_users(&path, 7).unwrap(), b"content");
        let file = std::fs::File::open(&path).unwrap();
        let link = directory.join("link");
        symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), &link).unwrap();
        assert_eq!(std::fs::read(&link).unwrap(), b"content");
        assert_eq!(read_users(&link, 7).unwrap_err().problem, FileProblem::Pseudo);
    }

    #[test]
    fn a_users_links_are_followed_unless_they_form_a_loop() {
        let directory = crate::testing::directory();
        std::fs::write(directory.join("file"), "content").unwrap();
        symlink("file", directory.join("link")).unwrap();
        symlink("round", directory.join("round")).unwrap();
        assert_eq!(read_users(&directory.join("link"), 7).unwrap(), b"content");
        let round = read_users(&directory.join("round"), 7).unwrap_err();
        assert!(matches!(round.problem, FileProblem::System { errno: Errno::LOOP, .. }), "{round}");
        assert!(read_users(&directory.join("none"), 7).unwrap_err().is_absent());
        assert_eq!(read_users(&directory, 7).unwrap_err().problem, FileProblem::NotAFile);
    }
}
