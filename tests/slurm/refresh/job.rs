//! What a running job of alice's has on the first node.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::LIMIT;
use crate::cluster::{Background, CommandLine, Node, wait_until};
use crate::site::Site;

/// A running job.
pub struct Job {
    pub id: String,
    pub node: Node,
    /// The srun that holds it; none for a batch job.
    process: Option<Background>,
}

impl Job {
    /// One that asks for credentials.
    #[track_caller]
    pub fn start(site: &Site) -> Self {
        Self::with(site, "--gcp-wif")
    }

    /// One with this option, which runs until [`Job::end`].
    #[track_caller]
    pub fn with(site: &Site, option: &str) -> Self {
        let words = ["srun", "-w", "n1", option, "bash", "-c", "echo $SLURM_JOB_ID; sleep 300"];
        let process = site.cluster.as_user("alice").command(words).spawn();
        wait_until(LIMIT, || process.stdout().ends_with('\n'));
        let id = process.stdout().trim().to_owned();
        Self { id, node: site.cluster.node(1), process: Some(process) }
    }

    /// A batch job that runs already.
    pub fn of(site: &Site, id: &str) -> Self {
        Self { id: id.to_owned(), node: site.cluster.node(1), process: None }
    }

    /// Cancels all of alice's jobs, this one with them.
    #[track_caller]
    pub fn end(self, site: &Site) {
        site.cluster.as_user("root").command(["scancel", "-u", "alice"]).run().ok();
        drop(self.process);
    }

    /// A file in the job's directory; empty if it is not there.
    pub fn file(&self, name: &str) -> String {
        fs::read_to_string(self.node.job_dir(&self.id).join(name)).unwrap_or_default()
    }

    pub fn token(&self) -> String {
        self.file("access_token")
    }

    pub fn status(&self) -> String {
        self.file("status")
    }

    /// The pull credentials of its first step.
    pub fn pull_credentials(&self) -> String {
        self.file("enroot-0/.credentials")
    }

    /// Whether an image could be pulled now with what its first step has.
    pub fn pulls_with_its_token(&self) -> bool {
        let (credentials, token) = (self.pull_credentials(), self.token());
        !token.is_empty() && credentials.contains(&format!(" password {token}\n"))
    }

    /// The port of the job's token endpoint, as its own file names it.
    #[track_caller]
    pub fn port(&self) -> u16 {
        let text = self.file("credentials.json");
        let configuration: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("credentials.json: {text}"));
        let url = configuration["token_url"].as_str().unwrap_or_default();
        let port = url.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.split('/').next()?.parse().ok());
        port.unwrap_or_else(|| panic!("{url}"))
    }

    /// Exchanges the handle of the job's file at the port of the job's file: the answer, head and body.
    #[track_caller]
    pub fn exchange(&self) -> String {
        exchange(&self.node, self.port(), &self.file("handle"))
    }

    /// The metadata server's answer to a request for something of the default service account, head and body.
    #[track_caller]
    pub fn metadata(&self, what: &str) -> String {
        metadata(&self.node, self.port(), what)
    }

    /// The agent's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.node.run_dir().join("gcp-wif/agent.log")).unwrap_or_default()
    }

    /// The agent's lines about what failed.
    pub fn errors(&self) -> Vec<String> {
        self.log().lines().filter(|line| line.contains(" error ")).map(str::to_owned).collect()
    }

    /// Waits until the condition holds; at the limit it tells status and log.
    #[track_caller]
    pub fn wait_for(&self, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition() {
            let told = || format!("{}{}", self.status(), self.log());
            assert!(Instant::now() < end, "the condition did not hold within {LIMIT:?}\n{}", told());
            thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until the job has had so many further access tokens, each of which the caller may look at.
    #[track_caller]
    pub fn outlive(&self, count: usize, mut look: impl FnMut()) {
        let mut last = self.token();
        let mut left = count;
        self.wait_for(|| {
            look();
            let token = self.token();
            if token != last {
                last = token;
                left -= 1;
            }
            left == 0
        });
    }

    /// A step of this job that is started in a shell outside of it.
    pub fn step(&self, site: &Site, words: &[&str]) -> CommandLine {
        let job = format!("--jobid={}", self.id);
        let srun = ["srun", "--overlap", "-w", "n1", &job];
        site.cluster.as_user("alice").command(srun.iter().chain(words))
    }
}

/// Exchanges a handle at a port, as alice.
#[track_caller]
pub fn exchange(node: &Node, port: u16, handle: &str) -> String {
    let grant = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange";
    let line =
        format!("curl -sS -i -m 60 -d {grant} --data-urlencode subject_token={handle} 127.0.0.1:{port}/v1/token");
    node.as_user("alice").shell(&line).run().stdout
}

/// Asks the metadata server at a port, as alice.
#[track_caller]
pub fn metadata(node: &Node, port: u16, what: &str) -> String {
    let path = format!("computeMetadata/v1/instance/service-accounts/default/{what}");
    let line = format!("curl -sS -i -m 60 -H 'Metadata-Flavor: Google' 'http://127.0.0.1:{port}/{path}'");
    node.as_user("alice").shell(&line).run().stdout
}

/// Whether an answer is one with success.
pub fn is_ok(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 ")
}
