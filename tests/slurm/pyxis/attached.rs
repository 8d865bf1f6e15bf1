//! Containers that several jobs see: who attaches finds what is his own, and nobody finds what is another user's.

use std::time::Duration;

use serde_json::json;

use super::{SHOW, nothing_left, srun, world};
use crate::cluster::{Background, command_path, wait_until};
use crate::google::SERVICE_ACCOUNT;
use crate::site::{OTHER_ACCOUNT, Site};

const LIMIT: Duration = Duration::from_secs(120);

/// A job of alice's with credentials whose container runs until [`Site::cancel`], and its number.
#[track_caller]
fn running_container(site: &Site, image: &str, options: &[&str]) -> (Background, String) {
    let options = [&["--gcp-wif"], options].concat();
    let words = srun(image, &options, &["sh", "-c", "echo $SLURM_JOB_ID; sleep 300"]);
    let mut job = site.cluster.as_user("alice").command(words).spawn();
    wait_until(LIMIT, || job.stdout().ends_with('\n') || !job.is_running());
    let id = job.stdout().trim().to_owned();
    assert!(!id.is_empty(), "{}", job.stderr());
    (job, id)
}

#[test]
fn a_step_in_another_jobs_container_has_its_own_credentials() {
    let Some((site, registries)) = world("a container of another job") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    let alice = site.cluster.as_user("alice");
    let line = format!("echo $SLURM_JOB_ID; {SHOW}");
    for (delivery, options, subject) in
        [("direct", &[][..], "subject\n"), ("agent", &[], ""), ("agent", &["--container-remap-root"], "")]
    {
        let rules = json!([{"allow": [OTHER_ACCOUNT]}]);
        site.configure(json!({"delivery": delivery, "command": command_path(), "rules": rules}));
        let named = [options, &["--container-name=kept"]].concat();
        let (first, _) = running_container(&site, &image, &named);
        for account in [SERVICE_ACCOUNT, OTHER_ACCOUNT] {
            let option = format!("--gcp-wif-service-account={account}");
            let words = ["srun", "-w", "n1", &option, "--container-name=kept:exec", "sh", "-c", &line];
            let run = alice.command(words).run().ok();
            let (id, shown) = run.stdout.split_once('\n').unwrap();
            let expected = format!("{account}\n/run/gcp-wif/jobs/{id}/credentials.json\n1\nsame\n{subject}read-only\n");
            assert_eq!(shown, expected, "{delivery} {options:?} {}", run.stderr);
        }
        site.cancel(first);
        // The root file system of the container stays with its name.
        alice.command(["srun", "-w", "n1", "enroot", "remove", "-f", "pyxis_kept"]).run().ok();
    }
    nothing_left(&site);
    site.finish();
}

#[test]
fn no_user_reads_anothers_files_through_a_container() {
    let Some((site, registries)) = world("the files of others in containers") else { return };
    let image = format!("{}#team/tiny:1", registries.artifact());
    let (job, id) = running_container(&site, &image, &[]);
    let line = format!(
        "cd /run/gcp-wif/jobs && for path in {id}/access_token {id}/credentials.json {id}/enroot-0/.credentials; do \
         test -s $path && cat $path >/dev/null && echo read; done; ls .; ls {id}"
    );
    for options in [&["--gcp-wif"][..], &["--gcp-wif", "--container-remap-root"]] {
        let alice = site.cluster.as_user("alice").command(srun(&image, options, &["sh", "-c", &line])).run();
        assert_eq!(alice.stdout.matches("read\n").count(), 3, "{options:?}: {}{}", alice.stdout, alice.stderr);
        let bob = site.cluster.as_user("bob").command(srun(&image, options, &["sh", "-c", &line])).run();
        assert_eq!(bob.stdout, "", "{options:?}");
        let refused = bob.stderr.lines().filter(|line| line.contains("Permission denied")).count();
        assert_eq!(refused, 2, "neither directory can be listed, {options:?}: {}", bob.stderr);
    }
    site.cancel(job);
    nothing_left(&site);
    site.finish();
}
