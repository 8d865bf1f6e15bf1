//! A file of a projected volume, which the kubelet replaces while others read it.
#![forbid(unsafe_code)]

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{FileError, read_limited};

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);
/// How many looks there are in any case.
const LOOKS: u32 = 5;

/// Reads a regular file of limited length. If it is not there it is looked for again, for as long as `patience`, and some
/// times in any case: the way to the file leads over a link to the directory of a version, and the kubelet may remove that
/// directory between the two (`pkg/volume/util/atomic_writer.go`).
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

/// Looks again if a file was not there and lies in a volume of the kubelet's. A ConfigMap is laid out as a projected volume
/// is, and the same may happen between its two links.
///
/// # Errors
/// What the last look said.
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

/// Whether the kubelet keeps the directory that a file is in.
fn is_kubelets(path: &Path) -> bool {
    path.parent().is_some_and(|directory| rustix::fs::lstat(directory.join("..data")).is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, remove_dir_all, rename, write};
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Puts a version in force as the kubelet does.
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

    /// Reads a file again and again while another thread replaces it.
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
    fn a_file_that_is_replaced_again_and_again_is_always_read() {
        while_it_is_replaced(20_000, |path| {
            let content = read_projected(path, 10, Duration::ZERO).map_err(|e| e.to_string())?;
            let is_whole = content.iter().all(u8::is_ascii_digit) && !content.is_empty();
            if is_whole { Ok(()) } else { Err(format!("{content:?}")) }
        });
    }

    /// What the kubelet makes of a ConfigMap is laid out the same way, and the site configuration may be one.
    #[test]
    fn a_trusted_file_that_is_replaced_again_and_again_is_always_read() {
        while_it_is_replaced(200_000, |path| {
            crate::world::fs::read_trusted(path).map(drop).map_err(|error| error.to_string())
        });
    }

    #[test]
    fn a_file_that_comes_late_is_waited_for_and_one_that_never_comes_is_not_there() {
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
