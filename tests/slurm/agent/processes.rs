//! The processes of a node's agent.

use std::fmt;

use super::LIMIT;
use crate::cluster::{Node, wait_until};

/// A process of a node's agent.
pub struct Process {
    pub id: String,
    /// Whether this is the serving process; otherwise it is the watcher.
    pub serves: bool,
    /// VmRSS: its resident memory, including pages that it shares with others.
    pub resident: u64,
    /// Pss: its share of those.
    pub proportional: u64,
    /// Its private memory.
    pub private: u64,
    pub descriptors: u64,
    threads: u64,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resident, proportional, private, descriptors, .. } = self;
        let role = if self.serves { "serving" } else { "watching" };
        write!(f, "{role}: VmRSS {resident} kB, Pss {proportional} kB, private {private} kB, {descriptors} descriptors")
    }
}

/// Both nodes of a cluster see all processes. Those of a node have its /run.
pub fn processes(node: &Node) -> Vec<Process> {
    let line = "for process in /proc/[0-9]*; do \
        [[ $process/root/run -ef /run ]] || continue; \
        [[ $(tr '\\0' ' ' <$process/cmdline) == */gcp-wif\\ agent\\ --config\\ * ]] || continue; \
        echo ${process#/proc/} $(grep -cx gcp-wif-serve $process/comm) $(ls $process/fd | wc -l) \
             $(sed -n 's/^\\(VmRSS\\|Threads\\):[^0-9]*\\([0-9]*\\).*/\\2/p' $process/status) \
             $(awk '/^Pss:/ {pss = $2} /^Private_/ {private += $2} END {print pss, private}' $process/smaps_rollup); \
        done 2>/dev/null";
    let run = node.as_user("root").shell(line).run();
    let process = |line: &str| {
        let (id, fields) = line.split_once(' ')?;
        let fields: Option<Vec<u64>> = fields.split(' ').map(|field| field.parse().ok()).collect();
        let [serves, descriptors, resident, threads, proportional, private] = fields?[..] else { return None };
        let (id, serves) = (id.to_owned(), serves != 0);
        Some(Process { id, serves, resident, proportional, private, descriptors, threads })
    };
    run.stdout.lines().filter_map(process).collect()
}

/// Waits until the agent has two processes, and returns the serving one.
pub fn serving(node: &Node) -> Process {
    wait_until(LIMIT, || processes(node).len() == 2);
    processes(node).into_iter().find(|process| process.serves).unwrap_or_else(|| panic!("one of them serves"))
}

/// The serving process and the watcher when they are idle, printed.
pub fn settled(node: &Node, when: &str) -> [Process; 2] {
    // Its worker threads end after a second without work.
    let mut found = Vec::new();
    wait_until(LIMIT, || {
        found = processes(node);
        found.len() == 2 && found.iter().all(|process| process.threads == 1)
    });
    found.sort_by_key(|process| !process.serves);
    for process in &found {
        eprintln!("{when}: {process}");
    }
    found.try_into().unwrap_or_else(|_| panic!("the agent is two processes"))
}

/// Ends both processes of the agent, and the processes that they started.
pub fn kill_agent(node: &Node) {
    wait_until(LIMIT, || {
        let ids: Vec<String> = processes(node).into_iter().map(|process| process.id).collect();
        // One of them may have ended by itself.
        node.command(["kill", "-KILL"].map(str::to_owned).into_iter().chain(ids.clone())).run();
        ids.is_empty()
    });
}
