//! A POSIX ACL that lets one user into a directory of root's, read-only.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, XattrFlags};
use rustix::io::Errno;

const NAME: &str = "system.posix_acl_access";
/// `include/uapi/linux/posix_acl_xattr.h`
const VERSION: u32 = 2;
/// `include/uapi/linux/posix_acl.h`: tags of the entries, in the order that the kernel asks for.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
const UNDEFINED_ID: u32 = u32::MAX;

const READ_AND_ENTER: u16 = 0o5;

/// Gives `uid` the right to list and enter the directory; nobody else but the owner has one.
///
/// # Errors
/// When neither an ACL nor the mode can be set.
pub(super) fn let_in(directory: &OwnedFd, uid: u32) -> rustix::io::Result<()> {
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (USER_OBJ, 0o7, UNDEFINED_ID),
        (USER, READ_AND_ENTER, uid),
        (GROUP_OBJ, 0, UNDEFINED_ID),
        (MASK, READ_AND_ENTER, UNDEFINED_ID),
        (OTHER, 0, UNDEFINED_ID),
    ] {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    match rustix::fs::fsetxattr(directory, NAME, &value, XattrFlags::empty()) {
        Err(Errno::NOTSUP | Errno::NOSYS) => rustix::fs::fchmod(directory, Mode::from_raw_mode(0o711)),
        result => result,
    }
}
