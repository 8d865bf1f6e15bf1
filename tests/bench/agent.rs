//! The agent: how fast it answers a job, and how much of a node's memory it uses.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{Background, Node, Plugin, Settings, command_path, plugin_path, wait_until};
use crate::load::{Connections, Loaded, load};
use crate::processes::{Process, settled};
use crate::rows::Row;
use crate::samples::{Samples, rounded};
use crate::site::Site;
use crate::sites::{self, Prolog};

/// As many connections as a node's processes have at once, one for each rank of a job.
const CONNECTIONS: usize = 64;
const TIME: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;
/// As many jobs as a node ever has.
const JOBS: usize = 200;
const LONG: Duration = Duration::from_secs(300);

fn site() -> Site {
    let settings = sites::settings(Plugin::Optional, Prolog::AtAllocation);
    let site = Site::with(Settings { cpus: Some(JOBS as u32 + 2), ..settings });
    site.configure(json!({"delivery": "agent", "command": command_path(), "project": "demo-project"}));
    site
}

/// A job that runs until the bench ends it, and the address where its agent serves it.
fn job(site: &Site) -> (Background, SocketAddr) {
    let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", "echo $GCE_METADATA_HOST; sleep 1000"];
    let job = site.cluster.as_user("alice").command(words).spawn();
    wait_until(crate::LIMIT, || job.stdout().ends_with('\n'));
    let address = job.stdout().trim().parse().expect("an address");
    (job, address)
}

/// The token endpoint under load. The clients run as root, which the agent permits.
pub fn speed() -> Vec<Row> {
    let site = site();
    let (job, address) = job(&site);
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nMetadata-Flavor: Google\r\n\r\n");
    let run = |connections| load(address, &request, connections, CONNECTIONS, TIME);
    // In turns. The first round warms up.
    let mut loaded = [Connections::New, Connections::KeptAlive].map(|connections| (connections, Vec::new()));
    let node = site.cluster.node(1);
    let [serving, _] = settled(&node, "one job");
    for round in 0..=ROUNDS {
        for (connections, loads) in &mut loaded {
            let before = processor_time(&node, &serving);
            let loaded = run(*connections);
            let used = processor_time(&node, &serving) - before;
            if round > 0 {
                loads.push((used / loaded.answers.len() as f64, loaded));
            }
        }
    }
    site.cancel(job);
    loaded.map(|(connections, loads)| speed_row(connections, &loads)).into()
}

/// Processor time of the agent's only thread, in microseconds.
fn processor_time(node: &Node, serving: &Process) -> f64 {
    let told = node.command(["cat", &format!("/proc/{}/schedstat", serving.id)]).run().ok().stdout;
    let nanoseconds: f64 = told.split(' ').next().and_then(|word| word.parse().ok()).expect("the kernel counts");
    nanoseconds / 1000.0
}

/// Also the best of the rounds, because other programs on the machine only ever make a round worse. And the agent's
/// processor time for an answer, which is the most reliable figure on a busy machine.
fn speed_row(connections: Connections, loads: &[(f64, Loaded)]) -> Row {
    let each_second: Samples = loads.iter().map(|(_, loaded)| loaded.each_second).collect();
    let longest: Samples = loads.iter().map(|(_, loaded)| loaded.answers.quantile(0.99)).collect();
    let used: Samples = loads.iter().map(|(used, _)| *used).collect();
    let (how, to_reach) = match connections {
        Connections::New => ("each request on a new one", "22,000 a second, 6 ms"),
        Connections::KeptAlive => ("kept alive", "80,000 a second, 1 ms"),
    };
    Row {
        line: "agent",
        what: format!("the agent's token endpoint, {CONNECTIONS} connections, {how}"),
        measured: format!("{:.0} requests a second, 99 % in {:.1} ms", each_second.median(), longest.median()),
        spread: format!(
            "best {:.0} a second and {:.1} ms; {:.1} us of a processor each",
            each_second.quantile(1.0),
            longest.quantile(0.0),
            used.median()
        ),
        is_told: true,
        to_reach,
        numbers: json!({"each_second": each_second.json(), "p99_ms": longest.json(), "processor_us": used.json()}),
    }
}

/// The plugin's file, and the agent's two processes with one job and with as many as a node ever has.
pub fn size() -> Vec<Row> {
    let size = fs::metadata(plugin_path()).expect("the plugin is there").len() as f64 / 1e6;
    let site = site();
    let node = site.cluster.node(1);
    let (job, _) = job(&site);
    let one = settled(&node, "one job");
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif --array=2-{JOBS} -w n1 -o /dev/null\n\
         curl -sS --fail -o /dev/null -H 'Metadata-Flavor: Google' \
           http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/token && echo >>served\n\
         sleep 1000\n"
    );
    site.cluster.batch("alice", &script, &[]);
    let served = site.cluster.home("alice").join("served");
    wait_until(LONG, || fs::read_to_string(&served).unwrap_or_default().lines().count() == JOBS - 1);
    let many = settled(&node, &format!("{JOBS} jobs"));
    site.cancel(job);
    let [one, many] = [one, many].map(|processes| resident(&processes));
    let row = |what: &str, measured, to_reach, numbers| Row {
        line: "size",
        what: what.to_owned(),
        measured,
        spread: String::new(),
        to_reach,
        numbers,
        is_told: true,
    };
    vec![
        row("the plugin's file", format!("{size:.2} MB"), "2.0 MB", json!({"bytes": rounded(size * 1e6)})),
        row("the agent with one job, resident", format!("{one:.1} MiB"), "4 MiB", json!({"mib": rounded(one)})),
        row("the agent with 200 jobs, resident", format!("{many:.1} MiB"), "8 MiB", json!({"mib": rounded(many)})),
    ]
}

/// Counts each page once, because the serving process is a fork of the watcher and shares its pages.
fn resident([serving, watching]: &[Process; 2]) -> f64 {
    (serving.resident + watching.private) as f64 / 1024.0
}
