//! POSIX ACLs that let one user enter a directory or read a file that belongs to root.
#![forbid(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, XattrFlags};
use rustix::io::Errno;

const NAME: &str = "system.posix_acl_access";
/// `include/uapi/linux/posix_acl_xattr.h`
const VERSION: u32 = 2;
/// `include/uapi/linux/posix_acl.h`: tags of the entries, in the order that the kernel requires.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const UNDEFINED_ID: u32 = u32::MAX;

const READ: u16 = 0o4;
const READ_AND_ENTER: u16 = 0o5;

/// Lets `uid` list and enter the directory, and nobody else except the owner. If the file system has no ACLs, everybody
/// can enter the directory but only the owner can list it.
///
/// # Errors
/// When neither an ACL nor the mode can be set.
pub(super) fn let_in(directory: &OwnedFd, uid: u32) -> rustix::io::Result<()> {
    match set(directory, 0o7, uid, READ_AND_ENTER) {
        Err(Errno::NOTSUP | Errno::NOSYS) => rustix::fs::fchmod(directory, Mode::from_raw_mode(0o711)),
        result => result,
    }
}

/// Lets `uid` read a file, and nobody else except the owner.
///
/// # Errors
/// When the ACL cannot be set; `NOTSUP` if the file system has no ACLs.
pub(super) fn let_read(file: &File, uid: u32) -> rustix::io::Result<()> {
    set(file, READ, uid, READ)
}

fn set(file: impl AsFd, owners: u16, uid: u32, permissions: u16) -> rustix::io::Result<()> {
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (USER_OBJ, owners, UNDEFINED_ID),
        (USER, permissions, uid),
        (GROUP_OBJ, 0, UNDEFINED_ID),
        (MASK, permissions, UNDEFINED_ID),
        (OTHER, 0, UNDEFINED_ID),
    ] {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    rustix::fs::fsetxattr(file, NAME, &value, XattrFlags::empty())
}
