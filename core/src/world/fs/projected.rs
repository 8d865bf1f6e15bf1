//! Reads of files in a projected volume, which the kubelet replaces at any time.
#![forbid(unsafe_code)]

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{FileError, read_limited};

/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(10);
/// The minimum number of attempts.
const LOOKS: u32 = 5;

/// Reads a regular file of at most `longest` bytes. If the file is absent, tries again until `patience` is over, and at
/// least `LOOKS` times: the path leads through a link to a directory for each version, and the kubelet can remove
/// that directory after the link was followed (`pkg/volume/util/atomic_writer.go`).
///
/// # Errors
/// When it is not such a file or cannot be read.
pub fn read_projected(path: &Path, longest: u64, patience: Duration) -> Result<Vec<u8>, FileError> {
    let (end, mut looks) = (Instant::now() + patience, 0);
    loop {
        looks += 1;
        match read_limited(path, longest) {
            Err(error) if error.is_absent() && (looks < LOOKS || Instant::now() < end) => sleep(PAUSE),
            result => return result,
        }
    }
}

/// Calls `look` again if a file is absent and its directory is a volume of the kubelet. A ConfigMap has the same layout
/// as a projected volume, so the same can happen.
///
/// # Errors
/// The error of the last attempt.
pub(super) fn look<T>(path: &Path, look: impl Fn() -> Result<T, FileError>) -> Result<T, FileError> {
    let mut looks = 1;
    loop {
        match look() {
            Err(error) if error.is_absent() && looks < LOOKS && is_kubelets(path) => sleep(PAUSE),
            result => return result,
        }
        looks += 1;
    }
}

/// Returns whether the kubelet manages the directory of a file.
fn is_kubelets(path: &Path) -> bool {
    path.parent().is_some_and(|directory| rustix::fs::lstat(directory.join("..data")).is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, remove_dir_all, rename, write};
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Publishes a version in the same way as the kubelet.
    fn rotate(directory: &Path, version: u32) {
        let name = |version: u32| format!("..{version}");
        create_dir(directory.join(name(version))).unwrap();
        write(directory.join(name(version)).join("token"), version.to_string()).unwrap();
        symlink(name(version), directory.join("..data_tmp")).unwrap();
        rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
        if version > 0 {
            remove_dir_all(directory.join(name(version - 1))).unwrap();
        }
    }

    /// Reads a file repeatedly while another thread replaces it.
    fn while_it_is_replaced(reads: u32, read: impl Fn(&Path) -> Result<(), String>) {
        let directory = crate::testing::directory();
        rotate(&directory, 0);
        symlink("..data/token", directory.join("token")).unwrap();
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| (1..).take_while(|_| !is_done.load(Ordering::Relaxed)).for_each(|n| rotate(&directory, n)));
            let result = (0..reads).try_for_each(|_| read(&directory.join("token")));
            is_done.store(true, Ordering::Relaxed);
            assert_eq!(result, Ok(()));
        });
    }

    #[test]
    fn a_projected_file_is_read_while_it_is_replaced() {
        while_it_is_replaced(20_000, |path| {
            let content = read_projected(path, 10, Duration::ZERO).map_err(|e| e.to_string())?;
            let is_whole = content.iter().all(u8::is_ascii_digit) && !content.is_empty();
            if is_whole { Ok(()) } else { Err(format!("{content:?}")) }
        });
    }

    /// A ConfigMap has the same layout, and the site configuration can be one.
    #[test]
    fn a_trusted_file_is_read_while_it_is_replaced() {
        while_it_is_replaced(200_000, |path| {
            crate::world::fs::read_trusted(path).map(drop).map_err(|error| error.to_string())
        });
    }

    #[test]
    fn a_missing_file_is_awaited_and_reported_absent_if_it_never_comes() {
        let directory = crate::testing::directory();
        let path = directory.join("token");
        assert!(read_projected(&path, 10, Duration::ZERO).unwrap_err().is_absent());
        std::thread::scope(|scope| {
            let read = scope.spawn(|| read_projected(&path, 10, Duration::from_secs(60)));
            rotate(&directory, 0);
            symlink("..data/token", &path).unwrap();
            assert_eq!(read.join().unwrap().unwrap(), b"0");
        });
    }
}
