//! The processes of a node's agent.

use std::time::Duration;

use crate::cluster::Node;

/// A process of a node's agent.
pub struct Process {
    pub id: String,
    /// The one that serves; else the one that watches.
    pub serves: bool,
    resident: u64,
    pub descriptors: u64,
}

pub fn processes(node: &Node) -> Vec<Process> {
    let line = "for process in /proc/[0-9]*; do \
        [[ $(tr '\\0' ' ' <$process/cmdline) == */gcp-wif\\ agent\\ --config\\ * ]] || continue; \
        echo ${process#/proc/} $(<$process/comm) \
             $(sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\) kB/\\1/p' $process/status) $(ls $process/fd | wc -l); done 2>/dev/null";
    let run = node.as_user("root").shell(line).run();
    let process = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [id, serves, resident, descriptors] = fields[..] else { return None };
        let serves = serves == "gcp-wif-serve";
        Some(Process {
            id: id.to_owned(),
            serves,
            resident: resident.parse().ok()?,
            descriptors: descriptors.parse().ok()?,
        })
    };
    run.stdout.lines().filter_map(process).collect()
}

/// The resident memory of a node's agent in kB, and its descriptors, when it has nothing to do.
pub fn settled(node: &Node) -> (u64, u64) {
    // Its threads go after a second without work.
    std::thread::sleep(Duration::from_secs(3));
    let processes = processes(node);
    assert_eq!(processes.len(), 2);
    for process in &processes {
        let role = if process.serves { "serving" } else { "watching" };
        eprintln!("{role}: {} kB resident, {} descriptors", process.resident, process.descriptors);
    }
    processes.iter().fold((0, 0), |(memory, open), one| (memory + one.resident, open + one.descriptors))
}
