//! The node agent: one process that keeps the credentials of every job of the node fresh, and hands them out.
//!
//! The truth is on disk: the agent serves what the jobs' records say, and a new one takes over where a killed one
//! stopped. The plugin writes the records and wakes the agent; what the agent renews it writes under the job's lock.
//!
//! ```text
//! watch      one agent for each node; the watcher that brings a dead serving process back
//! cgroups    out of the cgroup of the step that has started it
//! keep       the listening sockets, which outlive the process that serves them
//! run        the serving process: what it looks at, and when
//! serve      a loopback port for each identity of each job
//! caller     answered to the job's user and to root only
//! metadata, token    what is answered
//! refresh    new tokens at half of the old one's life
//! threads    work that waits for Google
//! journal    agent.log
//! ```
#![forbid(unsafe_code)]

mod caller;
mod cgroups;
mod journal;
mod keep;
mod metadata;
mod refresh;
mod reply;
mod run;
mod serve;
mod served;
mod threads;
mod token;
pub(crate) mod watch;
