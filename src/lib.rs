//! Google Cloud credentials for Slurm jobs by Workload Identity Federation: what the SPANK plugin `gcp_wif` does in
//! its hooks, and the companion command `gcp-wif`.
//!
//! The plugin itself is the package in `plugin/`, a face of three files over this crate. So this crate is built
//! without Slurm's headers, the command is the same for all of Slurm's releases, and the linker takes into the plugin
//! what its hooks can reach, and nothing of the agent's server or of the command.
//!
//! # Floors
//!
//! A file imports only from floors below its own.
//!
//! ```text
//! 5 faces       plugin/src/{lib,options,host}  the hooks of Slurm, each a few lines: facts in, a call, an outcome out
//!               cli, cli/*                 the companion command: its arguments, what it prints
//! 4 the life    agent/*                    the node agent: what it serves, refresh, the watcher
//!               lifecycle, lifecycle/*     what each hook does with a job, what a failure means, what is swept
//!               enroot/*                   a step's enroot configuration, merged with the user's own
//!               worker                     the exchange in a process of its own
//!               record                     what root remembers of a job between its hooks
//!               plan                       everything a job will see, as a value
//!               report                     an error -> the one line that a person reads
//! 3 who may     config request identity rules    decide() -> Grant; nothing else starts an exchange
//! 2 protocol    exchange/*                 a state machine without input and output; run.rs drives it
//! 1 the world   http fs fs/* sys/*         a transport, the only opener of files, what only libc offers
//! 0 words       names secret               a value of one of these types has been checked
//! ```
//!
//! # One job
//!
//! 1. **srun, sbatch, salloc** parse and check the options (`request`). No network, no configuration.
//! 2. **prolog**, root, a process of Slurm's own for each job and node: sweeps leftovers, records what slurmd says of
//!    the job, and leaves a worker behind if credentials are wanted. slurmd drains a node whose prolog process dies, so
//!    that process does nothing that takes time.
//! 3. **worker**: decides, reads the subject token, exchanges it in a child of its own with a deadline, publishes the
//!    job's files by rename, and wakes the agent, or starts it. It holds the job's lock until it is done.
//! 4. **slurmstepd**, `init_post_opt`, root: waits for the lock, takes what the worker got. An option given only now,
//!    another identity, a token about to end, a worker that died: the work is done here, in a child again. Wakes the
//!    agent, too, which tells whether it has the job's port. Reads the user's enroot configuration in a child that has
//!    become the user, and writes the step's own. Sets the environment.
//! 5. `user_init`: the one line, if something failed. `task_init`: status 1, if what failed was asked for.
//! 6. **agent**, one for each node: serves each identity of each job on a loopback port, renews tokens at half of their
//!    life under the job's lock, and rewrites what the job reads.
//! 7. `exit`: the step's enroot configuration goes. **epilog**, root: ends the worker if it still runs, removes files
//!    and record, and tells the agent.
//!
//! No hook returns an error and none panics: from a `required` plugin Slurm would drain the node.
//!
//! # Where things are
//!
//! `RUNTIME_DIR/records/JOBID/record` is root's memory of a job, and its directory the job's lock.
//! `RUNTIME_DIR/jobs/JOBID/` is what the job's user can read. [`fs`] draws the tree with owners and modes.
//!
//! # Unsafe code
//!
//! Only the plugin's face and [`sys`] have any, each block with its reason; every other file forbids it.

pub mod agent;
pub mod cli;
pub mod config;
pub mod enroot;
pub mod exchange;
pub mod fs;
pub mod http;
pub mod identity;
pub mod lifecycle;
pub mod names;
pub mod plan;
pub mod record;
pub mod report;
pub mod request;
pub mod rules;
pub mod secret;
pub mod sys;
#[cfg(test)]
mod testing;
pub mod worker;
