//! What the hooks, the agent and the command of spank-gcp-wif share: Google Cloud credentials for Slurm jobs by
//! Workload Identity Federation.
//!
//! Three packages: the plugin at the top of the tree, a face of three files over this crate; this crate, which knows
//! neither SPANK nor a server nor a command line; and `command/`, the companion command `gcp-wif`, which is the agent,
//! too. So cargo itself keeps the hooks from the server, this crate is built without Slurm's headers, and the command
//! is the same for all releases of Slurm.
//!
//! # Floors
//!
//! A file imports only from its own floor and from floors below. Within a floor there are no circles: a line here
//! imports only from lines below it. The world alone opens files. `tests/floors.rs` reads every path in the code and
//! enforces this.
//!
//! ```text
//! 7 faces     src/               the hooks of Slurm, each a few lines: facts in, a call, an outcome out
//!             command/src/cli    the companion command: its arguments, what it prints
//!             command/src/agent  the node agent: what it serves, when it refreshes, the watcher
//! 6 job       lifecycle          what each hook does with a job, what a failure means
//!             refresh            the same credentials again, before they end; files that are published again
//!             requested          tokens that a job's clients ask for: with other scopes, and OpenID tokens
//!             sweep              what crashed hooks left
//!             containers         a step's enroot configuration, read as the user and published
//!             issuance           credentials for one run of a job: obtained, remembered, published, served
//!             obtain             an access token: the one that is kept on the node, or a new one
//!             tell               the log, the audit log, the metrics
//!             worker             the exchange: in a process of its own for hooks, in a thread for the agent
//!             node               what all of these work with, as traits: Slurm, Google, the node's processes
//!             processes          the node's processes
//!             wake, ports        the agent as a hook sees it; the port where it serves a job
//!             places             in which runtime directory a job is
//! 5 plan      enroot, enroot/*   a step's enroot configuration, merged with the user's own
//!             adc                    credentials of the user's own that clients would take before the job's
//!             environment, change    everything that a job will see, as a value
//!             metrics            the node's counters, in Prometheus' text format
//!             audit              what is told of each token
//!             kept               what root keeps for all jobs of a user with the same grant
//!             record             what root remembers of a job between its hooks
//!             report             an error -> the one line that a person reads
//!   tokens                       who shares an access token, how long it lives, when it is due
//! 4 policy    config site request rules facts grant    decide() -> Grant; each exchange for a job needs one
//! 3 exchange  *                  a state machine without input and output; run drives it
//! 2 world     fs/* proc http/* sys/* clock  files, processes, a transport, what only libc offers
//! 1 words     names google secret json path time    a value of one of these types has been checked
//! ```
//!
//! # One job
//!
//! 1. **srun, sbatch, salloc** parse and check the options ([`policy::request`]), and take an outer job's variables
//!    out. No network, no configuration.
//! 2. **prolog**, root, a process of Slurm's own for each job and node: sweeps leftovers, and records what slurmd says
//!    of the job, its options, and a new run number. If credentials are wanted and granted, it takes the token that the
//!    node keeps for the user, or leaves a worker behind. slurmd drains a node whose prolog process dies, so that process
//!    does nothing that takes time.
//! 3. **worker**: reads the subject token and exchanges it, in a child of its own with a deadline, which opens the
//!    connections to both of Google's servers at once, and keeps the token for all jobs of the user. It remembers grant,
//!    token and port in the record, publishes the job's files, and wakes the agent, or starts it.
//! 4. **slurmstepd**, `init_post_opt`, root: takes what the record has, or waits for the exchange in flight. An option
//!    given only now, another identity, a token about to end, a worker that died: the work is done here, in a child
//!    again. It wakes the agent, which answers with the ports that it serves; the job gets another port for one that
//!    another program took. A child that has become the user reads the user's enroot configuration, and looks for
//!    credentials that clients would take before the job's. Last, it sets the environment.
//! 5. `user_init`: the one line, if something failed, and what the user should know besides. `task_init`: status 1, if what failed was asked for.
//! 6. **agent**, one for each runtime directory: serves each identity of each job at a loopback port, gets a new token
//!    at half of the life of the old one over a TLS session that it resumes, and publishes it.
//! 7. `exit`: the step's enroot configuration goes. **epilog**, root: ends the worker if it still runs, removes files
//!    and record, and tells the agent.
//!
//! No hook returns an error and none panics: from a `required` plugin Slurm would drain the node.
//!
//! # What always holds
//!
//! - **A grant is decided once.** [`policy::grant::Grant`] has identity, rule, scopes, lifetime and delivery. The
//!   record keeps it whole. Each refresh repeats it, and so does each later step that asks for the same. The rules are
//!   then asked only whether it still holds: a new default of the site's is for new jobs.
//! - **For each user, identity, scopes, lifetime and provider one process of the node asks Google at a time**
//!   ([`job::obtain`]). It holds the lock of `tokens/KEY`, and keeps there what Google says; whoever waits for the lock
//!   looks there again. A holder that is later than it said loses the lock.
//! - **No process asks Google under a job's lock**, which is for some writes. A step with a token that is fresh waits for
//!   nobody.
//! - **A job that asks for nothing costs nothing**, where the site gives nothing by itself: no record, no directory, no
//!   process, no look at the user database, and no file is read but the site configuration. Only where rules name accounts
//!   or partitions does each job have a record, because no later hook can learn them.
//! - **Late results are dropped.** Each run of a job has a number of its own. What an exchange brings is remembered
//!   under the lock, and only if the record is still there and has the same number: not after the epilog, and not for a
//!   requeued job.
//! - **Files with tokens are rendered, never patched**: from the record, and for enroot's `.credentials` from the
//!   user's part of the step's configuration, which root keeps in `step-STEP`. The record is written first, with
//!   `is_published` false, then each file is replaced by rename. If a process is killed in between, the next step or
//!   the agent's next look publishes again.
//! - **A job stays where its prolog put it**, even if the site configuration names another runtime directory later: the
//!   default one remembers the others in `elsewhere/`, and epilog and sweep look into all of them.
//! - **The process that has threads forks nothing.** Hooks exchange in a forked child with a deadline, whose own
//!   threads end with it. The agent exchanges in threads. Its watcher, which has one thread, forks the serving process,
//!   keeps the listening sockets for the next one, and ends one whose heartbeat stays away.
//! - **No user can take a job's port**, as long as one below `net.ipv4.ip_unprivileged_port_start` is free.
//!
//! # Where things are
//!
//! ```text
//! RUNTIME_DIR/records/JOBID/   root's memory of a job. The directory itself is the job's lock
//! RUNTIME_DIR/tokens/KEY/      an access token for all jobs of a user with the same grant. The directory is its lock
//! RUNTIME_DIR/jobs/JOBID/      what the job's user can read
//! RUNTIME_DIR/agent.*          the agent's lock, socket and log; `agent.service`, where a service manager keeps it
//! RUNTIME_DIR/metrics.prom     what the node has issued, for Prometheus
//! RUNTIME_DIR/audit.log        the same token by token, if the site wants it
//! RUNTIME_DIR/elsewhere/       links to other runtime directories that jobs are in; in the default one only
//! ```
//!
//! [`world::fs`] draws the tree with owners and modes, in `world/fs/runtime.rs`.
//!
//! # Where to look
//!
//! | question | file | function |
//! |---|---|---|
//! | What does a user read after an audience mismatch? | `core/src/plan/report.rs` | `audience_hint` |
//! | Who may have which identity? | `core/src/policy/rules.rs` | `decide` |
//! | Where are the values of options limited? | `core/src/policy/request.rs` | `request` |
//! | What decides that a token is due, or too old for a new job or step? | `core/src/tokens.rs` | `due`, `can_begin`, `is_fresh` |
//! | Which scopes does a client get that asks for some? | `core/src/policy/grant.rs` | `for_scopes` |
//! | Who gets a token that is not the job's own, and how many? | `core/src/job/requested.rs` | `had`, `obtain`, `check_share` |
//! | Who shares a token? | `core/src/tokens.rs` | `new` |
//! | How long does a failure hold? | `core/src/plan/kept.rs` | `failure` |
//! | Where are retries of a request decided? | `core/src/exchange/run.rs` | `pause` |
//! | When is a connection opened, and by whom? | `core/src/world/http/connections.rs` | `open_ahead`, `connect` |
//! | Which TLS sessions are resumed? | `core/src/world/http.rs` | `client` |
//! | Which errors may pass? | `core/src/exchange.rs` | `is_transient` |
//! | When is a failed refresh tried again? | `command/src/agent/run.rs` | `refresh` |
//! | Where is the subject token read? | `core/src/job/worker.rs` | `read_subject_token` |
//! | Where is a job's directory made? | `core/src/world/fs/runtime/locked.rs` | `publish`, `jobs_directory` |
//! | Where is the runtime directory chosen? | `core/src/job/places.rs` | `open`, `of_job` |
//! | Who waits for a subject token that is not there? | `core/src/job/obtain.rs` | `ask` |
//! | What is excepted from the job's proxies? | `core/src/plan/environment/proxies.rs` | `exceptions` |
//! | Which registries get pull credentials? | `core/src/plan/enroot/registries.rs` | `of_google` |
//! | Where is ENROOT_CONFIG_PATH composed? | `core/src/plan/environment.rs` | `environment` |
//! | What is in that directory? | `core/src/plan/enroot.rs` | `new` |
//! | What is mounted into a container? | `core/src/plan/enroot.rs` | `fstab` |
//! | What happens when the serving process dies, or hangs? | `command/src/agent/watch.rs` | `watch` |
//! | What happens when the watcher dies? | `command/src/agent/keep.rs` | `start_over` |
//! | Who brings both back under a service manager? | `command/src/agent/watch.rs` | `stay` |
//! | What happens after an upgrade? | `command/src/agent/watch.rs` | `upgrade` |
//! | What happens when both die? | `core/src/job/wake.rs` | `wake` |
//! | What is answered at a job's port? | `command/src/agent/serve.rs` | `answer` |
//! | Who is answered at a job's port? | `command/src/agent/caller.rs` | `owner` |
//! | What removes a job? | `core/src/job/lifecycle.rs` | `epilog`, `extern_exit` |
//! | What removes leftovers? | `core/src/job/sweep.rs` | `sweep` |
//! | What does slurmd's log say of an issuance? | `core/src/plan/audit.rs` | `line` |
//! | Where are metrics counted? | `core/src/plan/metrics.rs` | `count`, `set` |
//! | Where is it told what became of a token? | `core/src/job/tell.rs` | `tell` |
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
    pub mod adc;
    pub mod audit;
    pub mod change;
    pub mod enroot;
    pub mod environment;
    pub mod kept;
    pub mod metrics;
    pub mod record;
    pub mod report;
}
pub mod job {
    //! The life of a job on a node.
    mod containers;
    mod issuance;
    pub mod lifecycle;
    pub mod node;
    pub mod obtain;
    pub mod places;
    mod ports;
    pub mod processes;
    pub mod refresh;
    pub mod requested;
    pub mod sweep;
    pub mod tell;
    pub mod wake;
    pub mod worker;
}
#[cfg(any(test, feature = "testing"))]
pub mod testing;
