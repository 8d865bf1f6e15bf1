//! Batch jobs, followed with `scontrol show job`.

use std::fs;
use std::time::{Duration, Instant};

use super::Cluster;

/// The state of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// Waits for a node, or is held.
    Pending,
    /// Runs, is being set up, or is being cleaned up.
    Active,
    /// Ended with exit status 0.
    Completed,
    /// Ended with another exit status.
    Failed,
    /// Was cancelled.
    Cancelled,
    /// Another final state, with Slurm's name for it.
    Ended(String),
}

impl JobState {
    fn parse(name: &str) -> Self {
        match name {
            "PENDING" => Self::Pending,
            "RUNNING" | "CONFIGURING" | "COMPLETING" | "SUSPENDED" => Self::Active,
            "COMPLETED" => Self::Completed,
            "FAILED" => Self::Failed,
            "CANCELLED" => Self::Cancelled,
            other => Self::Ended(other.to_owned()),
        }
    }

    /// Whether the job is over.
    pub fn is_end(&self) -> bool {
        !matches!(self, Self::Pending | Self::Active)
    }
}

impl Cluster {
    /// Submits a batch script and returns the job's id.
    #[track_caller]
    pub fn batch(&self, user: &str, script: &str, args: &[&str]) -> String {
        let words = ["sbatch", "--parsable"].into_iter().chain(args.iter().copied());
        let run = self.as_user(user).command(words).stdin(script).run().ok();
        // A federated cluster would add its name after a semicolon.
        run.stdout.trim().split(';').next().unwrap_or_default().to_owned()
    }

    /// Waits until a job, with all its array tasks or components, is over, at most 120 seconds.
    /// Returns how it ended: for several, the first that did not complete.
    #[track_caller]
    pub fn wait_job(&self, id: &str) -> JobState {
        let end = Instant::now() + Duration::from_secs(120);
        loop {
            let states = self.job_states(id);
            if !states.is_empty() && states.iter().all(JobState::is_end) {
                let bad = states.into_iter().find(|state| *state != JobState::Completed);
                return bad.unwrap_or(JobState::Completed);
            }
            assert!(Instant::now() < end, "job {id} is not over: {states:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The current state of a job, of each of its array tasks or components.
    #[track_caller]
    pub fn job_states(&self, id: &str) -> Vec<JobState> {
        self.job_fields(id, "JobState").iter().map(|name| JobState::parse(name)).collect()
    }

    /// A field as `scontrol show job` names it, such as `Restarts`, of the first task or component.
    #[track_caller]
    pub fn job_field(&self, id: &str, name: &str) -> Option<String> {
        self.job_fields(id, name).into_iter().next()
    }

    /// What a job printed: its output file, or those of all its tasks.
    #[track_caller]
    pub fn job_output(&self, id: &str) -> String {
        let paths = self.job_fields(id, "StdOut");
        // Only the first component of a heterogeneous job has a file, though each names one.
        let files: Vec<Vec<u8>> = paths.iter().filter_map(|path| fs::read(path).ok()).collect();
        assert!(!files.is_empty(), "job {id} has no output file: {paths:?}");
        String::from_utf8_lossy(&files.concat()).into_owned()
    }

    /// Submits a batch script, waits for its end and returns that and the output.
    #[track_caller]
    pub fn run_batch(&self, user: &str, script: &str, args: &[&str]) -> (JobState, String) {
        let id = self.batch(user, script, args);
        (self.wait_job(&id), self.job_output(&id))
    }

    #[track_caller]
    fn job_fields(&self, id: &str, name: &str) -> Vec<String> {
        let run = self.as_user("root").command(["scontrol", "show", "job", "-o", id]).run().ok();
        let field = |line: &str| {
            let mut pairs = line.split(' ').filter_map(|word| word.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        run.stdout.lines().filter_map(field).collect()
    }
}
