//! What the hooks, the agent and the command of spank-gcp-wif share: Google Cloud credentials for Slurm jobs by Workload
//! Identity Federation.
//!
//! Three packages: the plugin at the top of the tree, a face of three files over this crate; this crate, which knows
//! neither SPANK nor a server nor a command line; and `command/`, the companion command `gcp-wif`, which is the agent,
//! too. So cargo itself keeps the hooks from the server, this crate is built without Slurm's headers, and the command is
//! the same for all releases of Slurm.
//!
//! # Floors
//!
//! A file imports only from its own floor and from floors below. `tests/floors.rs` reads every `use` line.
//!
//! ```text
//! 7 faces     src/               the hooks of Slurm, each a few lines: facts in, a call, an outcome out
//!             command/src/cli    the companion command: its arguments, what it prints
//!             command/src/agent  the node agent: what it serves, when it refreshes, the watcher
//! 6 job       lifecycle          what each hook does with a job, what a failure means
//!             issuance           credentials for one job: decided, exchanged, published, remembered
//!             refresh            the same again, before the token ends
//!             worker             the exchange in a process of its own
//!             processes, wake    the node's processes; the agent as a hook sees it
//!             containers, sweep  a step's enroot configuration; what crashed hooks left
//! 5 plan      environment        everything a job will see, as a value
//!             enroot/*           a step's enroot configuration, merged with the user's own
//!             record             what root remembers of a job between its hooks
//!             report             an error -> the one line that a person reads
//! 4 policy    config request rules facts    decide() -> Grant; nothing else starts an exchange
//!           tokens             how long an access token lives, and when it is due
//! 3 exchange  *                  a state machine without input and output; run drives it
//! 2 world     http fs/* sys/* clock   a transport, the only opener of files, what only libc offers
//! 1 words     names secret json path time    a value of one of these types has been checked
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
//! `RUNTIME_DIR/jobs/JOBID/` is what the job's user can read. [`world::fs`] draws the tree with owners and modes.
//!
//! # Unsafe code
//!
//! Only the plugin's face and [`world::sys`] have any, each block with its reason; every other file forbids it.

pub mod words {
    //! What a value of one of these types says has been checked.
    pub mod google;
    pub mod json;
    pub mod names;
    pub mod path;
    pub mod secret;
    pub mod time;
}
pub mod world {
    //! Files, processes, the network and the clock.
    pub mod clock;
    pub mod fs;
    pub mod http;
    pub mod proc;
    pub mod sys;
}
pub mod exchange;
pub mod policy {
    //! Who may have what.
    pub mod config;
    pub mod facts;
    pub mod grant;
    pub mod request;
    pub mod rules;
    pub mod site;
}
pub mod tokens;
pub mod plan {
    //! Everything that a job will see, as values.
    pub mod enroot;
    pub mod environment;
    pub mod record;
    pub mod report;
}
pub mod job {
    //! The life of a job on a node.
    mod containers;
    pub mod issuance;
    pub mod lifecycle;
    pub mod node;
    pub mod places;
    mod ports;
    pub mod processes;
    pub mod refresh;
    pub mod sweep;
    pub mod wake;
    pub mod worker;
}
#[cfg(any(test, feature = "testing"))]
pub mod testing;
