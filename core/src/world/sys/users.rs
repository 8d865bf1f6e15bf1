//! The user and group database.

use std::ffi::{CStr, CString};

use serde::{Deserialize, Serialize};

/// The buffer size for one entry of the user or group database, in bytes. Large groups have long member lists.
const ENTRY: usize = 1 << 20;
const MOST_GROUPS: usize = 65_536;

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The group ID.
    pub id: u32,
    /// The name, if the node knows it.
    pub name: Option<String>,
}

/// An entry of the user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The user ID.
    pub uid: u32,
    /// The ID of the primary group.
    pub gid: u32,
}

/// Returns the name of a user, if the node knows it.
pub fn user_name(uid: u32) -> Option<String> {
    user(uid).map(|user| user.name)
}

/// Looks up a user by ID.
pub fn user(uid: u32) -> Option<User> {
    // SAFETY: `look_up` passes pointers to live locals, and the buffer's length.
    look_up(|entry, buffer, length, found| unsafe { libc::getpwuid_r(uid, entry, buffer, length, found) })
}

/// Looks up a user by name.
pub fn user_named(name: &str) -> Option<User> {
    let name = CString::new(name).ok()?;
    // SAFETY: as in `user`, and `name` is a live C string.
    look_up(|entry, buffer, length, found| unsafe { libc::getpwnam_r(name.as_ptr(), entry, buffer, length, found) })
}

fn look_up(
    call: impl FnOnce(*mut libc::passwd, *mut libc::c_char, usize, *mut *mut libc::passwd) -> libc::c_int,
) -> Option<User> {
    let mut buffer = vec![0; ENTRY];
    // SAFETY: passwd is a plain C structure, for which all zeroes is a valid value.
    let mut entry: libc::passwd = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    let rc = call(&raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found);
    if rc != 0 || found.is_null() {
        return None;
    }
    // SAFETY: on success pw_name points into `buffer`, which is still live.
    let name = unsafe { CStr::from_ptr(entry.pw_name) };
    Some(User { name: name.to_str().ok()?.to_owned(), uid: entry.pw_uid, gid: entry.pw_gid })
}

/// Returns a user's groups: the primary group and those of the group database.
pub fn groups(user: Option<&str>, gid: u32) -> Vec<Group> {
    let mut ids = vec![gid];
    if let Some(name) = user.and_then(|name| CString::new(name).ok()) {
        let mut list: Vec<libc::gid_t> = vec![0; 64];
        loop {
            let mut count = libc::c_int::try_from(list.len()).unwrap_or(libc::c_int::MAX);
            // SAFETY: the list has room for `count` IDs, and `name` is a C string.
            let rc = unsafe { libc::getgrouplist(name.as_ptr(), gid, list.as_mut_ptr(), &raw mut count) };
            if rc >= 0 {
                ids.extend(list.iter().take(usize::try_from(count).unwrap_or(0)));
                break;
            }
            if list.len() >= MOST_GROUPS {
                break;
            }
            list.resize(list.len() * 4, 0);
        }
    }
    named_groups(ids)
}

/// Returns groups by ID, with their names if the node knows them.
pub fn named_groups(mut ids: Vec<u32>) -> Vec<Group> {
    ids.sort_unstable();
    ids.dedup();
    ids.into_iter().map(|id| Group { id, name: group_name(id) }).collect()
}

fn group_name(gid: u32) -> Option<String> {
    let mut buffer = vec![0; ENTRY];
    // SAFETY: group is a plain C structure, for which all zeroes is a valid value.
    let mut entry: libc::group = unsafe { std::mem::zeroed() };
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are to live locals, and the length is the buffer's.
    let rc = unsafe { libc::getgrgid_r(gid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found) };
    if rc != 0 || found.is_null() {
        return None;
    }
    // SAFETY: on success gr_name points into `buffer`, which is still live.
    let name = unsafe { CStr::from_ptr(entry.gr_name) };
    name.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_found_and_unknown_users_are_not() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(4_000_000_000), None);
        assert_eq!(user_named("root"), user(0));
        assert_eq!((user_named("no-such-user"), user_named("a\0b")), (None, None));
        assert!(groups(Some("root"), 0).contains(&Group { id: 0, name: Some("root".to_owned()) }));
        assert_eq!(groups(None, 4_000_000_000), [Group { id: 4_000_000_000, name: None }]);
    }
}
