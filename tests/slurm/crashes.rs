//! Faults at the system calls with which a job changes its node's runtime directory, in the processes that Slurm starts.
//! `tests/crash` injects the same faults into the hooks alone, and compares the whole state of the node afterwards.
//!
//! `cargo test` injects each kind of fault at a different subset of the calls. `ci/crash` injects them at all calls; it
//! names a kind of fault in GCP_WIF_CRASHES.

#[path = "../crash/calls.rs"]
mod calls;
mod trap;
#[path = "../crash/watch.rs"]
mod watch;

use std::fs;
use std::path::Path;
use std::time::Duration;

use libseccomp::error::SeccompError;
use nix::errno::Errno;
use serde_json::json;

use crate::agent::processes::processes;
use crate::cluster::{Background, JobState, Node, command_path, set_mode, wait_until};
use crate::google::{Endpoint, SERVICE_ACCOUNT};
use crate::site::{BUCKET, OBJECT, OTHER_ACCOUNT, Site, names};
use crate::skipped::skip;
use trap::Trap;
use watch::{Fault, Plan};

const LIMIT: Duration = Duration::from_secs(100);
/// `cargo test` injects faults at one in this number of calls.
const EVERY: usize = 24;
const FAULTS: [(&str, Fault); 3] =
    [("kill", Fault::Kill), ("ENOSPC", Fault::Fail(Errno::ENOSPC)), ("EIO", Fault::Fail(Errno::EIO))];
/// The kinds of processes. The agent's is the last, because access tokens live shorter since then.
const ROLES: [&str; 5] = ["prolog", "worker", "step", "epilog", "agent"];
/// A lifetime of access tokens, in seconds, that lets a job see its refresh.
const SHORT: i64 = 6;

#[test]
fn a_fault_at_any_call_leaves_nothing() {
    let mut world = match World::start() {
        Ok(world) => world,
        Err(error) => return skip(&format!("crashes on Slurm: seccomp: {error}")),
    };
    let wanted = std::env::var("GCP_WIF_CRASHES").ok();
    for (index, (name, fault)) in FAULTS.into_iter().enumerate() {
        if wanted.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        for role in ROLES {
            world.role = role;
            let calls = world.calls();
            // Each fault is injected at other calls, and a kill not at the first one.
            let first = 1 + (index + 2) % 3 * EVERY.min(calls) / 3;
            let (first, every) = if wanted.is_some() { (1, 1) } else { (first, EVERY) };
            let numbers: Vec<usize> = (first..=calls).step_by(every).collect();
            let (tried, mut hits) = (numbers.len(), 0);
            for number in numbers {
                // An epilog that was killed before it has removed anything leaves a job that may still run. The node is
                // drained, and a restart of slurmd ends the job.
                let leaves_all = (role, fault, number) == ("epilog", Fault::Kill, 1);
                hits += usize::from(!leaves_all && world.check(number, fault));
            }
            println!("| Slurm | {role} | {name} | {hits} of {calls} |");
            // The agent does not make the same calls each time.
            assert!(hits > 0 && hits >= tried * 9 / 10, "{role}, {name}: {hits} of {tried} calls were reached");
        }
    }
    world.finish();
}

/// A node whose processes are watched. A job of bob's runs on it.
struct World {
    /// The kind of process that gets a fault.
    role: &'static str,
    site: Site,
    trap: Trap,
    bob: Background,
    bobs_job: String,
}

impl World {
    fn start() -> Result<Self, SeccompError> {
        let site = Site::start();
        for node in site.cluster.nodes() {
            set_mode(node.tokens_dir(), 0o700);
        }
        let rules = json!([
            {"users": ["alice"], "service_account": SERVICE_ACCOUNT},
            {"users": ["bob"], "service_account": OTHER_ACCOUNT},
        ]);
        site.configure(json!({"delivery": "agent", "command": command_path(), "rules": rules}));
        let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", "echo $SLURM_JOB_ID; sleep 3600"];
        let bob = site.cluster.as_user("bob").command(words).spawn();
        wait_until(LIMIT, || bob.stdout().ends_with('\n'));
        let bobs_job = bob.stdout().trim().to_owned();
        let trap = Trap::of(&site.cluster.node(1), Path::new("/run/gcp-wif"), &bobs_job)?;
        Ok(Self { role: "", site, trap, bob, bobs_job })
    }

    fn node(&self) -> Node {
        self.site.cluster.node(1)
    }

    /// Returns the number of calls in a job without a fault.
    fn calls(&self) -> usize {
        let (output, problems) = self.run(None);
        assert!(problems.is_empty() && output.matches(OBJECT).count() == 2, "{output}{problems:?}");
        self.trap.watch().calls.iter().filter(|call| call.role == self.role).count()
    }

    /// Injects a fault at a call, and checks that the node is as before afterwards. Returns whether there was such a call.
    fn check(&self, number: usize, fault: Fault) -> bool {
        let (output, mut problems) = self.run(Some(Plan { role: self.role.to_owned(), number, fault }));
        let Some(hit) = self.trap.watch().hit.clone() else { return false };
        if fault != Fault::Kill {
            let lines: Vec<&str> = output.lines().filter(|line| line.contains("gcp-wif: ")).collect();
            if lines.len() > 1 || !lines.iter().all(|line| line.contains("gcp-wif: files: ")) {
                problems.push(format!("unexpected lines for the user: {lines:?}"));
            }
            if lines.is_empty() && output.matches(OBJECT).count() != 2 {
                problems.push(format!("a step without credentials prints no line: {output}"));
            }
        }
        self.trap.arm(None);
        problems.extend(self.check_next());
        let place = format!("{}, call {number}, {} of {}: {fault:?}", self.role, hit.name, hit.path.display());
        assert!(problems.is_empty(), "{place}\n{}", problems.join("\n"));
        true
    }

    /// Runs a job of alice's with two steps. Returns what it printed, and the problems of the node.
    fn run(&self, plan: Option<Plan>) -> (String, Vec<String>) {
        self.site.forget();
        let node = self.node();
        if self.role == "agent" {
            self.site.google.configure(|options| options.access_token_life = Some(SHORT));
            // The job's first step starts a new one.
            wait_until(LIMIT, || {
                let agents: Vec<String> = processes(&node).into_iter().map(|process| process.id).collect();
                node.command(["kill", "-KILL"].map(str::to_owned).iter().chain(&agents)).run();
                agents.is_empty()
            });
        }
        self.trap.arm(plan.clone());
        let refreshed = "until [ \"$(cat $GCP_WIF_ACCESS_TOKEN_FILE)\" != \"$token\" ]; do sleep 0.05; done";
        let wait = if self.role == "agent" { refreshed } else { "true" };
        let list = self.list();
        let script = format!(
            "#!/bin/bash\n#SBATCH --gcp-wif -w n1 -o slurm.out\n\
             srun bash -c '{list}'\n\
             srun timeout 60 bash -c 'token=$(cat $GCP_WIF_ACCESS_TOKEN_FILE); {wait}; {list}'\n"
        );
        let output = self.site.cluster.home("alice").join("slurm.out");
        let _ = fs::remove_file(&output);
        let id = self.site.cluster.batch("alice", &script, &[]);
        let is_killed = |plan: &Plan| plan.fault == Fault::Kill && self.trap.watch().hit.is_some();
        // Slurm 22.05 does not notice by itself that a slurmstepd has ended, and a prolog that was killed holds the job.
        let waits_for_slurm =
            |plan: &Plan| is_killed(plan) && ["prolog", "step", "epilog"].contains(&plan.role.as_str());
        let is_over = || self.site.cluster.job_states(&id).iter().all(JobState::is_end);
        wait_until(LIMIT, || is_over() || plan.as_ref().is_some_and(waits_for_slurm));
        let mut problems = Vec::new();
        let root = self.site.cluster.as_user("root");
        if plan.as_ref().is_some_and(waits_for_slurm) {
            root.command(["scancel", "-u", "alice"]).run().ok();
            self.wait_for_end();
            // Slurm drains a node whose prolog or epilog is killed, with any plugin.
            if plan.is_some_and(|plan| plan.role != "step") {
                root.command(["scontrol", "update", "NodeName=n1", "State=RESUME"]).run();
            }
        }
        self.wait_for_end();
        let state = root.command(["sinfo", "-h", "-n", "n1", "-o", "%T %E"]).run().ok().stdout;
        if ["drain", "down", "fail"].iter().any(|word| state.contains(word)) {
            problems.push(format!("the node is {state}"));
        }
        (fs::read_to_string(output).unwrap_or_default(), problems)
    }

    /// A line of shell that lists the bucket with the token of the job's file.
    fn list(&self) -> String {
        let url = self.site.google.http_url();
        format!(
            "printf \"Authorization: Bearer %s\" \"$(cat $GCP_WIF_ACCESS_TOKEN_FILE)\" | \
             curl -sS --fail-with-body -H @- {url}/storage/v1/b/{BUCKET}/o | grep name"
        )
    }

    /// Waits until alice has no job.
    fn wait_for_end(&self) {
        let root = self.site.cluster.as_user("root");
        wait_until(LIMIT, || root.command(["squeue", "-h", "-u", "alice"]).run().ok().stdout.is_empty());
    }

    /// Runs another job of alice's, and returns what is wrong on the node afterwards.
    fn check_next(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &self.list()];
        let run = self.site.cluster.as_user("alice").command(words).run();
        if run.status != 0 || !run.stdout.contains(OBJECT) || run.stderr.contains("gcp-wif: ") {
            problems.push(format!("the next job: {run:?}"));
        }
        self.wait_for_end();
        let state = &self.site.google.state;
        for request in self.site.google.requests_to(Endpoint::Storage) {
            let token = request.header("Authorization").and_then(|value| value.strip_prefix("Bearer "));
            match token.and_then(|token| state.token(token)) {
                Some(token) if token.identity.name() == SERVICE_ACCOUNT => {}
                token => problems.push(format!("alice has a token of {:?}", token.map(|token| token.identity))),
            }
        }
        let node = self.node();
        let bobs_token = fs::read_to_string(node.job_dir(&self.bobs_job).join("access_token")).unwrap_or_default();
        match state.token(&bobs_token) {
            Some(token) if token.identity.name() == OTHER_ACCOUNT => {}
            token => problems.push(format!("bob's file has a token of {:?}", token.map(|token| token.identity))),
        }
        let runtime = node.run_dir().join("gcp-wif");
        for directory in ["jobs", "records"] {
            let left = names(&runtime.join(directory));
            if left != [self.bobs_job.as_str()] {
                problems.push(format!("{directory} has {left:?}"));
            }
        }
        problems.extend(names(&runtime).into_iter().filter(|name| name.ends_with(".new")));
        problems
    }

    fn finish(self) {
        self.site.cluster.as_user("root").command(["scancel", "-u", "bob"]).run().ok();
        drop(self.bob);
        self.site.finish();
    }
}
