//! The core of spank-gcp-wif, which gives Slurm jobs Google Cloud credentials by Workload Identity Federation.
//!
//! The project has three packages:
//!
//! - **`spank-gcp-wif`**, at the top of the tree, is the SPANK plugin: a thin layer between Slurm's hooks and this
//!   crate.
//! - **`gcp-wif-core`**, this crate, has everything that hooks, agent and command share. It contains neither SPANK nor
//!   a server nor a command line, and it builds without Slurm's headers.
//! - **`gcp-wif`**, in `command/`, is the companion command and the node agent. One build works with all releases of
//!   Slurm.
//!
//! The split is enforced by cargo: the hooks cannot reach the server.
//!
//! # Floors
//!
//! The code is layered in floors. A file imports only from its own floor and from the floors below it. Within a floor,
//! imports have no cycles: an entry in this list imports only from entries further down. Only `world` opens files.
//! `tests/floors.rs` enforces these rules for all paths in the code.
//!
//! ```text
//! 7 faces     src/               Slurm's hooks: each collects facts, calls the core and passes on the outcome
//!             command/src/cli    the companion command: its arguments and its output
//!             command/src/agent  the node agent: its endpoints, its refreshes, its watcher
//! 6 job       lifecycle          the work of each hook, and the effect of a failure
//!             refresh            refreshes of a job's tokens, and repair of its files
//!             requested          tokens that clients request: with other scopes, and OpenID tokens
//!             sweep              removal of what crashed hooks left
//!             containers         a step's enroot configuration: read as the user, merged, published
//!             issuance           credentials for one run of a job: obtained, recorded, published, served
//!             obtain             a token: the one that the node keeps, or a new one
//!             tell               the log, the audit log and the metrics
//!             worker             the exchange: in a child process for hooks, in a thread for the agent
//!             node               the interfaces of this floor: Slurm, Google, the node's processes
//!             processes          the node's processes
//!             wake, ports        the hooks' interface to the agent; the choice of a job's port
//!             places             the runtime directory of a job
//! 5 plan      enroot, enroot/*   a step's enroot configuration, merged with the user's
//!             adc                    the user's Application Default Credentials
//!             environment, change    a job's environment variables and files
//!             metrics            the node's metrics, in the Prometheus text format
//!             audit              the audit record of a token
//!             kept               a kept token, for all jobs of a user with the same grant
//!             record             root's record of a job, from prolog to epilog
//!             report             from an error to a message for people
//!   tokens                       which jobs share a token, its lifetime, and when it is due for a refresh
//! 4 policy    config site request rules facts grant    decide() -> Grant; each exchange requires one
//! 3 exchange  *                  the exchange as a state machine without I/O, and run, which drives it
//! 2 world     fs/* proc http/* sys/* clock  files, processes, HTTP, the clocks, calls that need libc
//! 1 words     names google secret json path time    types whose values have been checked
//! ```
//!
//! # The life of a job
//!
//! 1. **srun, sbatch, salloc** parse and check the options ([`policy::request`]), and remove the variables of an outer
//!    job from the environment. They read no configuration and make no network call.
//! 2. **prolog** (root, in a separate process for each job and node): sweeps leftovers, and records the facts from
//!    slurmd, the options and a new run ID. If credentials are requested or automatic, and granted, it either takes the
//!    token that the node keeps for the user or starts a worker. It does nothing slow, because slurmd drains a node
//!    whose prolog process is killed.
//! 3. **worker**: reads the subject token and exchanges it in a child process with a deadline. The child connects to
//!    both of Google's servers at once. The worker keeps the token for all jobs of the user, stores grant, token and
//!    port in the record, publishes the job's files, and wakes or starts the agent.
//! 4. **slurmstepd**, `init_post_opt` (root): takes the credentials from the record, or waits for the exchange in
//!    progress. It does the exchange itself, in a child process too, if the option was given only to the step, if the
//!    step requests another identity, if the token is about to expire, or if the worker died. It wakes the agent, which
//!    responds with the ports that it serves; if another program has taken the job's port, the job gets a new one. A
//!    child process that has become the user reads the user's enroot configuration and looks for Application Default
//!    Credentials. Finally, it sets the step's environment.
//! 5. **slurmstepd**, `user_init`: prints the failure, or warnings. `task_init`: exits with status 1 if explicitly
//!    requested credentials failed.
//! 6. **agent** (root, one for each runtime directory): serves each identity of each job at a loopback port. At half of
//!    a token's lifetime it obtains a new one, over a resumed TLS session, and publishes it.
//! 7. **slurmstepd**, `exit` (root): removes the step's enroot configuration.
//! 8. **epilog** (root): kills the worker if it still runs, removes the job's files and record, and notifies the agent.
//!
//! No hook returns an error or panics, because Slurm would drain the node if the plugin is `required`.
//!
//! # Invariants
//!
//! - **A grant is decided once.** [`policy::grant::Grant`] contains identity, rule, scopes, lifetime and delivery. The
//!   record stores it. Each refresh repeats it, and so does each later step with the same request. The rules then only
//!   decide whether the grant still holds; a new default of the site applies to new jobs.
//! - **On a node, one process at a time performs the exchange for a user, identity, scopes, lifetime and provider**
//!   ([`job::obtain`]). It holds the lock of `tokens/KEY` and stores the result there. A process that has waited for
//!   the lock looks there first. A holder that exceeds its own deadline loses the lock.
//! - **No process performs an exchange under a job's lock**, which only guards a few writes. A step with a fresh token
//!   therefore never waits for an exchange.
//! - **A job without a request costs nothing**, unless the site injects credentials automatically: no record, no
//!   directory, no process, no lookup in the user database, and no file is read except the site configuration. Only if
//!   rules name accounts or partitions does each job have a record, because no later hook can learn them.
//! - **Late results are dropped.** Each run of a job has its own ID. The result of an exchange is stored under the
//!   job's lock, and only if the record exists and has the same run ID. It never reaches a job after its epilog, or a
//!   requeued job.
//! - **Files with tokens are rendered, never patched**: from the record, and enroot's `.credentials` also from the
//!   user's part of the step's configuration, which root keeps in `step-STEP`. The record is written first, with
//!   `is_published` false; then each file is replaced by rename. If the process is killed in between, the next step or
//!   the agent publishes the files again.
//! - **A job stays in the runtime directory where its prolog put it**, even if the site configuration later names
//!   another. The default runtime directory has links to the others in `elsewhere/`, and epilog and sweep search all of
//!   them.
//! - **A process with threads does not fork.** Hooks exchange in a forked child with a deadline, whose threads end with
//!   it. The agent exchanges in threads. Its watcher has one thread; it forks the serving process, keeps the listening
//!   sockets for the next one, and kills a serving process whose heartbeat stops.
//! - **No user can take a job's port**, as long as a port below `net.ipv4.ip_unprivileged_port_start` is free.
//!
//! # Files
//!
//! ```text
//! RUNTIME_DIR/records/JOBID/   root's record of a job. The directory is the job's lock
//! RUNTIME_DIR/tokens/KEY/      a token for all jobs of a user with the same grant. The directory is its lock
//! RUNTIME_DIR/jobs/JOBID/      the files that the job's user can read
//! RUNTIME_DIR/agent.*          the agent's lock, socket and log; `agent.service` if a service manager runs the agent
//! RUNTIME_DIR/metrics.prom     the node's metrics, for Prometheus
//! RUNTIME_DIR/audit.log        an audit record for each token, if the site configures it
//! RUNTIME_DIR/elsewhere/       links to other runtime directories with jobs; in the default runtime directory only
//! ```
//!
//! [`world::fs`] lists the tree with owners and modes, in `world/fs/runtime.rs`.
//!
//! # Where to look
//!
//! | question | file | function |
//! |---|---|---|
//! | What does a user read after an audience mismatch? | `core/src/plan/report.rs` | `audience_hint` |
//! | Which identity may a job have? | `core/src/policy/rules.rs` | `decide` |
//! | Where are option values limited? | `core/src/policy/request.rs` | `request` |
//! | When is a token due for a refresh, or too old for a new job or step? | `core/src/tokens.rs` | `due`, `can_begin`, `is_fresh` |
//! | Which scopes does a client get that requests some? | `core/src/policy/grant.rs` | `for_scopes` |
//! | Which tokens can clients request, and how many? | `core/src/job/requested.rs` | `had`, `obtain`, `check_share` |
//! | Which jobs share a token? | `core/src/tokens.rs` | `new` |
//! | How long does a failure hold? | `core/src/plan/kept.rs` | `failure` |
//! | When is a request to Google retried? | `core/src/exchange/run.rs` | `pause` |
//! | When is a connection opened, and by which code? | `core/src/world/http/connections.rs` | `open_ahead`, `connect` |
//! | Which TLS sessions are resumed? | `core/src/world/http.rs` | `client` |
//! | Which errors are transient? | `core/src/exchange.rs` | `is_transient` |
//! | When is a failed refresh retried? | `command/src/agent/run.rs` | `refresh` |
//! | Where is the subject token read? | `core/src/job/worker.rs` | `read_subject_token` |
//! | Where is a job's directory created? | `core/src/world/fs/runtime/locked.rs` | `publish`, `jobs_directory` |
//! | Where is the runtime directory chosen? | `core/src/job/places.rs` | `open`, `of_job` |
//! | When does an exchange wait for an absent subject token? | `core/src/job/obtain.rs` | `ask` |
//! | What is excepted from the job's proxies? | `core/src/plan/environment/proxies.rs` | `exceptions` |
//! | Which registries get pull credentials? | `core/src/plan/enroot/registries.rs` | `of_google` |
//! | Where is ENROOT_CONFIG_PATH composed? | `core/src/plan/environment.rs` | `environment` |
//! | What does that directory contain? | `core/src/plan/enroot.rs` | `new` |
//! | What is mounted into a container? | `core/src/plan/enroot.rs` | `fstab` |
//! | What happens when the serving process dies or hangs? | `command/src/agent/watch.rs` | `watch` |
//! | What happens when the watcher dies? | `command/src/agent/keep.rs` | `start_over` |
//! | What restarts the agent under a service manager? | `command/src/agent/watch.rs` | `stay` |
//! | What happens after an upgrade? | `command/src/agent/watch.rs` | `upgrade` |
//! | What happens when watcher and serving process both die? | `core/src/job/wake.rs` | `wake` |
//! | Which requests are answered at a job's port? | `command/src/agent/serve.rs` | `answer` |
//! | Whose requests are answered at a job's port? | `command/src/agent/caller.rs` | `owner` |
//! | What removes a job? | `core/src/job/lifecycle.rs` | `epilog`, `extern_exit` |
//! | What removes leftovers? | `core/src/job/sweep.rs` | `sweep` |
//! | What does slurmd's log contain for an issuance? | `core/src/plan/audit.rs` | `line` |
//! | Where are the metrics counted? | `core/src/plan/metrics.rs` | `count`, `set` |
//! | Where are audit records written? | `core/src/job/tell.rs` | `tell` |
//!
//! # Unsafe code
//!
//! Only the plugin's `src/` and [`world::sys`] contain unsafe code, each block with its reason. All other files forbid
//! it.

pub mod words {
    //! Types whose values have been checked.
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
    //! The site's configuration and rules: which identity a job may use, and on which terms.
    pub mod config;
    pub mod facts;
    pub mod grant;
    pub mod request;
    pub mod rules;
    pub mod site;
}
pub mod tokens;
pub mod plan {
    //! Everything that a job sees, and what is stored about it, as values.
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
    pub mod schedule;
    pub mod sweep;
    pub mod tell;
    pub mod wake;
    pub mod worker;
}
#[cfg(any(test, feature = "testing"))]
pub mod testing;
