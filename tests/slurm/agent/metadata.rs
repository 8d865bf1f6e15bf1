//! A site that leaves GOOGLE_APPLICATION_CREDENTIALS out. Clients find the metadata endpoint by themselves.

use std::fs;

use serde_json::json;

use super::site;
use super::world::{LIFE, LIMIT, STOP, Way, World};
use crate::clients::library;
use crate::cluster::{command_path, set_mode, wait_until};
use crate::failures::only_line;
use crate::golden::Golden;
use crate::readme::commands;
use crate::site::OBJECT;
use crate::skipped::skip;

fn world() -> World {
    World::with(LIFE, json!({"adc": "metadata"}))
}

#[test]
fn python_and_node() {
    let world = world();
    let python = world.python("python", Way::Given);
    let node = world.node("node", Way::Given);
    assert_eq!(world.outlive([python, node]), ["google.auth.compute_engine.credentials\n", "Compute\n"]);
    world.finish();
}

#[test]
fn object_store() {
    let world = world();
    let Some(store) = world.rust("object_store", "object-store", Way::Given) else {
        skip("object_store is not installed");
        return world.finish();
    };
    assert_eq!(world.outlive([store]), ["read\n"]);
    world.finish();
}

#[test]
fn java() {
    let world = world();
    let Some(java) = world.java("java", Way::Given) else {
        skip("google-auth-library for Java is not installed");
        return world.finish();
    };
    assert_eq!(world.outlive([java]), ["ComputeEngineCredentials\n"]);
    world.finish();
}

#[test]
fn gcloud_still_gets_the_file() {
    let world = world();
    let line = "env | grep -E '^(GOOGLE_APPLICATION_CREDENTIALS|CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE)='";
    let run = world.job(Way::Given, &["bash", "-c", line]).run().ok();
    assert_eq!(run.stdout, "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE=/run/gcp-wif/jobs/1/credentials.json\n");
    if !world.has_gcloud() {
        skip("gcloud is not installed");
        return world.finish();
    }
    let gcloud = world.gcloud("gcloud", Way::Given, &[]);
    assert_eq!(world.outlive([("gcloud", gcloud)]), ["read\n"]);
    world.finish();
}

#[test]
fn a_client_that_refuses_the_file_finds_the_endpoint_by_the_readmes_command() {
    let world = World::start(LIFE);
    let Some((bucket, refused)) = world.rust("object_store", "object-store", Way::Given) else {
        skip("object_store is not installed");
        return world.finish();
    };
    let run = refused.run();
    assert!(run.status != 0 && run.stderr.contains("external_account"), "{}{}", run.stdout, run.stderr);
    let [command] = commands("metadata")[..] else { panic!("one command") };
    let client = [&*library("rust"), "object_store", &world.site.google.http_url(), bucket, OBJECT, STOP].join(" ");
    let line = command.replace("python3 train.py", &client);
    let job = world.site.cluster.as_user("alice").shell(&line).limit(LIMIT);
    assert_eq!(world.outlive([(bucket, job)]), ["read\n"]);
    world.finish();
}

#[test]
fn a_users_own_credentials_that_clients_would_take_are_reported() {
    let site = site(json!({"adc": "metadata"}), None);
    let told = |variables: &[(&str, &str)]| {
        let job = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]);
        let stderr = variables.iter().fold(job, |job, (name, value)| job.env(name, value)).run().ok().stderr;
        stderr.trim_end().to_owned()
    };
    let home = site.cluster.home("alice");
    let write = |directory: &str| {
        let directory = home.join(directory);
        fs::create_dir_all(&directory).unwrap();
        // The plugin does not read the file, so any content will do.
        let file = directory.join("application_default_credentials.json");
        fs::write(&file, "").unwrap();
        set_mode(&file, 0o000);
    };
    let elsewhere = home.join("elsewhere").display().to_string();
    assert_eq!(told(&[]), "");
    write("elsewhere");
    assert_eq!(told(&[]), "");
    let mut golden = Golden::new("adc");
    golden.add(
        "where CLOUDSDK_CONFIG leads",
        &only_line("elsewhere", &told(&[("CLOUDSDK_CONFIG", &elsewhere)])),
        &site,
    );
    write(".config/gcloud");
    golden.add("in the home", &only_line("home", &told(&[])), &site);
    golden.add("CLOUDSDK_CONFIG without one", &only_line("none", &told(&[("CLOUDSDK_CONFIG", "/nowhere")])), &site);
    golden.check();
    // The user or the site has decided this.
    assert_eq!(told(&[("GOOGLE_APPLICATION_CREDENTIALS", "/home/alice/key.json")]), "");
    site.configure(json!({"delivery": "agent", "command": command_path()}));
    assert_eq!(told(&[]), "");
    site.finish();
}

#[test]
fn a_rule_can_say_how_its_jobs_find_their_credentials_and_a_running_job_keeps_that() {
    let rules = |adc: &str| {
        let rules = json!([{"users": ["alice"], "adc": adc}, {}]);
        json!({"delivery": "agent", "command": command_path(), "rules": rules})
    };
    let site = site(rules("metadata"), None);
    let told = "echo \"file=${GOOGLE_APPLICATION_CREDENTIALS##*/}\"";
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif\n{told}; touch ready; until [ -e go ]; do sleep 0.1; done\n\
         srun bash -c '{told}'; {} env | grep -c GOOGLE_APPLICATION_CREDENTIALS=\n",
        command_path()
    );
    let of = |user: &str| {
        let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", told];
        site.cluster.as_user(user).command(words).run().ok().stdout
    };
    let job = site.cluster.batch("alice", &script, &["-w", "n1"]);
    let home = site.cluster.home("alice");
    wait_until(LIMIT, || home.join("ready").exists());
    assert_eq!((of("alice").as_str(), of("bob").as_str()), ("file=\n", "file=credentials.json\n"));
    let explain = |user: &str| {
        let run = site.cluster.node(1).command([command_path(), "explain", "--user", user]).run().ok();
        run.stdout.lines().last().unwrap_or_default().to_owned()
    };
    assert_eq!((explain("alice").as_str(), explain("bob").as_str()), ("adc        metadata", "adc        file"));
    site.configure(rules("file"));
    fs::write(home.join("go"), "").unwrap();
    site.cluster.wait_job(&job);
    assert_eq!(site.cluster.job_output(&job).replace("srun: Step created for StepId=1.0\n", ""), "file=\nfile=\n0\n");
    assert_eq!(of("alice"), "file=credentials.json\n");
    site.finish();
}
