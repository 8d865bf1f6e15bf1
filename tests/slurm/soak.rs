//! Tests that take minutes. `ci/soak` runs them and prints a row for each.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::agent::processes::{Process, processes, settled};
use crate::cluster::{JobState, Settings, command_path, plugin_path, set_mode, wait_until};
use crate::google::{Endpoint, SERVICE_ACCOUNT};
use crate::site::{OTHER_ACCOUNT, Site};

/// How many jobs run at once on each of the two nodes, and how many tasks the steps of some of them have.
const JOBS_OF_NODE: usize = 150;
const TASKS: usize = 64;
/// One job in so many has a step of so many tasks.
const ONE_IN: usize = 10;
const USERS: [&str; 3] = ["alice", "bob", "carol"];
/// How long Slurm may take with them.
const LONG: Duration = Duration::from_secs(1500);
/// The file for the rows of `ci/soak`.
const ROWS: &str = "GCP_WIF_SOAK";

/// Adds a row to the table of `ci/soak`.
fn row(load: &str, what: &str, shown: &str) {
    let row = format!("| {load} | {what} | {shown} |");
    eprintln!("{row}");
    if let Ok(path) = std::env::var(ROWS) {
        writeln!(OpenOptions::new().create(true).append(true).open(path).unwrap(), "{row}").unwrap();
    }
}

#[test]
#[ignore = "minutes: ci/soak"]
fn three_hundred_jobs_of_three_users_on_two_nodes() {
    let keys = USERS.len() * 2;
    let site = Site::with(
        Settings { cpus: Some(1024), ..Settings::default() }
            .conf("SlurmctldDebug=info")
            .conf("SlurmdDebug=info")
            .conf("MaxArraySize=2000")
            .conf("MaxJobCount=20000"),
    );
    for node in site.cluster.nodes() {
        set_mode(node.tokens_dir(), 0o700);
    }
    // As it is installed: other builds take what memory they like.
    let command = plugin_path().with_file_name("gcp-wif");
    let command = if command.exists() { command.display().to_string() } else { command_path().to_owned() };
    let rules = json!([{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]);
    site.configure(json!({"delivery": "agent", "command": command, "rules": rules}));

    // All of them wait for this lock. A step is started again whose credential of Slurm's, which lives for ten seconds in
    // this cluster, ends before slurmd has come to it.
    let gate = site.cluster.dir().join("gate");
    let lock = File::create(&gate).unwrap();
    lock.lock().unwrap();
    set_mode(&gate, 0o644);
    let script = format!(
        "#!/bin/bash\n\
         told() {{ echo $1 $(id -un) $SLURM_JOB_ID $GCP_WIF_SERVICE_ACCOUNT $(<$GCP_WIF_ACCESS_TOKEN_FILE) >>seen; }}\n\
         export -f told\n\
         answer=$(curl -sS --fail --retry 5 -H 'Metadata-Flavor: Google' \
           http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/token)\n\
         [[ $answer == *\\\"$(<$GCP_WIF_ACCESS_TOKEN_FILE)\\\"* ]] && told job || echo \"$SLURM_JOB_ID: $answer\"\n\
         if ((SLURM_ARRAY_TASK_ID % {ONE_IN} == 0)); then\n\
           until srun -n {TASKS} --overcommit --overlap bash -c 'told task' 2>>refused; do :; done\n\
         fi\n\
         echo >>ready\n\
         flock --shared {} true\n",
        gate.display()
    );
    let begun = Instant::now();
    let mut arrays = Vec::new();
    for node in ["n1", "n2"] {
        for user in USERS {
            for account in [SERVICE_ACCOUNT, OTHER_ACCOUNT] {
                let (last, option) = (JOBS_OF_NODE / keys, format!("--gcp-wif-service-account={account}"));
                let options = [&format!("--array=1-{last}"), "-w", node, &option, "-o", "out", "--open-mode=append"];
                arrays.push(site.cluster.batch(user, &script, &options));
            }
        }
    }
    let read = |name: &str| {
        let home = |user: &&str| fs::read_to_string(site.cluster.home(user).join(name)).unwrap_or_default();
        USERS.iter().map(home).collect::<String>()
    };
    let end = Instant::now() + LONG;
    let all = JOBS_OF_NODE / keys * keys * 2;
    while read("ready").lines().count() < all {
        assert!(
            Instant::now() < end && read("out").is_empty(),
            "{}\n{}{}",
            read("ready").lines().count(),
            read("out"),
            read("refused")
        );
        std::thread::sleep(Duration::from_millis(300));
    }
    let started = begun.elapsed();
    let running = site.cluster.as_user("root").command(["squeue", "-h", "-r", "-t", "R"]).run().ok().stdout;
    assert_eq!(running.lines().count(), all);

    // Each process has its own job's token: of the identity that was asked for, and shared with no other user.
    let seen = read("seen");
    let (mut users, mut jobs, mut tasks) = (BTreeMap::new(), BTreeSet::new(), 0);
    for line in seen.lines() {
        let [what, user, job, account, token] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let known = site.google.state.token(token).unwrap_or_else(|| panic!("{job} has no token of Google's"));
        assert_eq!(known.identity.name(), account);
        assert_eq!(*users.entry(token.to_owned()).or_insert(user), user, "two users have one token");
        jobs.insert(job.to_owned());
        tasks += usize::from(what == "task");
    }
    let steps = JOBS_OF_NODE / keys / ONE_IN * keys * 2;
    assert_eq!((jobs.len(), tasks, users.len()), (all, steps * TASKS, keys * 2));
    assert_eq!(site.google.requests_to(Endpoint::Sts).len(), keys * 2);

    let agents = site.cluster.nodes().map(|node| settled(&node, "all jobs"));
    let memory = |[serving, watching]: &[Process; 2]| (serving.resident + watching.private) as f64 / 1024.0;
    let (most, descriptors) = (
        agents.iter().map(memory).fold(0.0, f64::max),
        agents.iter().flatten().map(|process| process.descriptors).max().unwrap(),
    );
    let begun = Instant::now();
    lock.unlock().unwrap();
    wait_until(LONG, || arrays.iter().all(|job| site.cluster.job_states(job).iter().all(JobState::is_end)));
    for job in &arrays {
        assert!(site.cluster.job_states(job).iter().all(|state| *state == JobState::Completed));
    }
    let ended = begun.elapsed();
    // Their sockets go with them.
    let most_left = || {
        let processes = site.cluster.nodes().iter().flat_map(processes).collect::<Vec<_>>();
        processes.iter().map(|process| process.descriptors).max().unwrap_or_default()
    };
    wait_until(LONG, || most_left() < 40);
    let after = site.cluster.nodes().map(|node| memory(&settled(&node, "no job"))).into_iter().fold(0.0, f64::max);
    let left = most_left();
    site.finish();
    row(
        &format!(
            "{all} jobs at once on two nodes, {} users, two identities, {steps} steps of {TASKS} tasks",
            USERS.len()
        ),
        "each job and task has its own job's token; one exchange for a user, identity and node; nothing left, both nodes idle",
        &format!(
            "{} exchanges; all run after {:.0} s and are over {:.0} s after their end is asked for; an agent has at most \
             {most:.1} MiB and {descriptors} descriptors a process, afterwards {after:.1} MiB and {left}",
            keys * 2,
            started.as_secs_f64(),
            ended.as_secs_f64()
        ),
    );
}
