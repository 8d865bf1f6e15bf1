//! The companion command on a node: doctor, explain, env, status.

mod doctor;
mod status;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{JobState, Run, command_path, set_mode, wait_until};
use crate::google::{SERVICE_ACCOUNT, SUBJECT, Source};
use crate::readme::commands;
use crate::site::{OBJECT, OTHER_ACCOUNT, Site, TOKEN_FILE};

/// The command that cargo built. Nodes see it at the same path.
const LIMIT: Duration = Duration::from_secs(60);

/// A shell of alice's on n1 that Slurm did not start, such as one that came in by ssh.
fn shell(site: &Site, job: Option<&str>, line: &str) -> Run {
    let shell = site.cluster.node(1).as_user("alice").shell(&line.replace("gcp-wif", command_path()));
    match job {
        Some(job) => shell.env("SLURM_JOB_ID", job).run(),
        None => shell.run(),
    }
}

fn explain(site: &Site, user: &str, options: &str) -> Run {
    let line = format!("{} explain --user {user} {options}", command_path());
    site.cluster.node(1).command(["bash", "-c", &line]).run()
}

#[test]
fn the_readmes_commands() {
    let site = Site::start();
    site.configure(json!({"delivery": "direct", "rules": [{"users": ["alice"], "partitions": ["gpu"]}]}));
    let [doctor, explain, env, status] = commands("node")[..] else { panic!("four commands") };
    let root =
        |line: &str| site.cluster.node(1).command(["bash", "-c", &line.replace("gcp-wif", command_path())]).run().ok();
    assert!(root(doctor).stdout.contains("\nok       impersonation "));
    assert!(
        root(explain)
            .stdout
            .ends_with(&format!("granted    {SERVICE_ACCOUNT}\nauto       no: with --gcp-wif only\nadc        file\n"))
    );
    site.configure(json!({"delivery": "direct"}));
    let (job, id) = site.running_job();
    let run = shell(&site, Some(&id), &format!("{env}; echo $GCP_WIF_SERVICE_ACCOUNT")).ok();
    assert_eq!(run.stdout.trim(), SERVICE_ACCOUNT);
    assert!(root(status).stdout.contains(&format!("\n{id}    alice  {SERVICE_ACCOUNT}  ")));
    site.cancel(job);
    site.finish();
}

#[test]
fn explain_says_which_rule_decides_and_why() {
    let site = Site::start();
    site.configure(json!({"rules": [
        {"users": ["bob"]},
        {"groups": ["ml"], "accounts": ["vision"], "service_account": OTHER_ACCOUNT, "allow": [SERVICE_ACCOUNT]},
        {"groups": ["ml"], "partitions": ["gpu"]},
    ]}));
    let run = explain(&site, "alice", "--account vision").ok();
    assert_eq!(
        run.stdout,
        format!(
            "user       alice (61001)\ngroups     alice (61001), ml (61100)\naccount    vision\n\
             partition  not given (--partition)\nrule 1     users: alice (61001) is not among them\n\
             rule 2     matches, and decides\ngranted    {OTHER_ACCOUNT}\nauto       no: with --gcp-wif only\nadc        file\n"
        )
    );
    let run = explain(&site, "61001", "--partition gpu --account speech").ok();
    assert!(
        run.stdout
            .ends_with(&format!("rule 3     matches, and decides\ngranted    {SERVICE_ACCOUNT}\nauto       no: with --gcp-wif only\nadc        file\n"))
    );
    let run = explain(&site, "alice", &format!("--account vision --service-account {SERVICE_ACCOUNT}")).ok();
    assert!(
        run.stdout
            .ends_with(&format!("granted    {SERVICE_ACCOUNT}\nauto       no: with --gcp-wif only\nadc        file\n")),
        "{}",
        run.stdout
    );

    // Only alice's groups do not match.
    let run = explain(&site, "carol", "--account vision --partition gpu").expect_status(1);
    assert!(run.stdout.contains("\nrule 2     groups: the user is in none of them\n"), "{}", run.stdout);
    let words = "no rule gives user carol (61003) (account vision, partition gpu) a service account";
    assert!(run.stdout.contains(&format!("\ndenied     {words}")), "{}", run.stdout);
    let run = explain(&site, "carol", "--json --account vision --partition gpu").expect_status(1);
    let object: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!((&object["granted"], &object["uid"]), (&json!(false), &json!(61003)));
    assert!(object["reason"].as_str().unwrap().starts_with(words));

    // A job gets the same message as explain.
    let run = site.cluster.as_user("carol").command(["srun", "--gcp-wif", "true"]).run().expect_status(1);
    assert!(run.stderr.contains("no rule gives user carol (61003) (account none, partition debug)"), "{}", run.stderr);

    let run = explain(&site, "mallory", "").expect_status(2);
    assert_eq!(run.stderr, "gcp-wif explain: this node has no user \"mallory\"\n");
    explain(&site, "alice", "--service-account alice").expect_status(2);
    site.configure(json!({"rules": 1}));
    let run = explain(&site, "alice", "").expect_status(1);
    assert!(run.stderr.starts_with("gcp-wif: configuration: /etc/slurm/gcp-wif.json: "), "{}", run.stderr);
    site.finish();
}

#[test]
fn env_gives_a_shell_on_the_node_its_jobs_variables() {
    let site = Site::start();
    site.configure(json!({"delivery": "direct", "project": "demo-project"}));
    let (job, id) = site.running_job();
    let names = "GOOGLE_APPLICATION_CREDENTIALS CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE GCP_WIF_ACCESS_TOKEN_FILE \
                 GCP_WIF_SERVICE_ACCOUNT GOOGLE_CLOUD_PROJECT GCLOUD_PROJECT CLOUDSDK_CORE_PROJECT";
    let line = format!(
        "eval \"$(gcp-wif env)\" && printenv {names} && {} && date -d \"$GOOGLE_OAUTH_ACCESS_TOKEN_EXPIRES_AT\" +expires=%s",
        site.list()
    );
    let directory = format!("/run/gcp-wif/jobs/{id}");
    let expected = format!(
        "{directory}/credentials.json\n{directory}/credentials.json\n{directory}/access_token\n{SERVICE_ACCOUNT}\n\
         demo-project\ndemo-project\ndemo-project\n"
    );
    // Found by its number, and by the user's own processes.
    for number in [Some(id.as_str()), None] {
        let run = shell(&site, number, &line).ok();
        assert!(run.stdout.starts_with(&expected) && run.stdout.contains(OBJECT), "{}{}", run.stdout, run.stderr);
        let expires: i64 = run.stdout.trim_end().rsplit_once("expires=").unwrap().1.parse().unwrap();
        assert!(expires > site.google.state.now(), "{}", run.stdout);
    }
    let run = shell(&site, Some(&id), "GOOGLE_CLOUD_PROJECT=alices gcp-wif env").ok();
    assert!(
        !run.stdout.contains("GOOGLE_CLOUD_PROJECT=") && run.stdout.contains("export GCLOUD_PROJECT='demo-project'")
    );
    let object: Value = serde_json::from_str(&shell(&site, None, "gcp-wif env --json").ok().stdout).unwrap();
    assert_eq!(object["job"].to_string(), id);
    assert_eq!(object["environment"]["GCP_WIF_SERVICE_ACCOUNT"], SERVICE_ACCOUNT);
    // A job that is submitted from there has none of these values.
    let run = shell(&site, Some(&id), "eval \"$(gcp-wif env)\" && env -u SLURM_JOB_ID srun -w n2 env").ok();
    assert!(!run.stdout.contains("GOOGLE_") && !run.stdout.contains("GCP_WIF"), "{}", run.stdout);
    site.cancel(job);
    site.finish();
}

#[test]
fn env_under_the_agent_has_the_metadata_endpoint() {
    let site = Site::start();
    site.configure(json!({"delivery": "agent", "command": command_path()}));
    set_mode(site.cluster.node(1).tokens_dir().join("token"), 0o600);
    let (job, id) = site.running_job();
    let names = "GCP_WIF_SERVICE_ACCOUNT GCE_METADATA_HOST GCE_METADATA_ROOT GCE_METADATA_IP";
    let url = "http://$GCE_METADATA_HOST/computeMetadata/v1/instance/service-accounts/default/email";
    let line = format!(
        "eval \"$(gcp-wif env)\" && printenv {names} && curl -sS -H 'Metadata-Flavor: Google' {url} && {}",
        site.list()
    );
    let run = shell(&site, Some(&id), &line).ok();
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!((lines[0], lines[1]), (SERVICE_ACCOUNT, lines[2]), "{}", run.stdout);
    assert!(lines[1].starts_with("127.0.0.1:") && lines[1] == lines[3], "{}", run.stdout);
    assert!(lines[4].starts_with(SERVICE_ACCOUNT) && run.stdout.contains(OBJECT), "{}", run.stdout);
    let run = site.cluster.node(1).command([command_path(), "doctor"]).run().ok();
    assert!(
        !run.stdout.contains("failed ") && run.stdout.contains("  mode                      0600\n"),
        "{}",
        run.stdout
    );
    site.cancel(job);
    site.trust(&Source::file(TOKEN_FILE).direct());
    let (job, id) = site.running_job();
    let run = shell(&site, Some(&id), "eval \"$(gcp-wif env)\" && printenv GCP_WIF_SERVICE_ACCOUNT").ok();
    assert_eq!(run.stdout.trim_end(), SUBJECT);
    site.cancel(job);
    site.finish();
}

#[test]
fn env_refuses_what_it_cannot_know() {
    let site = Site::start();
    let run = shell(&site, None, "gcp-wif env").expect_status(1);
    assert_eq!((run.stdout.as_str(), run.stderr.contains("set SLURM_JOB_ID")), ("", true), "{}", run.stderr);
    let (first, one) = site.running_job();
    let (second, two) = site.running_job();
    let run = shell(&site, None, "gcp-wif env").expect_status(1);
    assert!(run.stderr.ends_with(&format!("set SLURM_JOB_ID to one of {one}, {two}\n")), "{}", run.stderr);
    // Another user's job, and a job that does not exist.
    for (job, why) in
        [(one.as_str(), "permission denied"), ("99", "no such file or directory"), ("../1", "not a job ID")]
    {
        let bob = site.cluster.node(1).as_user("bob").command([command_path(), "env"]).env("SLURM_JOB_ID", job);
        let run = bob.run().expect_status(1);
        assert!(run.stdout.is_empty() && run.stderr.contains(why), "{job}: {}", run.stderr);
    }
    site.cancel(first);
    drop(second);
    site.finish();
}

#[test]
fn env_inside_a_job_renews_what_the_step_has() {
    let site = Site::start();
    site.configure(json!({"delivery": "direct", "rules": [{"allow": [OTHER_ACCOUNT]}]}));
    // The job's identity, another identity of a step, and the federated principal.
    let (list, command) = (site.list(), command_path());
    let line = format!(
        "old=$GOOGLE_OAUTH_ACCESS_TOKEN enroot=$ENROOT_CONFIG_PATH; export GOOGLE_OAUTH_ACCESS_TOKEN=stale; \
         eval \"$({command} env)\"; [ \"$old\" = \"$GOOGLE_OAUTH_ACCESS_TOKEN\" ] && echo same; \
         [ \"$enroot\" = \"$ENROOT_CONFIG_PATH\" ] && echo kept; echo $GCP_WIF_SERVICE_ACCOUNT; {list}"
    );
    let other = format!("--gcp-wif-service-account={OTHER_ACCOUNT}");
    let script = "#!/bin/bash\n#SBATCH --gcp-wif -w n1\nbash step.sh; srun \"$@\" bash step.sh\n";
    fs::write(site.cluster.home("alice").join("step.sh"), line).unwrap();
    let job = site.cluster.batch("alice", &script.replace("$@", &other), &[]);
    let state = site.cluster.wait_job(&job);
    let output = site.cluster.job_output(&job);
    assert_eq!(state, JobState::Completed, "{output}");
    for account in [SERVICE_ACCOUNT, OTHER_ACCOUNT] {
        assert!(output.contains(&format!("same\nkept\n{account}\n")), "{output}");
    }
    assert_eq!(output.matches(OBJECT).count(), 2, "{output}");

    site.trust(&Source::file(TOKEN_FILE).direct());
    let (job, id) = site.running_job();
    wait_until(LIMIT, || site.cluster.node(1).job_dir(&id).join("access_token").exists());
    let run = shell(&site, Some(&id), &format!("eval \"$(gcp-wif env)\"; echo $GCP_WIF_SERVICE_ACCOUNT; {list}")).ok();
    assert!(run.stdout.starts_with(&format!("{SUBJECT}\n")) && run.stdout.contains(OBJECT), "{}", run.stdout);
    site.cancel(job);
    site.finish();
}
