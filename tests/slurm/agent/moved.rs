//! `runtime_dir` changes while jobs run: a running job's files stay where they are, and new jobs use the new directory.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use super::callers::{Door, assert_answered};
use super::processes::processes;
use super::{LIMIT, site};
use crate::cluster::{Node, command_path, wait_until};
use crate::site::{OBJECT, Site, names};

/// An access token's lifetime in seconds.
const LIFE: i64 = 8;
/// How long the agent's processor time is measured. The agent works for milliseconds then, unless it spins.
const MEASURED: Duration = Duration::from_secs(4);
const OTHER: &str = "/run/other";

/// Makes the site use [`OTHER`] from now on.
fn move_to_other(site: &Site) {
    site.configure(json!({"delivery": "agent", "command": command_path(), "runtime_dir": OTHER}));
}

/// The jobs with files or a record below a runtime directory.
fn jobs(directory: &str, node: &Node) -> Vec<String> {
    let path = node.run_dir().join(directory);
    ["jobs", "records"].iter().flat_map(|part| names(&path.join(part))).collect()
}

/// Processor seconds that the agent's processes have used, including those that have ended.
fn processor_time(node: &Node) -> f64 {
    let ticks = |process: &str| {
        let stat = node.command(["cat", &format!("/proc/{process}/stat")]).run().stdout;
        // The 14th to 17th of proc(5): utime, stime, cutime, cstime. The name, in brackets, is the second.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
        fields.map(|field| field.parse::<u32>().unwrap()).sum::<u32>()
    };
    processes(node).iter().map(|process| f64::from(ticks(&process.id))).sum::<f64>() / 100.0
}

#[test]
fn a_running_job_keeps_its_runtime_directory_when_the_sites_is_changed() {
    let site = site(json!({}), Some(LIFE));
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let door = Door::of(&node, &id);
    let token = || fs::read_to_string(node.job_dir(&id).join("access_token")).unwrap();
    wait_until(LIMIT, || processes(&node).len() == 2);
    move_to_other(&site);

    // A new job uses the new directory.
    let words =
        ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", "echo $SLURM_JOB_ID $GCP_WIF_ACCESS_TOKEN_FILE; sleep 300"];
    let new = site.cluster.as_user("bob").command(words).spawn();
    wait_until(LIMIT, || new.stdout().ends_with('\n'));
    let printed = new.stdout();
    let (new_id, file) = printed.trim().split_once(' ').unwrap();
    assert_eq!(file, format!("{OTHER}/jobs/{new_id}/access_token"));

    // The running job's files stay fresh where they are, and the agent serves its port.
    let renewed = |token: &dyn Fn() -> String| {
        let before = token();
        let end = Instant::now() + LIMIT;
        while token() == before && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        token() != before
    };
    let new_file = node.run_dir().join("other/jobs").join(new_id).join("access_token");
    let fresh = [&token as &dyn Fn() -> String, &|| fs::read_to_string(&new_file).unwrap()].map(renewed);
    // The agent has almost nothing to do. A fifth of the time is far more than it needs on any machine.
    let (begun, before) = (Instant::now(), processor_time(&node));
    std::thread::sleep(MEASURED);
    let used = (processor_time(&node) - before) / begun.elapsed().as_secs_f64();
    assert!(
        fresh == [true, true] && used < 0.2,
        "the old job's token is renewed: {}, the new one's: {}, the agent uses {:.0} % of a processor",
        fresh[0],
        fresh[1],
        used * 100.0
    );
    assert_answered(&door.token(&node, "alice", ""));

    // Its later steps also use the old directory, with everything that belongs to a step.
    let line =
        format!("echo $GCP_WIF_ACCESS_TOKEN_FILE $GOOGLE_APPLICATION_CREDENTIALS $ENROOT_CONFIG_PATH; {}", site.list());
    let words = ["srun", "--overlap", &format!("--jobid={id}"), "--gcp-wif", "bash", "-c", &line];
    let run = site.cluster.as_user("alice").command(words).run().ok();
    let own = format!("/run/gcp-wif/jobs/{id}/");
    let files = run.stdout.lines().next().unwrap();
    assert!(files.split(' ').count() == 3 && files.split(' ').all(|file| file.starts_with(&own)), "{}", run.stdout);
    assert!(run.stdout.contains(OBJECT), "{}", run.stdout);
    assert_eq!(jobs("other", &node), [new_id, new_id]);

    site.cancel(job);
    wait_until(LIMIT, || jobs("gcp-wif", &node).is_empty());
    site.cluster.as_user("root").command(["scancel", "-u", "bob"]).run().ok();
    drop(new);
    site.cluster.assert_healthy();
    assert_eq!(jobs("other", &node), [""; 0]);
    site.finish();
}

#[test]
fn nothing_of_a_job_stays_in_the_directory_that_it_began_with() {
    let site = site(json!({}), None);
    let node = site.cluster.node(1);
    let to_default = || site.configure(json!({"delivery": "agent", "command": command_path()}));
    let to_other = || move_to_other(&site);
    // The default directory is always looked at, and another one must be remembered.
    for [first, second] in [[&to_default as &dyn Fn(), &to_other], [&to_other, &to_default]] {
        first();
        let (job, _) = site.running_job();
        second();
        site.cancel(job);
        site.cluster.assert_healthy();
        let left = || [jobs("gcp-wif", &node), jobs("other", &node)];
        assert_eq!(left(), [[""; 0]; 2]);
        // A job without credentials also leaves nothing.
        site.cluster.as_user("bob").command(["srun", "-w", "n1", "true"]).run().ok();
        site.cluster.assert_healthy();
        assert_eq!(left(), [[""; 0]; 2]);
    }
    site.finish();
}

#[test]
fn what_a_crash_left_in_an_earlier_runtime_directory_is_swept() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let line = "cd /run/gcp-wif && cp -a jobs/$1 jobs/4000000 && cp -a records/$1 records/4000000 && \
                sed -i 's/\"boot\":\"[^\"]*\"/\"boot\":\"before\"/' records/4000000/record";
    node.command(["bash", "-c", line, "copy", &id]).run().ok();
    assert_eq!(jobs("gcp-wif", &node).len(), 4);
    move_to_other(&site);
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    wait_until(LIMIT, || jobs("gcp-wif", &node) == [&*id, &*id]);
    site.cancel(job);
    site.finish();
}
