//! The system calls that can change a directory tree, and the paths that they change.
//!
//! The list contains all system calls of the kernel on x86-64 that change a file by path or by descriptor, and not only
//! those that the project uses. A test makes all of them fail and checks that nothing has changed, so none is missing.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use nix::libc::{self, c_int, c_long};

/// The arguments of a call that name the file it changes.
enum Operand {
    /// A descriptor.
    File(usize),
    /// A path.
    Path(usize),
    /// A directory's descriptor, and a path relative to it. If the path is null, the descriptor is the file.
    At(usize, usize),
    /// The address of a socket, which can be a path.
    Socket(usize),
}
use Operand::{At, File as Fd, Path as Name, Socket};

const CALLS: &[(c_long, &str, &[Operand])] = &[
    (libc::SYS_write, "write", &[Fd(0)]),
    (libc::SYS_pwrite64, "pwrite64", &[Fd(0)]),
    (libc::SYS_writev, "writev", &[Fd(0)]),
    (libc::SYS_pwritev, "pwritev", &[Fd(0)]),
    (libc::SYS_pwritev2, "pwritev2", &[Fd(0)]),
    (libc::SYS_sendfile, "sendfile", &[Fd(0)]),
    (libc::SYS_splice, "splice", &[Fd(2)]),
    (libc::SYS_copy_file_range, "copy_file_range", &[Fd(2)]),
    (libc::SYS_ftruncate, "ftruncate", &[Fd(0)]),
    (libc::SYS_truncate, "truncate", &[Name(0)]),
    (libc::SYS_fallocate, "fallocate", &[Fd(0)]),
    (libc::SYS_fchmod, "fchmod", &[Fd(0)]),
    (libc::SYS_chmod, "chmod", &[Name(0)]),
    (libc::SYS_fchmodat, "fchmodat", &[At(0, 1)]),
    (libc::SYS_fchmodat2, "fchmodat2", &[At(0, 1)]),
    (libc::SYS_fchown, "fchown", &[Fd(0)]),
    (libc::SYS_chown, "chown", &[Name(0)]),
    (libc::SYS_lchown, "lchown", &[Name(0)]),
    (libc::SYS_fchownat, "fchownat", &[At(0, 1)]),
    (libc::SYS_fsetxattr, "fsetxattr", &[Fd(0)]),
    (libc::SYS_setxattr, "setxattr", &[Name(0)]),
    (libc::SYS_lsetxattr, "lsetxattr", &[Name(0)]),
    (libc::SYS_fremovexattr, "fremovexattr", &[Fd(0)]),
    (libc::SYS_removexattr, "removexattr", &[Name(0)]),
    (libc::SYS_lremovexattr, "lremovexattr", &[Name(0)]),
    (libc::SYS_utime, "utime", &[Name(0)]),
    (libc::SYS_utimes, "utimes", &[Name(0)]),
    (libc::SYS_futimesat, "futimesat", &[At(0, 1)]),
    (libc::SYS_utimensat, "utimensat", &[At(0, 1)]),
    (libc::SYS_mkdir, "mkdir", &[Name(0)]),
    (libc::SYS_mkdirat, "mkdirat", &[At(0, 1)]),
    (libc::SYS_mknod, "mknod", &[Name(0)]),
    (libc::SYS_mknodat, "mknodat", &[At(0, 1)]),
    (libc::SYS_rmdir, "rmdir", &[Name(0)]),
    (libc::SYS_unlink, "unlink", &[Name(0)]),
    (libc::SYS_unlinkat, "unlinkat", &[At(0, 1)]),
    (libc::SYS_rename, "rename", &[Name(0), Name(1)]),
    (libc::SYS_renameat, "renameat", &[At(0, 1), At(2, 3)]),
    (libc::SYS_renameat2, "renameat2", &[At(0, 1), At(2, 3)]),
    (libc::SYS_link, "link", &[Name(0), Name(1)]),
    (libc::SYS_linkat, "linkat", &[At(0, 1), At(2, 3)]),
    (libc::SYS_symlink, "symlink", &[Name(1)]),
    (libc::SYS_symlinkat, "symlinkat", &[At(1, 2)]),
    (libc::SYS_creat, "creat", &[Name(0)]),
    (libc::SYS_open, "open", &[Name(0)]),
    (libc::SYS_openat, "openat", &[At(0, 1)]),
    (libc::SYS_openat2, "openat2", &[At(0, 1)]),
    (libc::SYS_bind, "bind", &[Socket(1)]),
];

/// The size limit of a path, in bytes.
const LONGEST: usize = 4096;

/// Returns the numbers of the system calls.
#[allow(dead_code, reason = "only tests/slurm/crashes needs them")]
pub fn numbers() -> impl Iterator<Item = c_long> {
    CALLS.iter().map(|(number, ..)| *number)
}

/// A process at the entry of a system call.
pub struct Entered {
    pub process: i32,
    pub number: c_long,
    pub arguments: [u64; 6],
}

impl Entered {
    /// Returns the call's name, and the path that it would change below a directory, or `None` if it changes nothing
    /// there.
    pub fn change(&self, below: &Path) -> Option<(&'static str, PathBuf)> {
        let (_, name, operands) = CALLS.iter().find(|(call, ..)| *call == self.number)?;
        if !self.opens_to_write() {
            return None;
        }
        // The last path of a rename is the new name.
        let paths = operands.iter().rev().filter_map(|operand| self.path(operand));
        let changed = paths.map(|path| normal(&path)).find(|path| path.starts_with(below))?;
        Some((name, changed))
    }

    /// Returns whether a call that opens a file can change it. True for all other calls.
    fn opens_to_write(&self) -> bool {
        let flags = match self.number {
            libc::SYS_open => self.arguments[1],
            libc::SYS_openat => self.arguments[2],
            libc::SYS_openat2 => self.memory(self.arguments[2], 8).try_into().map_or(0, u64::from_ne_bytes),
            _ => return true,
        };
        let has = |flag: c_int| flags & u64::from(flag.unsigned_abs()) != 0;
        has(libc::O_WRONLY) || has(libc::O_RDWR) || has(libc::O_CREAT) || has(libc::O_TRUNC)
    }

    fn path(&self, operand: &Operand) -> Option<PathBuf> {
        match *operand {
            Fd(file) => self.descriptor(self.arguments[file]),
            Name(path) => Some(self.link("cwd")?.join(self.text(self.arguments[path])?)),
            At(directory, path) => match self.text(self.arguments[path]) {
                Some(path) if path.is_absolute() => Some(path),
                Some(path) => Some(self.descriptor(self.arguments[directory])?.join(path)),
                None => self.descriptor(self.arguments[directory]),
            },
            Socket(address) => {
                let bytes = self.memory(self.arguments[address], 110);
                let (family, path) = bytes.split_first_chunk()?;
                let path: Vec<u8> = path.iter().copied().take_while(|byte| *byte != 0).collect();
                (c_int::from(u16::from_ne_bytes(*family)) == libc::AF_UNIX && !path.is_empty())
                    .then(|| PathBuf::from(OsString::from_vec(path)))
            }
        }
    }

    fn descriptor(&self, number: u64) -> Option<PathBuf> {
        // The kernel uses only the lower 32 bits.
        let number = number as c_int;
        if number == libc::AT_FDCWD { self.link("cwd") } else { self.link(&format!("fd/{number}")) }
    }

    fn link(&self, name: &str) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/{name}", self.process)).ok()
    }

    fn text(&self, address: u64) -> Option<PathBuf> {
        let bytes = self.memory(address, LONGEST);
        let end = bytes.iter().position(|byte| *byte == 0)?;
        Some(PathBuf::from(OsString::from_vec(bytes[..end].to_vec())))
    }

    /// Reads up to `most` bytes of the process's memory at an address.
    fn memory(&self, address: u64, most: usize) -> Vec<u8> {
        let Ok(memory) = File::open(format!("/proc/{}/mem", self.process)) else { return Vec::new() };
        let mut bytes = vec![0; most];
        let mut length = 0;
        // Stop at the first page that is not mapped.
        while length < most {
            let (at, page) = (address + length as u64, 4096 - (address as usize + length) % 4096);
            let end = most.min(length + page);
            match memory.read_at(&mut bytes[length..end], at) {
                Ok(read @ 1..) => length += read,
                _ => break,
            }
        }
        bytes.truncate(length);
        bytes
    }
}

/// Removes `.` and `..` from a path.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}
