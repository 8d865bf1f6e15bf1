//! Checks the runtime directory without changing it.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::report::Report;
use gcp_wif_core::plan::report::Stage;
use gcp_wif_core::world::fs::{FileError, FileProblem};

const STAGE: Stage = Stage::Files;
const DIRECTORY: &str = "runtime directory";
const SPACE: &str = "free space";
const MEMORY: &str = "tmpfs";
/// `TMPFS_MAGIC` of `include/uapi/linux/magic.h`
const TMPFS: i64 = 0x0102_1994;
/// `RAMFS_MAGIC`
const RAMFS: i64 = 0x8584_58f6;
/// The free space below which the check fails, in bytes. A step's enroot configuration repeats the token for each
/// registry and takes up to half of this.
const LEAST: u64 = 1 << 20;
/// The free space that a node's jobs may need at the same time, in bytes.
const ENOUGH: u64 = 16 << 20;

pub(super) fn check(report: &mut Report<'_, '_>, path: Option<&Path>) {
    let Some(path) = path else {
        for name in [DIRECTORY, SPACE, MEMORY] {
            report.skip(STAGE, name, "needs the site configuration");
        }
        return;
    };
    match open(path) {
        Ok((directory, true)) => {
            report.ok(STAGE, DIRECTORY, path.display());
            file_system(report, &directory, path);
        }
        Ok((parent, false)) => {
            report.ok(STAGE, DIRECTORY, format_args!("{}, created by the first job", path.display()));
            file_system(report, &parent, path);
        }
        Err(error) => {
            let fix = match error.problem {
                FileProblem::OwnedBy(_) | FileProblem::Writable(_) => error.fix().unwrap_or_default(),
                _ => "make it a directory that root owns, with mode 0711".to_owned(),
            };
            report.failure(DIRECTORY, error, &fix);
            for name in [SPACE, MEMORY] {
                report.skip(STAGE, name, "needs the runtime directory");
            }
        }
    }
}

/// Opens the runtime directory and returns it with true, or its parent with false if it does not exist.
fn open(path: &Path) -> Result<(OwnedFd, bool), FileError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let system = |path: &Path, errno| FileError::new(path, FileProblem::System { action: "open it", errno });
    let directory = match rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => {
            let parent = path.parent().unwrap_or(Path::new("/"));
            return rustix::fs::open(parent, flags, Mode::empty())
                .map(|parent| (parent, false))
                .map_err(|errno| system(parent, errno));
        }
        Err(errno) => return Err(system(path, errno)),
    };
    let stat = rustix::fs::fstat(&directory).map_err(|errno| system(path, errno))?;
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != 0 {
        Err(FileError::new(path, FileProblem::OwnedBy(stat.st_uid)))
    } else if mode & 0o022 != 0 {
        Err(FileError::new(path, FileProblem::Writable(mode)))
    } else {
        Ok((directory, true))
    }
}

fn file_system(report: &mut Report<'_, '_>, directory: &OwnedFd, path: &Path) {
    let cannot = |errno| FileError::new(path, FileProblem::System { action: "write to it", errno });
    match rustix::fs::fstatvfs(directory) {
        Err(errno) => report.failure(SPACE, cannot(errno), ""),
        Ok(stat) if stat.f_flag.contains(StatVfsMountFlags::RDONLY) => {
            report.failure(SPACE, cannot(Errno::ROFS), "mount it writable");
        }
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let no_inodes = stat.f_files > 0 && stat.f_favail == 0;
            if free < LEAST || no_inodes {
                report.failure(SPACE, cannot(Errno::NOSPC), "free some space");
            } else if free < ENOUGH {
                let free = free >> 20;
                report.warn(STAGE, SPACE, format_args!("{free} MiB left; a node's jobs may need 16 at the same time"));
            } else {
                report.ok(STAGE, SPACE, format_args!("{} MiB", free >> 20));
            }
        }
    }
    match rustix::fs::fstatfs(directory).map(|stat| stat.f_type) {
        Ok(TMPFS | RAMFS) => report.ok(STAGE, MEMORY, "yes"),
        _ => report.warn(
            STAGE,
            MEMORY,
            format_args!("{} is on a disk, where tokens survive a crash; put it on tmpfs", path.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_a_directory_that_root_alone_can_change_is_accepted() {
        let directory = gcp_wif_core::testing::directory();
        let path = directory.join("run");
        assert!(matches!(open(&path), Ok((_, false))));
        assert!(open(&path.join("deeper")).unwrap_err().is_absent());
        std::fs::create_dir(&path).unwrap();
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o711);
        assert!(matches!(open(&path), Ok((_, true))));
        mode(0o731);
        assert_eq!(open(&path).unwrap_err().problem, FileProblem::Writable(0o731));
        mode(0o711);
        std::os::unix::fs::chown(&path, Some(61001), None).unwrap();
        assert_eq!(open(&path).unwrap_err().problem, FileProblem::OwnedBy(61001));
        std::fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink("/tmp", &path).unwrap();
        assert!(open(&path).is_err(), "a link was followed");
    }
}
