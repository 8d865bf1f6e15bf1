//! Removes the leftovers of jobs whose epilog did not run or did not finish.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::processes::Processes;
use crate::plan::record::{Generation, JobRecord};
use crate::words::names::JobId;
use crate::words::time::UnixSeconds;
use crate::world::fs::RuntimeDirectory;

/// Sweeps all jobs except `current`.
///
/// A job without a slurmstepd loses its files and tokens if another boot or another slurmd started it, or if its tokens
/// have expired. Such a job is either over, or it waits for its next step and gets new tokens then. Its facts stay
/// until the next boot, because only the prolog can get them.
///
/// To find a job's slurmstepd, the sweep walks /proc. It does so only if some job may be over, and stores the
/// slurmstepds that it finds, so that the next sweep can skip the walk for the same jobs.
pub fn sweep(runtime: &RuntimeDirectory, current: JobId, processes: &dyn Processes, now: UnixSeconds) {
    let others: Vec<JobId> = runtime.jobs().into_iter().filter(|job| *job != current).collect();
    if others.is_empty() {
        return;
    }
    let generation = processes.generation();
    let is_in_use = |job: &JobId| {
        // What cannot be read at this moment, for want of a descriptor or memory, may be in use.
        let Ok(record) = runtime.look_at_record(*job) else { return true };
        record.as_deref().and_then(JobRecord::parse).is_some_and(|record| {
            is_sound(&record, &generation, now) || record.seen.is_some_and(|stepd| processes.runs(stepd))
        })
    };
    let suspects: Vec<JobId> = others.into_iter().filter(|job| !is_in_use(job)).collect();
    if suspects.is_empty() {
        return;
    }
    let living = processes.living();
    for job in suspects {
        // A job that another process has locked is not over. If something fails here, the next sweep tries again.
        let Ok(locked) = runtime.lock(job, Duration::ZERO) else { continue };
        let Ok(record) = locked.read_record() else { continue };
        match (record.as_deref().and_then(JobRecord::parse), living.get(&job)) {
            (Some(mut record), Some(stepd)) => {
                record.seen = Some(*stepd);
                let _ = locked.write_record(record.to_text().expose());
            }
            (None, Some(_)) => {}
            (Some(record), None) if is_sound(&record, &generation, now) => {}
            (Some(record), None) if record.started_by.boot == generation.boot => {
                let _ = runtime.remove_files(job);
                if !record.issued.is_empty() {
                    let kept = JobRecord::new(record.facts, record.options, record.started_by);
                    let _ = locked.write_record(kept.to_text().expose());
                }
            }
            (_, None) => {
                let _ = runtime.remove_files(job);
                let _ = runtime.remove_record(job);
            }
        }
    }
}

/// Returns whether this slurmd started the job and its tokens have not all expired.
fn is_sound(record: &JobRecord, generation: &Generation, now: UnixSeconds) -> bool {
    record.started_by == *generation && (record.issued.is_empty() || !record.is_spent(now))
}

#[cfg(test)]
mod tests;
