//! The examples of the README, each as a job that outlives its tokens.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::world::{LIFE, LIMIT, STOP, Way, World};
use crate::clients::library;
use crate::cluster::{ALICE, Background, CommandLine, set_owner, wait_until};
use crate::google::Bucket;
use crate::pyxis;
use crate::registry::HOST;
use crate::skipped::skip;

/// The Python with gcsfs for jobs; none if it is not installed.
fn python() -> Option<String> {
    let python = library("data/bin/python");
    if Path::new(&python).exists() {
        return Some(python);
    }
    skip("gcsfs is not installed: examples");
    None
}

/// Copies an example to the directory where alice's jobs start, and returns its text.
fn copy(world: &World, name: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)).unwrap();
    let own = world.site.cluster.home("alice").join(name);
    fs::write(&own, &text).unwrap();
    set_owner(&own, ALICE);
    text
}

/// A job with the address of the embedded Cloud Storage, which a user of the real one need not set.
fn job(world: &World, words: &[&str]) -> CommandLine {
    world
        .behind_the_proxy(world.job(Way::Given, words))
        .env("FSSPEC_GCS_ENDPOINT_URL", &world.site.google.http_url())
        .env("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
}

/// Waits until a job has outlived three tokens and has done something after that.
fn wait(world: &World, running: Background, bucket: &str, is_enough: impl Fn(&Background) -> bool) -> Background {
    let mut running = [running];
    world.wait_for(&mut running, |world| world.has_outlived(bucket));
    let [job] = &running;
    let before = job.stdout().len();
    let [mut job] = running;
    wait_until(LIMIT, || {
        assert!(job.is_running() || job.stdout().len() > before, "{}{}", job.stdout(), job.stderr());
        job.stdout().len() > before && is_enough(&job)
    });
    world.assert_identity(bucket);
    job
}

#[test]
fn shards() {
    let Some(python) = python() else { return };
    let world = World::start(LIFE);
    copy(&world, "shards.py");
    world.make_bucket("shards");
    world.site.google.configure(|options| {
        let shards = [("shards/0", "a\nb\n"), ("shards/1", "c\n"), ("shards/2", "d\ne\nf\n")];
        let full = Bucket::new("", &shards, &[]).objects;
        options.buckets.iter_mut().find(|bucket| bucket.name == "shards").unwrap().objects = full;
    });
    let words = [&*python, "shards.py", "gs://shards/shards", "--workers", "2", "--epochs", "100000"];
    let running = job(&world, &words).spawn();
    let running = wait(&world, running, "shards", |job| job.stdout().contains("epoch 3: 6 records\n"));
    world.site.cancel(running);
    world.finish();
}

#[test]
fn a_run_resumes_from_its_newest_checkpoint() {
    let Some(python) = python() else { return };
    let world = World::start(LIFE);
    copy(&world, "checkpoint.py");
    world.make_bucket("run");
    let words = |steps| [&*python, "checkpoint.py", "gs://run/run-1", "--steps", steps];
    let running = job(&world, &words("1000000")).spawn();
    let running = wait(&world, running, "run", |job| job.stdout().contains("checkpoint at step 20\n"));
    assert!(running.stdout().starts_with("begins at step 0\n"), "{}", running.stdout());
    world.site.cancel(running);
    // A second job resumes where the first one was ended.
    let run = job(&world, &words("20")).run().ok();
    let first = run.stdout.lines().next().and_then(|line| line.strip_prefix("begins at step ")).unwrap();
    let step: u32 = first.parse().unwrap();
    assert!(step >= 20, "{}", run.stdout);
    assert_eq!(run.stdout, format!("begins at step {step}\ndone at step {step}\n"));
    world.assert_identity("run");
    world.finish();
}

#[test]
fn a_checkpoint_is_written_in_a_container() {
    let Some(python) = python() else { return };
    let Some((site, registries)) = pyxis::world("examples in containers") else { return };
    let world = World::on(site, LIFE, json!({"registries": [HOST]}));
    copy(&world, "checkpoint.py");
    world.make_bucket("container");
    let image = format!("--container-image={}#team/tiny:1", registries.artifact());
    // The image has no Python, so the node's Python is mounted with everything that it needs.
    let mounts =
        ["/usr", "/lib", "/lib64", "/etc/slurm", "/var/cache"].map(|path| format!("{path}:{path}:ro")).join(",");
    let mounts = format!("--container-mounts={mounts}");
    let home = world.site.cluster.home("alice");
    let script = home.join("checkpoint.py").display().to_string();
    let in_it = "grep -q ID=tiny /etc/os-release && exec \"$@\"";
    let options = [&*image, &mounts, "--container-mount-home", "sh", "-c", in_it, "-"];
    let words = [&options[..], &[&python, &script, "gs://container/run-1", "--steps", "1000000"]].concat();
    let running = job(&world, &words).spawn();
    let running = wait(&world, running, "container", |job| job.stdout().contains("checkpoint at step 20\n"));
    world.site.cancel(running);
    world.finish();
}

#[test]
fn rsync() {
    // A copy takes a second or two.
    let world = World::start(2 * LIFE);
    if !world.has_gcloud() {
        skip("gcloud is not installed: examples");
        return world.finish();
    }
    copy(&world, "rsync.sh");
    world.make_bucket("results");
    // srun runs the script as sbatch does, except for its #SBATCH lines.
    let program =
        format!("n=0; until [ -e ~/{STOP} ]; do n=$((n + 1)); echo $n >part-$n; sleep 0.5; done; echo end >last");
    let words = ["bash", "rsync.sh", "gs://results/of-a-job", "bash", "-c", &program];
    let running = world.gcloud_job(Way::Given, &words).env("SECONDS_BETWEEN", "1").spawn();
    let mut running = [running];
    world.wait_for(&mut running, |world| world.has_outlived("results"));
    world.stop(running);
    world.assert_identity("results");
    let objects = world
        .site
        .google
        .state
        .options()
        .buckets
        .iter()
        .find(|bucket| bucket.name == "results")
        .unwrap()
        .objects
        .clone();
    assert_eq!(objects["of-a-job/last"].body, b"end\n");
    assert_eq!(objects["of-a-job/part-1"].body, b"1\n");
    world.finish();
}

#[test]
fn a_session_stays_open() {
    let Some(python) = python() else { return };
    let world = World::start(LIFE);
    let text = copy(&world, "session.py").replace("my-bucket", "session");
    world.make_bucket("session");
    let last = text.lines().last().unwrap();
    // A person types a line now and then. The session is a single process, python -i.
    let typed = format!(
        "(cat; until [ -e {STOP} ]; do echo '{last}'; sleep 0.5; done) | {python} -i -q 2>session.log; \
         grep -v '^>>> ' session.log | grep . && exit 1; exit 0"
    );
    let running = job(&world, &["bash", "-c", &typed]).stdin(text).spawn();
    let mut running = [running];
    world.wait_for(&mut running, |world| world.has_outlived("session"));
    let printed = world.stop(running);
    assert!(
        printed[0].lines().count() > 3 && printed[0].lines().all(|line| line == "['session/hello.txt']"),
        "{printed:?}"
    );
    world.assert_identity("session");
    world.finish();
}
