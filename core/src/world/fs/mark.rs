//! An extended attribute that marks published files that belong to a user, so that they are recognized wherever the
//! user has them open.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::XattrFlags;

/// Only a process with CAP_SYS_ADMIN can see or change an attribute of this class, xattr(7).
const NAME: &str = "trusted.gcp-wif";

/// Marks a file. If the file system or a container does not allow it, the file is recognized only by its name.
pub(super) fn mark(file: impl AsFd) {
    let _ = rustix::fs::fsetxattr(file, NAME, &[], XattrFlags::empty());
}

pub(super) fn is_marked(path: &Path) -> bool {
    rustix::fs::getxattr(path, NAME, &mut [0; 0]).is_ok()
}
