//! The node agent: keeps the credentials of every job of the node fresh, and hands them out.
//!
//! Everything that it needs is on disk: the agent serves what the jobs' records say, and a new one goes on where a
//! killed one stopped. Hooks write the records and wake the agent. The serving process exchanges in threads of its own,
//! without a job's lock, and writes what it got under that lock. It forks nothing: only the watcher, which has one
//! thread, does.
//!
//! ```text
//! watch      one agent for each runtime directory; the watcher, which starts a new serving process for a dead one
//! cgroups    leaves the cgroup of the step that has started the agent
//! keep       the listening sockets, which outlive the serving process; its heartbeat
//! service    the agent under a service manager
//! program    the agent after an upgrade
//! run        the serving process: what it looks at, and when
//! serve      a loopback port for each identity of each job
//! served     what one port serves
//! caller     the user at the other end of a connection: the job's user and root are answered
//! metadata, token, impersonation    the answers of the metadata server, of STS and of IAM Credentials
//! requested  a token that is not the job's own: kept on the node, or at Google
//! answer     what becomes of a request
//! reply      a request and its reply, as values
//! refresh    new tokens, and files that are published again, with lines in the log
//! threads    work that waits for Google
//! journal    agent.log
//! ```
#![forbid(unsafe_code)]

mod answer;
mod caller;
mod cgroups;
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
