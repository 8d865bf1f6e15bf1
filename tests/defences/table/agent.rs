//! The node agent: whom it answers, what users can do to it.

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
        without: "the kernel's record says whose a connection is",
        edits: &[edit(
            SERVE,
            "is_some_and(|owner| owner == uid || owner == 0)",
            "is_none_or(|owner| owner != uid || owner == uid)",
        )],
        red: &[CALLERS, "agent::callers::a_user_who_tries_every_port_gets_nothing"],
    },
    Defence {
        name: "pages",
        without: "requests of pages are refused",
        edits: &[edit(REPLY, "if FROM_PAGES.iter().any(|name| parts.headers.contains_key(*name)) {", "if false {")],
        red: &[CALLERS],
    },
    Defence {
        name: "hosts",
        without: "requests for another host are refused",
        edits: &[edit(REPLY, r#"if !hosts.iter().any(|host| host == header("host")) {"#, "if hosts.is_empty() {")],
        red: &[CALLERS],
    },
    Defence {
        name: "proxies",
        without: "requests that a proxy passes on are refused",
        edits: &[edit(REPLY, r#"if parts.headers.contains_key("x-forwarded-for") {"#, "if false {")],
        red: &[CALLERS],
    },
    Defence {
        name: "flavor",
        without: "a request to the metadata endpoint has its header",
        edits: &[edit("command/src/agent/metadata.rs", "if !call.has_flavor {", "if false {")],
        red: &[CALLERS],
    },
    Defence {
        name: "agents-log",
        without: "the agent's log is for root alone",
        edits: &[edit("command/src/agent/journal.rs", "append(true).mode(0o600)", "append(true).mode(0o644)")],
        red: &[CLOSED],
    },
    Defence {
        name: "agents-socket",
        without: "the agent's socket is for root alone",
        edits: &[edit(RUN, "Permissions::from_mode(0o600)", "Permissions::from_mode(0o666)")],
        red: &[CLOSED],
    },
    Defence {
        name: "sockets-kept",
        without: "the watcher keeps the sockets of a serving process that dies",
        edits: &[edit(KEEP, "Some(socket) => sockets.insert(port, socket),", "Some(_) => None,")],
        red: &["agent::callers::a_dead_agents_port_stays_reserved_or_is_useless"],
    },
    Defence {
        name: "another-port",
        without: "a job whose port another program took gets another port",
        edits: &[edit(
            "core/src/job/issuance.rs",
            "asked.take())?.contains(&port.number)",
            "asked.take())?.contains(&port.number) || true",
        )],
        red: &["agent::callers::a_step_does_not_begin_with_another_users_port"],
    },
    Defence {
        name: "strangers",
        without: "few strangers at once are told that a port is another user's",
        edits: &[edit(SERVE, "if Rc::strong_count(&strangers) <= STRANGERS {", "if true {")],
        red: &["agent::callers::many_connections_keep_no_job_from_its_token"],
    },
    Defence {
        name: "share-of-connections",
        without: "a user has a share of the agent's connections",
        edits: &[edit(SERVE, "const CONNECTIONS: usize = 512;", "const CONNECTIONS: usize = 1 << 20;")],
        red: &["agent::callers::many_connections_keep_no_job_from_its_token"],
    },
    Defence {
        name: "roots-ports",
        without: "ports that only root can bind come first",
        edits: &[edit("core/src/job/ports.rs", "RangeInclusive<u16> = 1..=664;", "RangeInclusive<u16> = 665..=664;")],
        red: &["agent::ports::a_user_who_takes_all_ports_keeps_nobody_from_credentials"],
    },
    Defence {
        name: "heartbeat",
        without: "a serving process whose heartbeat stays away is ended",
        edits: &[edit(KEEP, "if matches!(silence, Silence::Final) {", "if false {")],
        red: &["agent::trouble::a_serving_process_that_is_stopped_is_replaced"],
    },
    Defence {
        name: "stopped-agents",
        without: "a new agent ends one that is stopped as a whole",
        edits: &[edit(WATCH, "end_stuck(&mut file, journal);", "let _ = journal;")],
        red: &["agent::trouble::a_step_replaces_an_agent_whose_processes_are_all_stopped"],
    },
    Defence {
        name: "removed-directory",
        without: "an agent whose runtime directory was removed ends",
        edits: &[edit(RUN, "if !self.runtime.is_there() {", "if false {")],
        red: &["agent::trouble::an_agent_whose_directory_is_removed_makes_way_for_the_next_one"],
    },
    Defence {
        name: "back-off",
        without: "a serving process that ends again and again is started less and less often",
        edits: &[
            edit(WATCH, "pause = (pause * 2).min(LONGEST_PAUSE);", "pause = Duration::ZERO;"),
            edit(WATCH, "if self.lock.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {", "if false {"),
        ],
        red: &["agent::trouble::an_agent_without_a_directory_does_not_restart_endlessly"],
    },
    Defence {
        name: "threads",
        without: "a refresh that gets no thread is told and tried again",
        edits: &[edit(
            "command/src/agent/threads.rs",
            "thread::Builder::new().name(name).stack_size(STACK).spawn(work).map_err(Unfinished::NoThread)?;",
            "thread::Builder::new().name(name).stack_size(STACK).spawn(work).expect(\"a thread\");",
        )],
        red: &["agent::trouble::a_refresh_that_gets_no_thread_is_reported_and_retried"],
    },
    Defence {
        name: "refreshes-at-once",
        without: "refreshes run beside each other",
        edits: &[edit(RUN, "const REFRESHES: usize = 32;", "const REFRESHES: usize = 1;")],
        red: &[
            "agent::hanging::an_exchange_that_begins_among_others_and_hangs_delays_none_of_them",
            "agent::hanging::an_exchange_that_begins_together_with_others_and_hangs_delays_none_of_them",
        ],
    },
];
