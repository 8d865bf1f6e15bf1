//! Symbolic links with which root remembers directories.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::FileError;
use super::held::{directory_flags, make_directory};

/// Returns the links in a directory, as names with targets. A directory that others than root can change counts as
/// empty.
pub fn links(directory: &Path) -> Vec<(String, PathBuf)> {
    let Ok(held) = rustix::fs::open(directory, directory_flags() | OFlags::NOFOLLOW, Mode::empty()) else {
        return Vec::new();
    };
    let is_roots = rustix::fs::fstat(&held)
        .is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o022 == 0);
    let Some(entries) = Dir::read_from(&held).ok().filter(|_| is_roots) else { return Vec::new() };
    let link = |name: &str| {
        let target = rustix::fs::readlinkat(&held, name, Vec::new()).ok()?;
        Some((name.to_owned(), PathBuf::from(OsStr::from_bytes(target.to_bytes()))))
    };
    let mut links: Vec<_> = entries.flatten().filter_map(|entry| link(entry.file_name().to_str().ok()?)).collect();
    links.sort();
    links
}

/// Remembers a directory with a link in `parent/name`, and creates that directory if it is absent.
///
/// # Errors
/// When the link cannot be created.
pub fn remember_link(parent: &Path, name: &str, target: &Path) -> Result<(), FileError> {
    let path = parent.join(name);
    if links(&path).iter().any(|(_, known)| known == target) {
        return Ok(());
    }
    let owner = rustix::process::geteuid().as_raw();
    let above = parent.parent().unwrap_or(Path::new("/"));
    let above = rustix::fs::open(above, directory_flags(), Mode::empty())
        .map_err(|errno| FileError::system(above, "open it", errno))?;
    let held = make_directory(&above, parent.file_name().unwrap_or_default(), parent, Some(0o711), owner)?;
    let held = make_directory(&held, OsStr::new(name), &path, Some(0o700), owner)?;
    for number in 0.. {
        match rustix::fs::symlinkat(target, &held, number.to_string()) {
            Err(Errno::EXIST) => {}
            result => return result.map_err(|errno| FileError::system(&path, "write it", errno)),
        }
    }
    Ok(())
}

/// Removes a link.
pub fn forget_link(directory: &Path, name: &str) {
    if let Ok(held) = rustix::fs::open(directory, directory_flags() | OFlags::NOFOLLOW, Mode::empty()) {
        // If this fails, the next job's start repeats it.
        let _ = rustix::fs::unlinkat(&held, name, AtFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_remembered_once_and_forgotten() {
        let directory = crate::testing::directory();
        let parent = directory.join("run");
        for target in ["/a", "/b", "/a"] {
            remember_link(&parent, "elsewhere", Path::new(target)).unwrap();
        }
        let path = parent.join("elsewhere");
        let targets = || links(&path).into_iter().map(|(_, target)| target).collect::<Vec<_>>();
        assert_eq!(targets(), [Path::new("/a"), Path::new("/b")]);
        forget_link(&path, "0");
        assert_eq!(targets(), [Path::new("/b")]);
        remember_link(&parent, "elsewhere", Path::new("/c")).unwrap();
        assert_eq!(targets(), [Path::new("/c"), Path::new("/b")]);
        std::os::unix::fs::chown(&path, Some(61001), None).unwrap();
        assert!(targets().is_empty(), "what is not root's was believed");
    }
}
