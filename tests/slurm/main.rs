//! The plugin in a real Slurm, with the embedded Google.
//!
//! ```text
//! plugin.rs    the file that every srun loads: its size, its exports
//! site.rs      a cluster and a Google that trust each other, and the checks at the end of every test
//! search.rs    the search for leaked secrets finds them
//! jobs.rs      srun, sbatch, salloc, arrays, heterogeneous jobs, requeue: each uses its token
//! requests.rs  options, inheritance, refusals at submission, environment, nested jobs
//! failures.rs  each fault: the user's line is the golden one, and no node is drained
//!   google.rs    faults at Google and on the network path to it
//!   node.rs      faults of configuration, subject token, rules, runtime directory
//! kept.rs      one exchange for a user and identity on a node
//! kubelet.rs   the subject token as the kubelet provides it: rotated, late, long
//! crashes.rs   faults at the system calls that change a runtime directory
//!   trap.rs      counts these calls and injects faults, by seccomp
//! kills.rs     processes that die, hang or are cancelled; nothing stays behind
//! agent.rs     delivery by the agent: refresh, metadata, killed agents
//!   callers.rs   access for other users, namespaces, web pages, crowds; files and processes
//!   clients.rs   clients past three expiries, each with a row in docs/clients.md: one file for each language
//!   examples.rs  the README's examples as jobs
//!   exhausted.rs an agent without descriptors or memory
//!   federated.rs the same without a service account
//!   metadata.rs  the same without GOOGLE_APPLICATION_CREDENTIALS
//!   proxies.rs   jobs whose environment names a proxy
//!   requested.rs tokens that clients request: with other scopes, and OpenID tokens
//!   trouble.rs   an agent that is stopped, gets no threads, or loses its directory
//!   hanging.rs   an exchange that hangs, and what continues meanwhile
//!   moved.rs     another runtime directory while jobs run
//!   ports.rs     ports that users take
//!   service.rs   the agent under a service manager, and after an upgrade
//!   load.rs      the agent killed under load; memory and descriptors with many jobs
//!   processes.rs the agent's processes
//!   world.rs     a site with short-lived tokens, and clients as its jobs
//! refresh.rs   a running job after its first tokens have expired
//!   job.rs       what a running job has
//!   identity.rs  rules and configuration that change while it runs
//!   refused.rs   refreshes that fail are reported as failures
//!   slow.rs      a slow Google, and a job that ends, is requeued or starts a step meanwhile
//!   pulls.rs     pull credentials of running steps
//!   clock.rs     a clock that was set back
//!   steps.rs     steps that start without the job's environment
//!   upgraded.rs an upgrade, and a restart of slurmd, while jobs run
//! observed.rs  metrics, as Prometheus reads them; the audit log
//! pages.rs     the documents: links, the picture, the blocks of commands
//! published.rs a job's files: their owners, and files that their user lets grow
//! attacks.rs   what a user of a shared node might try
//!   answers.rs   responses that would make the node reveal a token
//!   forged.rs    an srun that sends a forged environment
//!   processes.rs the processes that work for a job
//!   trees.rs     a runtime directory where users can write
//! readme.rs    the README's commands run, and its troubleshooting quotes real lines
//! containers.rs what a step gives to enroot: merged configuration, pull credentials, mounts
//!   users.rs     dangerous files of users: too many, too long, from the kernel, on a file system that does not respond
//!   registries.rs Google's registries: regional endpoints, long tokens
//!   system.rs    enroot.conf of the node, expanded without a shell
//! pyxis.rs     whole containers, if pyxis and enroot are installed
//!   apart.rs     containers with their own network
//!   attached.rs  containers that several jobs use
//!   left.rs      what stays in named containers, saved images and bundles
//! command.rs   the companion command: doctor, explain, env, status
//!   doctor.rs    each check of the doctor, and faults whose fix is followed (planted.rs and below)
//!   status.rs    a node's jobs with credentials
//! registry.rs  the registries of these tests
//! soak.rs      hundreds of jobs at the same time, for ci/soak
//! clients.rs   Google's own clients as jobs with direct delivery: Python, Node, rclone, gcloud, curl
//! loopback.rs  a separate loopback interface for a test
//! golden.rs    lines that users read, compared with tests/golden
//! tried.rs     the results of clients, for the table in docs/clients.md
//! skipped.rs   what cannot be tested on this machine
//! internet.rs  the internet as jobs see it: Google's host names lead to the embedded one
//! ```

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::print_stderr, clippy::unwrap_used)]
#![allow(unreachable_pub, reason = "a test crate is its own root")]

#[path = "../cluster/mod.rs"]
mod cluster;
#[path = "../google/mod.rs"]
mod google;
#[path = "../shell.rs"]
mod shell;
#[path = "../table/rows.rs"]
mod table;

mod agent;
mod attacks;
mod clients;
mod command;
mod containers;
mod crashes;
mod failures;
mod golden;
mod internet;
mod jobs;
mod kept;
mod kills;
mod kubelet;
mod loopback;
mod observed;
mod pages;
mod plugin;
mod published;
mod pyxis;
mod readme;
mod refresh;
mod registry;
mod requests;
mod search;
mod site;
mod skipped;
mod soak;
mod tried;
