//! Faults that need separate clusters: upgrades while something runs, and registries.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::{complaints, run, run_command};
use crate::cluster::{Plugin, Settings, command_path, plugin_path, set_mode, wait_until};
use crate::command::LIMIT;
use crate::google::{Body, Endpoint, Fault, SERVICE_ACCOUNT, Times};
use crate::registry::Registries;
use crate::site::Site;
use crate::skipped::{is_installed, skip};

#[test]
fn the_doctor_reports_a_slurmd_that_has_not_loaded_the_plugin() {
    let site = Site::with(Settings::with(Plugin::Absent));
    site.configure(json!({"project": "demo-project"}));
    let node = site.cluster.node(1);
    let plugin = site.cluster.dir().join("lib/spank_gcp_wif.so");
    fs::copy(plugin_path(), &plugin).unwrap();
    let mut file = fs::File::options().append(true).open(site.cluster.dir().join("plugstack.conf")).unwrap();
    writeln!(file, "optional {}", plugin.display()).unwrap();
    // No request goes to Google.
    site.google.inject(Endpoint::Sts, Fault::status_with(403, Body::OAuth), Times::Forever);
    let told = run(&site, &["--offline"]).expect_status(1);
    let expected = "failed   configuration   slurmd                    it has not loaded the plugin that ";
    assert!(told.stdout.starts_with(expected) && told.stdout.lines().count() == 1, "{}", told.stdout);
    assert!(told.stdout.ends_with("see its log if this does not help\n"), "{}", told.stdout);
    node.restart_slurmd();
    let content = run(&site, &["--offline"]).ok();
    assert_eq!(content.stdout, "");
    site.finish();
}

#[test]
fn the_doctor_reports_an_agent_that_is_older_than_its_program() {
    let site = Site::start();
    let (node, command) = (site.cluster.node(1), site.cluster.dir().join("installed"));
    let install = || {
        let new = site.cluster.dir().join("new");
        fs::copy(command_path(), &new).unwrap();
        fs::rename(new, &command).unwrap();
    };
    install();
    site.configure(json!({"delivery": "agent", "project": "demo-project", "command": command.display().to_string()}));
    for node in site.cluster.nodes() {
        set_mode(node.tokens_dir().join("token"), 0o400);
    }
    let (job, id) = site.running_job();
    let good = run(&site, &[]).ok();
    assert!(complaints(&good).is_empty(), "{}", good.stdout);
    // An agent that hangs does not see that its program was replaced.
    let pids = good.stdout.split_once(" running agent             process ").unwrap().1.split_once(',').unwrap().0;
    node.command(["bash", "-c", &format!("kill -STOP {pids}")]).run().ok();
    install();
    let told = run(&site, &["--offline"]).ok();
    let line = told.stdout.trim_end();
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!("warning  agent           running agent             it runs gcp-wif {version} from before ");
    assert!(line.starts_with(&expected) && line.lines().count() == 1, "{line}");
    run_command(&site, line);
    assert_eq!(run(&site, &["--offline"]).ok().stdout, "");
    // The job continues.
    let credentials = fs::read_to_string(node.job_dir(&id).join("credentials.json")).unwrap();
    let token_url = credentials.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let url = format!("http://{token_url}/computeMetadata/v1/instance/service-accounts/default/email");
    let asked = node.as_user("alice").command(["curl", "-sSf", "-H", "Metadata-Flavor: Google", &url]).run().ok();
    assert_eq!(asked.stdout.trim(), SERVICE_ACCOUNT);
    site.cancel(job);
    site.finish();
}

#[test]
fn the_doctor_reports_a_registry_that_refuses() {
    if !is_installed("docker-registry") || !is_installed("skopeo") {
        return skip("docker-registry or skopeo is not installed: the doctor's pull");
    }
    let site = Site::start();
    let registry = Registries::on_loopback(&site);
    let address = registry.address();
    let image = format!("{address}/team/tiny:1");
    let configure = |registries: &[&str]| site.configure(json!({"project": "demo-project", "registries": registries}));
    let checks = |image: &str| {
        let run = run(&site, &["--registry", image]);
        let lines = run.stdout.lines().filter(|line| line.contains(" registr")).map(str::to_owned);
        (run.status, lines.collect::<Vec<_>>())
    };
    configure(&["127.0.0.1"]);
    let (status, lines) = checks(&image);
    let expected = [
        "ok       files           registries                127.0.0.1 gets the jobs' credentials".to_owned(),
        format!("ok       files           registry                  team/tiny:1 can be pulled from {address}"),
    ];
    assert_eq!((status, lines), (0, expected.to_vec()));
    let (status, lines) = checks(&address);
    assert!(status == 0 && lines[1].starts_with("ok ") && lines[1].contains("accepts the token"), "{lines:?}");

    // The site's list has another registry.
    configure(&["us-docker.pkg.dev"]);
    let (status, lines) = checks(&image);
    let fix = "127.0.0.1 gets no credentials from jobs; add it to registries in the site configuration";
    assert!(status == 0 && lines[0].starts_with("warning ") && lines[0].ends_with(fix), "{lines:?}");
    configure(&["us-docker.pkg.dev", "127.0.0.1"]);
    assert!(checks(&image).1[0].starts_with("ok "));

    // The identity has no right to read.
    site.google.configure(|options| options.registry_readers.clear());
    let (status, lines) = checks(&image);
    let fix = "grant the identity roles/artifactregistry.reader on the repository";
    assert!(status == 1 && lines[1].starts_with("failed ") && lines[1].ends_with(fix), "{lines:?}");
    assert!(lines[1].contains("/v2/team/tiny/manifests/1: HTTP 401"), "{lines:?}");
    site.google.configure(|options| options.registry_readers = vec![SERVICE_ACCOUNT.to_owned()]);
    assert!(checks(&image).1[1].starts_with("ok "));

    let (status, lines) = checks(&format!("{address}/team/none:1"));
    assert!(status == 1 && lines[1].contains("HTTP 404") && lines[1].ends_with("correct its name"), "{lines:?}");
    let (status, lines) = checks("127.0.0.1:1");
    assert!(status == 1 && lines[1].contains("no connection: connection refused"), "{lines:?}");
    // None of the tokens is printed.
    site.finish();
}

#[test]
fn slurms_health_check_is_silent_on_a_good_node() {
    let script =
        tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o755)).tempfile().unwrap().into_temp_path();
    let doctor = format!("{} doctor --offline >/run/checking 2>&1", command_path());
    let line = "echo \"status $? $SLURMD_NODENAME\" >>/run/checking; mv /run/checking /run/health";
    fs::write(&script, format!("#!/bin/sh\n{doctor}\n{line}\n")).unwrap();
    let settings = Settings::default().conf(&format!("HealthCheckProgram={}", script.display()));
    let site = Site::with(settings.conf("HealthCheckInterval=1"));
    site.configure(json!({"project": "demo-project"}));
    let health = site.cluster.node(1).run_dir().join("health");
    let says = |expected: &str| fs::read_to_string(&health).is_ok_and(|text| text.starts_with(expected));
    wait_until(LIMIT, || says("status 0 n1\n"));
    fs::remove_file(site.cluster.node(1).config_path()).unwrap();
    wait_until(LIMIT, || says("failed   configuration   site configuration "));
    assert!(fs::read_to_string(&health).unwrap().ends_with("\nstatus 1 n1\n"));
    site.configure(json!({"project": "demo-project"}));
    wait_until(LIMIT, || says("status 0 n1\n"));
    site.finish();
}

#[test]
fn where_slurm_has_no_configuration_files_slurmds_copies_are_read() {
    let site = Site::start();
    site.configure(json!({"project": "demo-project"}));
    let node = site.cluster.node(1);
    let (copies, own) = (node.run_dir().join("slurm/conf"), node.config_path().with_file_name("slurm.conf"));
    fs::create_dir_all(copies.join("plugstack.conf.d")).unwrap();
    fs::write(copies.join("slurm.conf"), "ClusterName=ci\nMessageTimeout=60\n").unwrap();
    fs::write(copies.join("plugstack.conf"), "include plugstack.conf.d/*\n").unwrap();
    let linked = fs::read_link(&own).unwrap();
    fs::remove_file(&own).unwrap();
    let doctor = || node.command(["env", "-u", "SLURM_CONF", command_path(), "doctor", "--offline"]).run();
    let told = doctor().expect_status(1);
    let expected =
        "failed   configuration   plugstack.conf            it does not name spank_gcp_wif.so; add the line: ";
    assert!(told.stdout.starts_with(expected) && told.stdout.lines().count() == 1, "{}", told.stdout);
    // slurmd loads its own plugins from Slurm's folder, which shows where it looks for a bare name.
    let line = |plugin: &str| {
        fs::write(copies.join("plugstack.conf.d/10-gcp-wif.conf"), format!("optional {plugin}\n")).unwrap();
    };
    line("spank_gcp_wif.so");
    let told = doctor().expect_status(1);
    assert!(told.stdout.contains("/spank_gcp_wif.so does not exist, but /run/slurm/conf/"), "{}", told.stdout);
    line(&site.cluster.dir().join("lib/spank_gcp_wif.so").display().to_string());
    assert_eq!(doctor().ok().stdout, "");
    std::os::unix::fs::symlink(linked, own).unwrap();
    site.finish();
}
