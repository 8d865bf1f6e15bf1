//! A job's files when their user turns against the node: whose they are, and what he can let grow.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::agent;
use crate::cluster::{Background, Node, wait_until};
use crate::site::{OBJECT, OTHER_ACCOUNT, Site};

const LIMIT: Duration = Duration::from_secs(60);

/// A job of alice's on n1 that runs this line of bash in a step and then waits, and its number.
#[track_caller]
fn job(site: &Site, line: &str) -> (Background, String) {
    let line = format!("{line}\necho $SLURM_JOB_ID; sleep 300");
    let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line];
    let job = site.cluster.as_user("alice").command(words).spawn();
    wait_until(LIMIT, || job.stdout().ends_with('\n'));
    let id = job.stdout().trim().to_owned();
    (job, id)
}

/// Owner, mode and path of each file of a job.
fn files(node: &Node, id: &str) -> Vec<(String, String, String)> {
    let line = format!("find /run/gcp-wif/jobs/{id} -type f -printf '%u %m %p\\n' | sort");
    let listing = node.as_user("root").shell(&line).run().ok().stdout;
    let fields = |line: &str| {
        let (owner, rest) = line.split_once(' ')?;
        let (mode, path) = rest.split_once(' ')?;
        Some((owner.to_owned(), mode.to_owned(), path.to_owned()))
    };
    listing.lines().filter_map(fields).collect()
}

#[test]
fn files_that_root_rewrites_for_a_job_are_open_to_its_user_alone() {
    let site = agent::site(json!({"rules": [{"allow": [OTHER_ACCOUNT]}]}), None);
    let step = "srun -Q -n1 --overlap";
    let line = format!(
        "{step} --gcp-wif bash -c 'touch one; sleep 300' & \
         {step} --gcp-wif-service-account={OTHER_ACCOUNT} bash -c 'touch two; sleep 300' & echo $SLURM_JOB_ID; wait"
    );
    let job = site.cluster.as_user("alice").command(["salloc", "-Q", "-w", "n1", "bash", "-c", &line]).spawn();
    let home = site.cluster.home("alice");
    wait_until(LIMIT, || ["one", "two"].iter().all(|name| home.join(name).exists()));
    let (node, id) = (site.cluster.node(1), job.stdout().trim().to_owned());

    let files = files(&node, &id);
    for name in ["access_token", "credentials.json", "handle", "status", ".credentials", "50-gcp-wif.env"] {
        let count = files.iter().filter(|(_, _, path)| path.ends_with(&format!("/{name}"))).count();
        assert_eq!(count, 2, "{name}: {files:?}");
    }
    let (users, roots): (Vec<_>, Vec<_>) = files
        .iter()
        .partition(|(_, _, path)| ["/access_token", "/credentials.json"].iter().any(|name| path.ends_with(name)));
    for (owner, mode, path) in users {
        assert_eq!((owner.as_str(), mode.as_str()), ("alice", "400"), "{path}");
    }
    // With an entry in its ACL that lets its user read it.
    for (owner, mode, path) in &roots {
        assert!(owner == "root" && !mode.ends_with(['1', '2', '3', '4', '5', '6', '7']), "{owner} {mode} {path}");
    }

    let paths = |files: &[&(String, String, String)]| -> String {
        files.iter().map(|(_, _, path)| format!("'{path}' ")).collect()
    };
    let all = paths(&files.iter().collect::<Vec<_>>());
    let read = format!("for file in {all}; do cat $file >/dev/null && echo read; done");
    let read_by = |user: &str| node.as_user(user).shell(&read).run();
    assert_eq!(read_by("alice").stdout.lines().count(), files.len(), "{}", read_by("alice").stderr);
    assert_eq!(read_by("bob").stdout, "");
    let spoil = format!("for file in {}; do chmod u+w $file; echo x >>$file; done", paths(&roots));
    let run = node.as_user("alice").shell(&spoil).run();
    assert_eq!(run.stderr.matches("Operation not permitted").count(), roots.len(), "{}", run.stderr);
    assert_eq!(run.stderr.matches("Permission denied").count(), roots.len(), "{}", run.stderr);
    site.cancel(job);
    site.finish();
}

/// The most that a process of the node's agent has ever had in memory, in kB.
fn most_of_agent(node: &Node) -> u64 {
    let line = "for process in /proc/[0-9]*; do \
        [[ $(tr '\\0' ' ' <$process/cmdline) == */gcp-wif\\ agent\\ --config\\ * ]] || continue; \
        sed -n 's/^VmHWM:[^0-9]*\\([0-9]*\\).*/\\1/p' $process/status; done 2>/dev/null";
    let run = node.as_user("root").shell(line).run();
    run.stdout.lines().filter_map(|line| line.parse().ok()).max().unwrap_or(0)
}

#[test]
fn a_user_cannot_make_the_agent_read_more_than_it_wrote() {
    /// Of a debug build, with room: the file is six times as long.
    const MOST: u64 = 64 << 10;
    let site = agent::site(json!({}), Some(8));
    let spoil = "cd $ENROOT_CONFIG_PATH; chmod u+w .credentials; truncate -s 400M .credentials";
    let (job, id) = job(&site, spoil);
    let node = site.cluster.node(1);
    let file = |name: &str| fs::read(node.job_dir(&id).join(name)).unwrap_or_default();
    let (mut tokens, mut most) = (vec![file("access_token")], 0);
    // The second refresh begins when the first one is done.
    wait_until(LIMIT, || {
        let token = file("access_token");
        if tokens.last() != Some(&token) {
            tokens.push(token);
        }
        most = most.max(most_of_agent(&node));
        tokens.len() > 2 || most > MOST
    });
    assert!(most <= MOST, "a process of the agent took {most} kB");
    assert!(job.stderr().contains("chmod: changing permissions of '.credentials': Operation not permitted"));
    let fresh = || {
        let token = String::from_utf8(file("access_token")).unwrap();
        let credentials = String::from_utf8_lossy(&file("enroot-0/.credentials")).into_owned();
        !token.is_empty() && credentials.matches(&token).count() > 40
    };
    wait_until(LIMIT, fresh);
    site.cancel(job);
    site.finish();
}

/// How alice fills the runtime directory's file system, once and for all or again and again.
const FILL: &str = "chmod u+w $GCP_WIF_ACCESS_TOKEN_FILE; cat /dev/zero 2>/dev/null >>$GCP_WIF_ACCESS_TOKEN_FILE";
const KEEP_FILLING: &str = "chmod u+w $GCP_WIF_ACCESS_TOKEN_FILE; exec 3>>$GCP_WIF_ACCESS_TOKEN_FILE; \
                            cat /dev/zero 2>/dev/null >&3; (while :; do cat /dev/zero 2>/dev/null >&3; sleep 0.01; done) &";
/// A lease holds up whoever opens or truncates the file, 45 seconds by default (`fcntl(2)`, F_SETLEASE). It comes first,
/// because the agent may truncate a file that has grown at any time.
const LEASE_AND_FILL: &str = r#"chmod u+w $GCP_WIF_ACCESS_TOKEN_FILE
(python3 -c '
import fcntl, os, signal, time
signal.signal(signal.SIGIO, signal.SIG_IGN)
file = os.open(os.environ["GCP_WIF_ACCESS_TOKEN_FILE"], os.O_RDWR)
leased = False
while not leased:
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        leased = True
    except BlockingIOError:  # somebody else has it open
        time.sleep(0.01)
try:
    while True:
        os.write(file, bytes(1 << 16))
except OSError:
    open("full", "w")
time.sleep(300)' || touch full) &
until [ -e full ]; do sleep 0.05; done"#;

/// Lets alice fill the file system of n1's runtime directory; bob's job must not see it, and hers must get well. Brings
/// the lines in the node's logs that tell which processes were ended.
#[track_caller]
fn fill(site: Site, line: &str) -> Vec<String> {
    let (job, id) = job(&site, line);
    let node = site.cluster.node(1);
    let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()];
    // The second time what made room for the first one is of no more use.
    for time in ["first", "second"] {
        let run = site.cluster.as_user("bob").command(words).run();
        assert!(run.status == 0 && run.stderr.is_empty(), "{time}: {}", run.stderr);
        assert!(run.stdout.contains(OBJECT), "{time}: {}", run.stdout);
    }
    // The next look at hers, if bob's job was none.
    site.cluster.as_user("alice").command(["srun", "--jobid", &id, "--overlap", "--gcp-wif", "true"]).run().ok();
    let token = node.job_dir(&id).join("access_token");
    wait_until(LIMIT, || {
        fs::read_to_string(&token).is_ok_and(|text| text.starts_with("ya29.") && text.len() < 4 << 10)
    });
    let logs = node.log() + &fs::read_to_string(node.run_dir().join("gcp-wif/agent.log")).unwrap_or_default();
    let told = logs.lines().filter(|line| line.contains("was killed: it fills the runtime directory"));
    let told = told.map(str::to_owned).collect();
    site.cancel(job);
    site.finish();
    told
}

#[test]
fn a_user_who_fills_the_runtime_directory_keeps_no_other_user_from_credentials() {
    for site in [Site::start(), agent::site(json!({}), None)] {
        assert!(fill(site, FILL).is_empty(), "a process was ended that does nothing any more");
    }
}

#[test]
fn a_user_who_keeps_filling_the_runtime_directory_keeps_no_other_user_from_credentials() {
    let told = fill(agent::site(json!({}), None), KEEP_FILLING);
    assert!(told.iter().any(|line| line.contains("(bash) of uid 61001 was killed")), "{told:?}");
}

#[test]
fn a_user_with_a_lease_on_a_file_that_fills_the_runtime_directory_keeps_no_other_user_from_credentials() {
    let told = fill(agent::site(json!({}), None), LEASE_AND_FILL);
    // A hook and the agent may both have killed it.
    let is_it = |line: &String| line.contains("(python3) of uid 61001 was killed");
    assert!(!told.is_empty() && told.iter().all(is_it), "{told:?}");
}

#[test]
fn what_a_crash_left_is_swept_even_if_a_process_is_named_after_the_jobs_steps() {
    let site = Site::start();
    let node = site.cluster.node(1);
    let run_a_job = || site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    run_a_job();
    let left = node.run_dir().join("gcp-wif/jobs/9999");
    fs::create_dir(&left).unwrap();
    // It belongs to root for as long as it waits for a password.
    let line = "mkfifo never; exec 3<>never; exec -a 'slurmstepd: [9999.0]' su root <never";
    let process = node.as_user("alice").shell(line).spawn();
    wait_until(LIMIT, || format!("{}{}", process.stdout(), process.stderr()).contains("Password"));
    run_a_job();
    assert!(!left.exists(), "what job 9999 left is still there");
    drop(process);
    site.finish();
}
