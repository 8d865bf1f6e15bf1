//! Removes what is left of jobs whose epilog did not run, or did not finish.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::processes::Processes;
use crate::plan::record::{Generation, JobRecord};
use crate::words::names::JobId;
use crate::words::time::UnixSeconds;
use crate::world::fs::RuntimeDirectory;

/// Sweeps every job but `current`.
///
/// A job without a slurmstepd loses its files and tokens if another boot or another slurmd started it, or if its tokens
/// have ended. Such a job is over, or it waits for its next step and gets new ones then. Its facts are kept within the
/// boot, because only the prolog can learn them.
pub fn sweep(
    runtime: &RuntimeDirectory,
    current: JobId,
    generation: &Generation,
    processes: &dyn Processes,
    now: UnixSeconds,
) {
    let jobs = runtime.jobs();
    if jobs.iter().all(|job| *job == current) {
        return;
    }
    let living = processes.living();
    for job in jobs.into_iter().filter(|job| *job != current && !living.contains(job)) {
        // A job that another process works on is alive. If something here fails, the next sweep tries it again.
        let Ok(locked) = runtime.lock(job, Duration::ZERO) else { continue };
        let record = locked.read_record().ok().flatten().as_deref().and_then(JobRecord::parse);
        match record {
            Some(record) if record.started_by == *generation && !record.is_spent(now) => {}
            Some(record) if record.started_by.boot == generation.boot => {
                let _ = runtime.remove_files(job);
                if !record.issued.is_empty() {
                    let kept = JobRecord::new(record.facts, record.options, record.started_by);
                    let _ = locked.write_record(kept.to_text().expose());
                }
            }
            _ => {
                let _ = runtime.remove_files(job);
                let _ = runtime.remove_record(job);
            }
        }
    }
}

#[cfg(test)]
mod tests;
