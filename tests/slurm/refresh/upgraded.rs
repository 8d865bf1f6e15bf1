//! An upgrade of the node, and a restart of its slurmd, while jobs run.

use std::fs;

use serde_json::json;

use super::job::{Job, is_ok};
use super::{configure, site};
use crate::cluster::{command_path, plugin_path, set_mode};
use crate::site::OBJECT;

/// Seconds that an access token lives.
const LIFE: i64 = 12;

#[test]
fn plugin_and_command_are_replaced_and_slurmd_restarted_while_a_job_refreshes() {
    let site = site(json!({}), Some(LIFE));
    let command = site.cluster.dir().join("gcp-wif");
    // As a package does it: the new file has the old one's name, and the old one lives on while it is used.
    let put = |from: &std::path::Path, to: &std::path::Path, mode: u32| {
        let new = to.with_extension("new");
        fs::copy(from, &new).unwrap();
        set_mode(&new, mode);
        fs::rename(&new, to).unwrap();
    };
    put(command_path().as_ref(), &command, 0o755);
    configure(&site, json!({"command": command}));
    let job = Job::start(&site);
    let port = job.port();
    job.outlive(1, || {});
    for is_upgraded in [false, true] {
        if is_upgraded {
            put(&plugin_path(), &site.cluster.dir().join("lib/spank_gcp_wif.so"), 0o644);
            put(command_path().as_ref(), &command, 0o755);
        }
        job.node.restart_slurmd();
        // The next job's prolog sweeps on behalf of the new slurmd.
        site.cluster.as_user("bob").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
        // What the job has stays, and is refreshed on.
        job.outlive(2, || {
            let token = job.token();
            let is_alive = site.google.state.token(&token).is_some_and(|token| token.expires > site.google.state.now());
            assert!(is_alive, "{}{}", job.status(), job.log());
        });
        assert_eq!(job.port(), port);
        assert!(is_ok(&job.metadata("token")), "{}", job.metadata("token"));
        let run = job.step(&site, &["--gcp-wif", "bash", "-c", &site.list()]).run();
        assert!(run.status == 0 && run.stdout.contains(OBJECT), "{}{}", run.stdout, run.stderr);
    }
    assert_eq!(job.errors(), [] as [String; 0]);
    job.end(&site);
    site.finish();
}
