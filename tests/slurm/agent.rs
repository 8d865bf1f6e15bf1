//! Delivery by the agent: the job never sees the subject token, and its credentials stay fresh.

mod callers;
mod clients;
mod examples;
mod exhausted;
mod federated;
mod hanging;
mod load;
mod metadata;
mod moved;
mod ports;
pub mod processes;
mod proxies;
mod requested;
mod service;
mod trouble;
mod world;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use self::processes::{kill_agent, processes};
use crate::cluster::{Settings, command_path, set_mode, wait_until};
use crate::golden::Golden;
use crate::google::{Endpoint, Fault, SERVICE_ACCOUNT, Times};
use crate::site::{OBJECT, Site};
use crate::skipped::skip;

const LIMIT: Duration = Duration::from_secs(60);

/// A site whose subject tokens only root can read, and whose access tokens have this lifetime.
pub fn site(keys: Value, life: Option<i64>) -> Site {
    site_with(Settings::default(), keys, life)
}

/// The same with these settings of the cluster.
fn site_with(settings: Settings, keys: Value, life: Option<i64>) -> Site {
    let site = Site::with(settings);
    site.google.configure(|options| options.access_token_life = life);
    for node in site.cluster.nodes() {
        set_mode(node.tokens_dir(), 0o700);
    }
    let mut config = json!({"delivery": "agent", "command": command_path(), "project": "demo-project"});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    site.configure(config);
    site
}

#[test]
fn a_job_reads_its_bucket_and_never_sees_the_subject_token() {
    let site = site(json!({}), None);
    let line = format!(
        "{}; cat /var/run/secrets/tokens/token; cat $GOOGLE_APPLICATION_CREDENTIALS; env | grep ^GCE_METADATA | sort; \
         curl -sS -H 'Metadata-Flavor: Google' http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/email",
        site.list()
    );
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run().ok();
    assert!(run.stdout.contains(OBJECT) && run.stdout.ends_with(SERVICE_ACCOUNT), "{}", run.stdout);
    assert!(run.stderr.contains("/var/run/secrets/tokens/token: Permission denied"), "{}", run.stderr);
    assert!(
        run.stdout.contains("/run/gcp-wif/jobs/1/handle") && !run.stdout.contains("googleapis.com/v1"),
        "{}",
        run.stdout
    );
    assert_eq!(run.stdout.matches("GCE_METADATA_").count(), 3, "{}", run.stdout);
    site.finish();
}

#[test]
fn the_metadata_endpoint_serves_open_id_tokens() {
    let site = site(json!({}), None);
    let url = "http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/identity?audience=https://example.org";
    let line = format!(
        "curl -sS --fail -H 'Metadata-Flavor: Google' {url} | cut -d. -f2 | tr '_-' '/+' | base64 -d 2>/dev/null"
    );
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run();
    assert!(
        run.stdout.contains("\"aud\":\"https://example.org\"") && run.stdout.contains(SERVICE_ACCOUNT),
        "{} {}",
        run.stdout,
        run.stderr
    );
    site.finish();
}

#[test]
fn the_handle_is_exchanged_for_the_jobs_token_and_dies_with_the_job() {
    let site = site(json!({}), None);
    let exchange = "curl -sS -d grant_type=urn:ietf:params:oauth:grant-type:token-exchange --data-urlencode subject_token@$1 http://$2/v1/token";
    let line = format!(
        "set -- $(dirname $GCP_WIF_ACCESS_TOKEN_FILE)/handle $GCE_METADATA_HOST; cp $1 handle; echo $2; {exchange} | grep -c \"$GOOGLE_OAUTH_ACCESS_TOKEN\""
    );
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run().ok();
    let address = run.stdout.lines().next().unwrap();
    assert!(run.stdout.ends_with("\n1\n"), "{}{}", run.stdout, run.stderr);
    site.cluster.assert_healthy();
    let after = site.cluster.node(1).as_user("alice").command(["bash", "-c", exchange, "x", "handle", address]).run();
    assert!(after.status != 0 && after.stdout.is_empty(), "{}{}", after.stdout, after.stderr);
    site.finish();
}

#[test]
fn tokens_are_renewed_for_as_long_as_the_job_runs() {
    let site = site(json!({}), Some(6));
    let line = format!(
        "read=\"printf 'Authorization: Bearer %s' \\$(cat $GCP_WIF_ACCESS_TOKEN_FILE)\"; for i in $(seq 12); do \
         eval \"$read\" | curl -sS --fail -o /dev/null -H @- {0}/storage/v1/b/demo-bucket/o || exit 1; cksum <$GCP_WIF_ACCESS_TOKEN_FILE; sleep 1; done; \
         grep -c \"$(cat $GCP_WIF_ACCESS_TOKEN_FILE)\" $ENROOT_CONFIG_PATH/.credentials; cat $(dirname $GCP_WIF_ACCESS_TOKEN_FILE)/status",
        site.google.http_url()
    );
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run().ok();
    let mut tokens: Vec<&str> = run.stdout.lines().take(12).collect();
    tokens.dedup();
    assert!(tokens.len() > 3, "{}", run.stdout);
    assert!(run.stdout.contains("state=fresh"), "{}", run.stdout);
    assert!(run.stdout.lines().nth(12).is_some_and(|count| count.parse::<u32>().unwrap_or(0) > 40), "{}", run.stdout);
    site.finish();
}

#[test]
fn a_killed_agent_is_back_and_nothing_is_lost() {
    let site = site(json!({}), None);
    let (job, id) = site.running_job();
    let node = site.cluster.node(1);
    let line = format!(
        "curl -sS --retry 20 --retry-delay 0 --retry-connrefused --retry-max-time 20 -H 'Metadata-Flavor: Google' \
         http://127.0.0.1:PORT/computeMetadata/v1/instance/service-accounts/default/email # {id}"
    );
    let record = node.command(["cat", &format!("/run/gcp-wif/records/{id}/record")]).run().ok().stdout;
    let record: Value = serde_json::from_str(&record).unwrap();
    let line = line.replace("PORT", &record["issued"][0]["port"]["number"].to_string());
    for round in 0..4 {
        wait_until(LIMIT, || processes(&node).len() == 2);
        // Alternately the serving process and the watcher.
        let victim = processes(&node).into_iter().find(|process| process.serves == (round % 2 == 0)).unwrap();
        node.command(["kill", "-9", &victim.id]).run().ok();
        let run = node.as_user("alice").shell(&line).run().ok();
        assert_eq!(run.stdout, SERVICE_ACCOUNT, "{}", run.stderr);
    }
    // Both at once: the next step finds no agent and starts one.
    kill_agent(&node);
    site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    assert_eq!(node.as_user("alice").shell(&line).run().ok().stdout, SERVICE_ACCOUNT);
    site.cancel(job);
    site.finish();
}

#[test]
fn an_agent_whose_program_is_gone_starts_over_all_the_same() {
    let site = site(json!({}), None);
    let program = site.cluster.dir().join("gcp-wif");
    fs::copy(command_path(), &program).unwrap();
    site.configure(json!({"delivery": "agent", "command": program}));
    let (job, _) = site.running_job();
    let node = site.cluster.node(1);
    wait_until(LIMIT, || processes(&node).len() == 2);
    fs::remove_file(&program).unwrap();
    let watching = processes(&node).into_iter().find(|process| !process.serves).unwrap();
    node.command(["kill", "-9", &watching.id]).run().ok();
    let is_new = || processes(&node).iter().any(|process| !process.serves && process.id != watching.id);
    wait_until(LIMIT, || processes(&node).len() == 2 && is_new());
    site.cancel(job);
    site.finish();
}

#[test]
fn an_agent_leaves_the_cgroup_that_it_is_started_in() {
    let site = site(json!({}), None);
    let (job, _) = site.running_job();
    let node = site.cluster.node(1);
    wait_until(LIMIT, || processes(&node).len() == 2);
    kill_agent(&node);
    // A step that finds no agent does the same.
    let command = command_path();
    let name = site.cluster.dir().file_name().unwrap().to_str().unwrap();
    let line = format!(
        "for place in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/freezer; do \
           [ -e $place/cgroup.procs ] && mkdir $place/{name} && echo $$ >$place/{name}/cgroup.procs && echo $place/{name}; done 2>/dev/null; \
         exec {command} agent --config /etc/slurm/gcp-wif.json"
    );
    let run = node.as_user("root").shell(&line).run().ok();
    wait_until(LIMIT, || processes(&node).len() == 2);
    for process in processes(&node) {
        let groups = node.command(["cat", &format!("/proc/{}/cgroup", process.id)]).run().ok().stdout;
        assert!(!groups.contains(name), "{groups}");
    }
    for place in run.stdout.lines() {
        node.command(["rmdir", place]).run().ok();
    }
    if run.stdout.is_empty() {
        skip("no cgroup can be made here");
    }
    site.cancel(job);
    site.finish();
}

#[test]
fn during_a_google_outage_valid_tokens_stay_and_status_shows_the_outage() {
    let site = site(json!({}), Some(20));
    let (job, id) = site.running_job();
    site.google.inject(Endpoint::Sts, Fault::status(403), Times::Forever);
    let node = site.cluster.node(1);
    let status = node.job_dir(&id).join("status");
    wait_until(LIMIT, || fs::read_to_string(&status).unwrap_or_default().starts_with("state=failing"));
    site.google.clear_faults();
    wait_until(LIMIT, || fs::read_to_string(&status).unwrap_or_default().starts_with("state=fresh"));
    site.cancel(job);
    site.finish();
}

#[test]
fn many_jobs_at_once_have_one_agent() {
    let site = site(json!({}), None);
    let script = "#!/bin/bash\n#SBATCH --gcp-wif --array=1-16\ncurl -sS --fail -H 'Metadata-Flavor: Google' http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/email\n";
    let (_, output) = site.cluster.run_batch("alice", script, &[]);
    assert_eq!(output.matches(SERVICE_ACCOUNT).count(), 16, "{output}");
    for node in site.cluster.nodes() {
        assert!(processes(&node).len() <= 2);
    }
    site.finish();
}

#[test]
fn an_agent_that_cannot_start_is_reported() {
    let site = site(json!({"command": "/usr/bin/gcp-wif-that-is-not-there"}), None);
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
    let line =
        run.stderr.lines().find(|line| line.starts_with("gcp-wif: ")).unwrap_or_else(|| panic!("{}", run.stderr));
    let mut golden = Golden::new("agent");
    golden.add("no such command", line, &site);
    golden.check();
    site.finish();
}
