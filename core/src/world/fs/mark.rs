//! A mark on the files that root publishes as a user's own, by which they are known wherever the user has them open.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::XattrFlags;

/// Only a process with CAP_SYS_ADMIN can see, set or remove it, xattr(7).
const NAME: &str = "trusted.gcp-wif";

/// Marks a file. A file system or a container may not allow it: then the file is known by its name alone.
pub(super) fn mark(file: impl AsFd) {
    let _ = rustix::fs::fsetxattr(file, NAME, &[], XattrFlags::empty());
}

pub(super) fn is_marked(path: &Path) -> bool {
    rustix::fs::getxattr(path, NAME, &mut [0; 0]).is_ok()
}
