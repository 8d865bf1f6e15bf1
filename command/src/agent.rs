//! The node agent: refreshes the credentials of all jobs on the node, and serves them to the jobs' clients.
//!
//! Its whole state is in the jobs' records, so a new agent continues where a killed one stopped. Hooks write the
//! records and wake the agent. The serving process performs exchanges in threads, without a job's lock, and takes the
//! lock only to write the result. It never forks; only the watcher does, which has one thread.
//!
//! ```text
//! watch      one agent for each runtime directory; the watcher, which restarts the serving process
//! cgroups    moves the agent out of the cgroup of the step that has started it
//! keep       the listening sockets, which outlive the serving process, and its heartbeat
//! service    the agent under a service manager
//! program    the agent after an upgrade
//! run        the main loop of the serving process
//! serve      a loopback port for each identity of each job
//! served     the credentials that one port serves
//! caller     the user at the other end of a connection, who must be the job's user or root
//! metadata, token, impersonation    the endpoints of the metadata server, of STS and of the IAM Credentials API
//! requested  tokens that clients request: kept on the node, or from an exchange
//! answer     the answer to a request: a reply, or a token to obtain first
//! reply      a request and its reply, as values
//! refresh    refreshes, and repair of files, with log lines
//! threads    threads for work that waits for Google
//! journal    the agent's log, agent.log
//! ```
#![forbid(unsafe_code)]

mod answer;
mod caller;
mod cgroups;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod impersonation;
mod journal;
mod keep;
mod metadata;
mod program;
mod refresh;
mod reply;
mod requested;
mod run;
mod serve;
mod served;
mod service;
mod threads;
mod token;
pub(crate) mod watch;
