//! Removes what jobs left behind whose epilog never ran, or did not finish.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::exchange::Instant;
use crate::fs::RuntimeDirectory;
use crate::names::JobId;
use crate::record::{Generation, JobRecord};

/// What the node's processes tell.
pub trait Processes {
    /// The slurmd that runs this prolog.
    fn generation(&self) -> Generation;
    /// Jobs with a living slurmstepd.
    fn living(&self) -> BTreeSet<JobId>;
}

/// Sweeps every job but `current`.
///
/// Of a job without a slurmstepd the files and tokens go if another boot or another slurmd started it, or if its
/// tokens have ended: such a job is over or, where it waits for its next step, gets new ones with that step. Its
/// facts are kept within the boot, because only the prolog can learn them.
pub fn sweep(
    runtime: &RuntimeDirectory,
    current: JobId,
    generation: &Generation,
    processes: &dyn Processes,
    now: Instant,
) {
    let jobs = runtime.jobs();
    if jobs.iter().all(|job| *job == current) {
        return;
    }
    let living = processes.living();
    for job in jobs.into_iter().filter(|job| *job != current && !living.contains(job)) {
        // A job that another process works on is alive. A failure here is the next sweep's to mend.
        let Ok(lock) = runtime.lock(job, Duration::ZERO) else { continue };
        let record = runtime.read_record(job, &lock).ok().flatten().as_deref().and_then(JobRecord::parse);
        match record {
            Some(record) if record.started_by == *generation && !record.is_spent(now) => {}
            Some(record) if record.started_by.boot == generation.boot => {
                let _ = runtime.remove_files(job);
                if !record.issued.is_empty() {
                    let kept = JobRecord::new(record.facts, record.started_by);
                    let _ = runtime.write_record(job, &lock, kept.to_text().expose());
                }
            }
            _ => {
                let _ = runtime.remove_files(job);
                let _ = runtime.remove_record(job);
            }
        }
    }
}

/// The real processes, below `/proc`.
#[derive(Debug)]
pub struct Proc {
    /// `/proc`, or a test's.
    pub root: PathBuf,
    /// The process that started this one.
    pub parent: u32,
}

impl Processes for Proc {
    fn generation(&self) -> Generation {
        let read = |path: &str| std::fs::read_to_string(self.root.join(path)).unwrap_or_default();
        let stat = read(&format!("{}/stat", self.parent));
        // The name, in brackets, may hold blanks; the start is field 22 of proc(5), the 20th after the name.
        let start =
            stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).and_then(|t| t.parse().ok());
        Generation {
            boot: read("sys/kernel/random/boot_id").trim().to_owned(),
            slurmd: (self.parent, start.unwrap_or(0)),
        }
    }

    fn living(&self) -> BTreeSet<JobId> {
        let Ok(entries) = std::fs::read_dir(&self.root) else { return BTreeSet::new() };
        entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit))
            // A user can give his process any name, but not root's ownership.
            .filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == 0))
            .filter_map(|entry| stepd_job(&std::fs::read(entry.path().join("cmdline")).ok()?))
            .collect()
    }
}

/// The job of a slurmstepd, which calls itself `slurmstepd: [JOB.STEP]` (`slurmstepd.c`, setproctitle).
fn stepd_job(cmdline: &[u8]) -> Option<JobId> {
    let text = std::str::from_utf8(cmdline).ok()?;
    let job = text.strip_prefix("slurmstepd: [")?.split(['.', ']', '_']).next()?;
    job.parse().ok().map(JobId)
}

#[cfg(test)]
mod tests;
