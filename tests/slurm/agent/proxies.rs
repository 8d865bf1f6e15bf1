//! Jobs whose environment names a proxy: requests to their port of the agent do not go to the proxy.

use std::fs;

use serde_json::json;

use super::site;
use super::world::{LIFE, Way, World};
use crate::cluster::{command_path, set_mode};

#[test]
fn python_and_node_with_a_proxy_of_the_sites_ask_the_agent_and_not_the_proxy() {
    let world = World::start(LIFE);
    let behind = |(bucket, job)| (bucket, world.with_proxies(job, &["http_proxy", "https_proxy"]));
    let jobs = [
        world.python("python-file", Way::File),
        world.python("python-metadata", Way::Metadata),
        world.node("node-file", Way::File),
        world.node("node-metadata", Way::Metadata),
    ];
    // The proxy refuses requests for 127.0.0.1, and the end of the test finds them.
    world.outlive(jobs.map(behind));
    world.finish();
}

#[test]
fn the_users_own_exceptions_stay_and_come_back_where_a_job_has_no_port() {
    let site = site(json!({}), None);
    let home = site.cluster.home("alice");
    let show = home.join("show");
    fs::write(&show, "#!/bin/bash\necho \"$1 $no_proxy | $NO_PROXY\"\n").unwrap();
    set_mode(&show, 0o755);
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif\n./show batch\nsrun ./show step\nsrun --no-gcp-wif ./show without\n\
         for option in --no-gcp-wif --gcp-wif; do\n\
           sbatch $option -w n2 -W -o nested.out --wrap './show nested' >/dev/null; cat nested.out\n\
         done\n\
         env -u GCP_WIF_VARIABLES -u GCP_WIF_NO_PROXY -u NO_PROXY no_proxy=mine {} env | grep -i '^export no_proxy'\n\
         grep -i ^no_proxy $ENROOT_CONFIG_PATH/environ.d/50-gcp-wif.env\n",
        command_path()
    );
    fs::write(home.join("job.sh"), script).unwrap();
    let output = |name: &str, value: &str| {
        let line = "sbatch -w n1 -W -o job.out job.sh >/dev/null; cat job.out";
        let run = site.cluster.as_user("alice").shell(line).env("HTTPS_PROXY", "http://127.0.0.1:9").env(name, value);
        run.run().ok().stdout.lines().filter(|line| !line.starts_with("srun: ")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        output("NO_PROXY", "example.com,10.0.0.0/8"),
        "batch example.com,10.0.0.0/8,127.0.0.1 | example.com,10.0.0.0/8,127.0.0.1\n\
         step example.com,10.0.0.0/8,127.0.0.1 | example.com,10.0.0.0/8,127.0.0.1\n\
         without  | example.com,10.0.0.0/8\n\
         nested  | example.com,10.0.0.0/8\n\
         nested example.com,10.0.0.0/8,127.0.0.1 | example.com,10.0.0.0/8,127.0.0.1\n\
         export no_proxy='mine,127.0.0.1'\n\
         export NO_PROXY='mine,127.0.0.1'\n\
         no_proxy=example.com,10.0.0.0/8,127.0.0.1\n\
         NO_PROXY=example.com,10.0.0.0/8,127.0.0.1"
    );
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "env"]).run().ok();
    assert!(!run.stdout.to_lowercase().contains("no_proxy"), "without a proxy: {}", run.stdout);
    // With direct delivery, the job has nothing on 127.0.0.1.
    site.configure(json!({}));
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "env"]);
    let run = run.env("http_proxy", "http://127.0.0.1:9").run().ok();
    assert!(!run.stdout.to_lowercase().contains("no_proxy"), "under direct delivery: {}", run.stdout);
    site.finish();
}
