//! Where jobs are on a node. A job stays in the runtime directory where its prolog put it, even if the site
//! configuration names another one later.
//!
//! The default runtime directory remembers the others: `elsewhere/` in it, root's alone, has a link to each.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::words::names::JobId;
use crate::world::fs::{self, FileError, RuntimeDirectory};

const ELSEWHERE: &str = "elsewhere";

/// The runtime directories that there are: the configured one first, then those of earlier configurations.
pub fn all(default_dir: &Path, configured: Option<&Path>) -> Vec<RuntimeDirectory> {
    those(default_dir, configured, |_| true)
}

/// Those in which there is something of any job.
pub fn used(default_dir: &Path, configured: Option<&Path>) -> Vec<RuntimeDirectory> {
    those(default_dir, configured, RuntimeDirectory::is_used)
}

/// Whether something of a job is in any of them.
pub fn knows(default_dir: &Path, configured: Option<&Path>, job: JobId) -> bool {
    paths(default_dir, configured).iter().any(|path| RuntimeDirectory::knows(path, job))
}

/// Those in which there is something of a job.
pub fn with(default_dir: &Path, configured: Option<&Path>, job: JobId) -> Vec<RuntimeDirectory> {
    those(default_dir, configured, |path| RuntimeDirectory::knows(path, job))
}

/// The runtime directory that has a job's record; none if no hook has seen the job.
pub fn of_job(default_dir: &Path, configured: Option<&Path>, job: JobId) -> Option<RuntimeDirectory> {
    with(default_dir, configured, job).into_iter().find(|runtime| runtime.has_record(job))
}

fn those(default_dir: &Path, configured: Option<&Path>, is_one: impl Fn(&Path) -> bool) -> Vec<RuntimeDirectory> {
    let paths = paths(default_dir, configured);
    paths.iter().filter(|path| is_one(path)).filter_map(|path| RuntimeDirectory::existing(path)).collect()
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

/// Opens the configured runtime directory for a new job, and remembers it where it is not the default one.
///
/// # Errors
/// When it cannot be made, or is not a directory that only root can change.
pub fn open(default_dir: &Path, configured: &Path) -> Result<RuntimeDirectory, FileError> {
    let runtime = RuntimeDirectory::open(configured)?;
    if configured != default_dir {
        // If it cannot be written and the configuration is edited, the jobs in it are forgotten until the next boot.
        let _ = fs::remember_link(default_dir, ELSEWHERE, configured);
    }
    Ok(runtime)
}

/// Forgets directories that are gone.
pub fn forget_gone(default_dir: &Path) {
    let directory = default_dir.join(ELSEWHERE);
    for (name, target) in fs::links(&directory) {
        if RuntimeDirectory::existing(&target).is_none() {
            fs::forget_link(&directory, &name);
        }
    }
}
