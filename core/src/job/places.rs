//! Finds the runtime directory of a job. A job stays in the one where its prolog put it, even if the site configuration
//! later names another.
//!
//! The directory `elsewhere/` in the default runtime directory, which only root can enter, has a link to each of the
//! others.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::words::names::JobId;
use crate::world::fs::{self, FileError, RuntimeDirectory};

const ELSEWHERE: &str = "elsewhere";

/// Returns all runtime directories: the configured one first, then those of earlier configurations.
pub fn all(default_dir: &Path, configured: Option<&Path>) -> Vec<RuntimeDirectory> {
    those(default_dir, configured, |_| true)
}

/// Returns the runtime directories that have records or files of any job.
pub fn used(default_dir: &Path, configured: Option<&Path>) -> Vec<RuntimeDirectory> {
    those(default_dir, configured, RuntimeDirectory::is_used)
}

/// Returns whether a runtime directory has a record or files of a job.
pub fn knows(default_dir: &Path, configured: Option<&Path>, job: JobId) -> bool {
    paths(default_dir, configured).iter().any(|path| RuntimeDirectory::knows(path, job))
}

/// Returns the runtime directories that have a record or files of a job, or why one of them cannot be used.
pub fn with(
    default_dir: &Path,
    configured: Option<&Path>,
    job: JobId,
) -> impl Iterator<Item = Result<RuntimeDirectory, FileError>> {
    let paths = paths(default_dir, configured).into_iter().filter(move |path| RuntimeDirectory::knows(path, job));
    paths.filter_map(|path| RuntimeDirectory::existing(&path).transpose())
}

/// Returns the runtime directory with a job's record, or `None` if no hook has recorded the job.
pub fn of_job(default_dir: &Path, configured: Option<&Path>, job: JobId) -> Option<RuntimeDirectory> {
    with(default_dir, configured, job).flatten().find(|runtime| runtime.has_record(job))
}

fn those(default_dir: &Path, configured: Option<&Path>, is_one: impl Fn(&Path) -> bool) -> Vec<RuntimeDirectory> {
    let paths = paths(default_dir, configured);
    paths.iter().filter(|path| is_one(path)).filter_map(|path| RuntimeDirectory::existing(path).ok()?).collect()
}

fn paths(default_dir: &Path, configured: Option<&Path>) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = configured.into_iter().map(Path::to_owned).collect();
    paths.push(default_dir.to_owned());
    paths.extend(fs::links(&default_dir.join(ELSEWHERE)).into_iter().map(|(_, target)| target));
    let mut seen = Vec::new();
    paths.retain(|path| {
        !seen.contains(path) && {
            seen.push(path.clone());
            true
        }
    });
    paths
}

/// Opens the configured runtime directory for a new job, and links to it from the default one.
///
/// # Errors
/// When it cannot be created, or is not a directory that only root can change.
pub fn open(default_dir: &Path, configured: &Path) -> Result<RuntimeDirectory, FileError> {
    let runtime = RuntimeDirectory::open(configured)?;
    if configured != default_dir {
        // If this fails and the configuration changes, the jobs in the directory are forgotten until the next boot.
        let _ = fs::remember_link(default_dir, ELSEWHERE, configured);
    }
    Ok(runtime)
}

/// Removes links to directories that no longer exist.
pub fn forget_gone(default_dir: &Path) {
    let directory = default_dir.join(ELSEWHERE);
    for (name, target) in fs::links(&directory) {
        if matches!(RuntimeDirectory::existing(&target), Ok(None)) {
            fs::forget_link(&directory, &name);
        }
    }
}
