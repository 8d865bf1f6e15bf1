//! Defences of the node agent: against other callers, and against its own failures.

use super::{Defence, edit};

const KEEP: &str = "command/src/agent/keep.rs";
const RUN: &str = "command/src/agent/run.rs";
const SERVE: &str = "command/src/agent/serve.rs";
const REPLY: &str = "command/src/agent/reply.rs";
const WATCH: &str = "command/src/agent/watch.rs";
const CALLERS: &str = "agent::callers::another_user_is_not_answered";
const CLOSED: &str = "agent::callers::files_and_processes_are_closed_to_users";

pub(super) const DEFENCES: &[Defence] = &[
    Defence {
        name: "callers",
        property: "the agent answers only connections whose owner, according to the kernel, is the job's user or root",
        edits: &[edit(
            SERVE,
            "is_some_and(|owner| owner == uid || owner == 0)",
            "is_none_or(|owner| owner != uid || owner == uid)",
        )],
        must_fail: &[CALLERS, "agent::callers::a_user_who_tries_every_port_gets_nothing"],
    },
    Defence {
        name: "pages",
        property: "requests of web pages are refused",
        edits: &[edit(REPLY, "if FROM_PAGES.iter().any(|name| parts.headers.contains_key(*name)) {", "if false {")],
        must_fail: &[CALLERS],
    },
    Defence {
        name: "hosts",
        property: "requests for other hosts are refused",
        edits: &[edit(REPLY, r#"if !hosts.iter().any(|host| host == header("host")) {"#, "if hosts.is_empty() {")],
        must_fail: &[CALLERS],
    },
    Defence {
        name: "proxies",
        property: "requests that a proxy forwards are refused",
        edits: &[edit(REPLY, r#"if parts.headers.contains_key("x-forwarded-for") {"#, "if false {")],
        must_fail: &[CALLERS],
    },
    Defence {
        name: "flavor",
        property: "requests to the metadata endpoint must have the header Metadata-Flavor",
        edits: &[edit("command/src/agent/metadata.rs", "if !call.has_flavor {", "if false {")],
        must_fail: &[CALLERS],
    },
    Defence {
        name: "agents-log",
        property: "only root can read the agent's log",
        edits: &[edit("command/src/agent/journal.rs", "append(true).mode(0o600)", "append(true).mode(0o644)")],
        must_fail: &[CLOSED],
    },
    Defence {
        name: "agents-socket",
        property: "only root can connect to the agent's socket",
        edits: &[edit(RUN, "Permissions::from_mode(0o600)", "Permissions::from_mode(0o666)")],
        must_fail: &[CLOSED],
    },
    Defence {
        name: "sockets-kept",
        property: "the watcher keeps the sockets of a serving process that dies",
        edits: &[edit(KEEP, "Some(socket) => sockets.insert(port, socket),", "Some(_) => None,")],
        must_fail: &["agent::callers::a_dead_agents_port_stays_reserved_or_is_useless"],
    },
    Defence {
        name: "another-port",
        property: "a job gets another port if another program has taken its port",
        edits: &[edit(
            "core/src/job/issuance.rs",
            "asked.take())?.contains(&port.number)",
            "asked.take())?.contains(&port.number) || true",
        )],
        must_fail: &["agent::callers::a_step_does_not_begin_with_another_users_port"],
    },
    Defence {
        name: "strangers",
        property: "the agent replies to a limited number of other users' connections at the same time",
        edits: &[edit(SERVE, "if Rc::strong_count(&strangers) <= STRANGERS {", "if true {")],
        must_fail: &["agent::callers::many_connections_keep_no_job_from_its_token"],
    },
    Defence {
        name: "share-of-connections",
        property: "a user has a limited number of connections to the agent",
        edits: &[edit(SERVE, "const CONNECTIONS: usize = 512;", "const CONNECTIONS: usize = 1 << 20;")],
        must_fail: &["agent::callers::many_connections_keep_no_job_from_its_token"],
    },
    Defence {
        name: "roots-ports",
        property: "ports that only root can bind are used first",
        edits: &[edit("core/src/job/ports.rs", "RangeInclusive<u16> = 1..=664;", "RangeInclusive<u16> = 665..=664;")],
        must_fail: &["agent::ports::a_user_who_takes_all_ports_keeps_nobody_from_credentials"],
    },
    Defence {
        name: "heartbeat",
        property: "a serving process without a heartbeat is killed",
        edits: &[edit(KEEP, "if matches!(silence, Silence::Final) {", "if false {")],
        must_fail: &["agent::trouble::a_serving_process_that_is_stopped_is_replaced"],
    },
    Defence {
        name: "stopped-agents",
        property: "a new agent kills an agent whose processes are stopped",
        edits: &[edit(WATCH, "end_stuck(&mut file, journal);", "let _ = journal;")],
        must_fail: &["agent::trouble::a_step_replaces_an_agent_whose_processes_are_all_stopped"],
    },
    Defence {
        name: "removed-directory",
        property: "an agent exits if its runtime directory is removed",
        edits: &[edit(RUN, "if !self.runtime.is_there() {", "if false {")],
        must_fail: &["agent::trouble::an_agent_whose_directory_is_removed_makes_way_for_the_next_one"],
    },
    Defence {
        name: "back-off",
        property: "the restarts of a serving process that fails repeatedly back off",
        edits: &[edit(WATCH, "if begun.elapsed() < SHORT {", "if false {")],
        must_fail: &["agent::trouble::a_serving_process_that_cannot_start_is_started_again_after_growing_pauses"],
    },
    Defence {
        name: "threads",
        property: "a refresh for which no thread can be started is reported and retried",
        edits: &[edit(
            "command/src/agent/threads.rs",
            "thread::Builder::new().name(name).stack_size(STACK).spawn(work).map_err(Unfinished::NoThread)?;",
            "thread::Builder::new().name(name).stack_size(STACK).spawn(work).expect(\"a thread\");",
        )],
        must_fail: &["agent::trouble::a_refresh_that_gets_no_thread_is_reported_and_retried"],
    },
    Defence {
        name: "refreshes-at-once",
        property: "refreshes run concurrently",
        edits: &[edit(RUN, "const REFRESHES: usize = 32;", "const REFRESHES: usize = 1;")],
        must_fail: &[
            "agent::hanging::an_exchange_that_begins_among_others_and_hangs_delays_none_of_them",
            "agent::hanging::an_exchange_that_begins_together_with_others_and_hangs_delays_none_of_them",
        ],
    },
];
