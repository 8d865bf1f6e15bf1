//! Every way to run a job. In each of them, the job itself uses its token.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{JobState, Settings, command_path, wait_until};
use crate::google::{Claims, Endpoint, Fault, Format, SERVICE_ACCOUNT, SUBJECT, ServiceAccount, Times};
use crate::site::{OBJECT, OTHER_ACCOUNT, Site, TOKEN_FILE};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn srun_lists_a_bucket_on_both_nodes() {
    let site = Site::start();
    let run =
        site.cluster.as_user("alice").command(["srun", "-N2", "--gcp-wif", "bash", "-c", &site.list()]).run().ok();
    assert_eq!(run.stdout.matches(OBJECT).count(), 2, "{}", run.stdout);
    assert_eq!(run.stderr, "");
    // Each node's prolog makes one exchange, and the step uses its result.
    assert_eq!(site.google.requests_to(Endpoint::Sts).len(), 2);
    assert_eq!(site.google.requests_to(Endpoint::Impersonation).len(), 2);
    site.finish();
}

#[test]
fn a_job_without_the_option_sees_nothing_and_asks_nothing() {
    let site = Site::start();
    let run = site.cluster.as_user("alice").command(["srun", "env"]).run().ok();
    for name in ["GCP_WIF", "GOOGLE_", "CLOUDSDK", "GCLOUD"] {
        assert!(!run.stdout.contains(name), "{name}: {}", run.stdout);
    }
    assert_eq!((run.stderr.as_str(), site.google.requests().len()), ("", 0));
    site.finish();
}

#[test]
fn sbatch_with_a_directive_serves_the_script_and_its_steps_on_both_nodes() {
    let site = Site::start();
    let list = site.list();
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif\n#SBATCH -N2\n{list} || exit 1\nexport LIST='{}'\nsrun -N1 -n1 -w n2 bash -c \"$LIST\" || exit 2\nsrun -N2 -n2 bash -c \"$LIST\"\n",
        list.replace('\'', "'\\''")
    );
    let (state, output) = site.cluster.run_batch("alice", &script, &[]);
    assert_eq!((state, output.matches(OBJECT).count()), (JobState::Completed, 4), "{output}");
    site.finish();
}

#[test]
fn salloc_then_srun_with_the_option() {
    let site = Site::start();
    let line = format!(
        "srun bash -c 'echo none=$GOOGLE_OAUTH_ACCESS_TOKEN'; srun --gcp-wif bash -c {}; srun bash -c 'echo after=$GOOGLE_OAUTH_ACCESS_TOKEN'",
        quoted(&site.list())
    );
    let run = site.cluster.as_user("alice").command(["salloc", "-N1", "bash", "-c", &line]).run().ok();
    assert!(run.stdout.contains("none=\n") && run.stdout.contains("after=\n"), "{}", run.stdout);
    assert_eq!(run.stdout.matches(OBJECT).count(), 1, "{}", run.stdout);
    site.finish();
}

#[test]
fn an_option_of_salloc_applies_to_its_steps() {
    let site = Site::start();
    let line = format!("srun -N2 bash -c {}", quoted(&site.list()));
    let run = site.cluster.as_user("alice").command(["salloc", "-N2", "--gcp-wif", "bash", "-c", &line]).run().ok();
    assert_eq!(run.stdout.matches(OBJECT).count(), 2, "{}", run.stdout);
    site.finish();
}

#[test]
fn each_array_task_has_its_own_credentials() {
    let site = Site::start();
    let script =
        format!("#!/bin/bash\n#SBATCH --gcp-wif --array=1-4\n{} && echo $GCP_WIF_ACCESS_TOKEN_FILE\n", site.list());
    let (state, output) = site.cluster.run_batch("alice", &script, &[]);
    assert_eq!((state, output.matches(OBJECT).count()), (JobState::Completed, 4), "{output}");
    let mut files: Vec<&str> = output.lines().filter(|line| line.starts_with("/run")).collect();
    files.sort_unstable();
    files.dedup();
    assert_eq!(files.len(), 4, "{output}");
    site.finish();
}

#[test]
fn each_component_of_a_heterogeneous_job_has_its_own_credentials() {
    let site = Site::start();
    let list = quoted(&site.list());
    let line = format!("srun --gcp-wif -w n1 bash -c {list} : --gcp-wif -w n2 bash -c {list}");
    let run = site.cluster.as_user("alice").shell(&line).run().ok();
    assert_eq!(run.stdout.matches(OBJECT).count(), 2, "{}", run.stdout);
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif -n1 -w n1\n#SBATCH hetjob\n#SBATCH --gcp-wif -n1 -w n2\nsrun --het-group=0,1 bash -c {list}\n"
    );
    let (state, output) = site.cluster.run_batch("alice", &script, &[]);
    assert_eq!((state, output.matches(OBJECT).count()), (JobState::Completed, 2), "{output}");
    site.finish();
}

#[test]
fn a_requeued_job_has_credentials_again() {
    let site = Site::start();
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif --requeue --open-mode=append\n{} || exit 1\necho token=$GOOGLE_OAUTH_ACCESS_TOKEN\n\
         [ \"${{SLURM_RESTART_COUNT:-0}}\" -gt 0 ] || {{ touch started; sleep 300; }}\n",
        site.list()
    );
    let job = site.cluster.batch("alice", &script, &[]);
    wait_until(LIMIT, || site.cluster.home("alice").join("started").exists());
    site.cluster.as_user("root").command(["scontrol", "requeue", &job]).run().ok();
    assert_eq!(site.cluster.wait_job(&job), JobState::Completed);
    let output = site.cluster.job_output(&job);
    let tokens = output.lines().filter(|line| line.starts_with("token=ya29."));
    assert_eq!((tokens.count(), output.matches(OBJECT).count()), (2, 2), "{output}");
    site.finish();
}

#[test]
fn auto_serves_every_job_but_those_that_refuse() {
    let site = Site::start();
    site.configure(json!({"auto": true}));
    let alice = site.cluster.as_user("alice");
    let run = alice.command(["srun", "bash", "-c", &site.list()]).run().ok();
    assert!(run.stdout.contains(OBJECT), "{}", run.stdout);
    let run = alice.command(["srun", "--no-gcp-wif", "env"]).run().ok();
    assert!(!run.stdout.contains("GOOGLE"), "{}", run.stdout);
    let (state, output) = site.cluster.run_batch("bob", &format!("#!/bin/bash\n{}\n", site.list()), &[]);
    assert_eq!((state, output.matches(OBJECT).count()), (JobState::Completed, 1), "{output}");
    site.finish();
}

#[test]
fn rules_decide_whose_jobs_have_credentials_without_asking_and_others_see_no_line() {
    let site = Site::start();
    site.configure(json!({"rules": [{"users": ["alice"], "auto": true}, {"users": ["bob"]}]}));
    let env = |user: &str, option: Option<&str>| {
        let words = ["srun", "-w", "n1"].into_iter().chain(option).chain(["printenv", "GCP_WIF_SERVICE_ACCOUNT"]);
        site.cluster.as_user(user).command(words).run()
    };
    assert_eq!(env("alice", None).ok().stdout.trim(), SERVICE_ACCOUNT);
    assert_eq!(env("alice", Some("--no-gcp-wif")).stdout, "");
    let bob = env("bob", None);
    assert!(bob.stdout.is_empty() && !bob.stderr.contains("gcp-wif"), "{}", bob.stderr);
    assert_eq!(env("bob", Some("--gcp-wif")).ok().stdout.trim(), SERVICE_ACCOUNT);

    // Automatic for everyone unless a rule says otherwise. A user whom no rule names gets nothing.
    site.configure(json!({"auto": true, "rules": [{"users": ["alice"], "auto": false}]}));
    for user in ["alice", "bob"] {
        let run = env(user, None);
        assert!(run.stdout.is_empty() && !run.stderr.contains("gcp-wif"), "{user}: {}", run.stderr);
    }
    assert!(!site.cluster.node(1).log().contains("gcp-wif: rules"));
    assert_eq!(env("alice", Some("--gcp-wif")).ok().stdout.trim(), SERVICE_ACCOUNT);
    assert!(env("bob", Some("--gcp-wif")).stderr.contains("gcp-wif: rules: no rule gives user bob"));
    site.finish();
}

#[test]
fn the_job_sees_what_is_documented() {
    let site = Site::start();
    site.configure(json!({"project": "demo-project"}));
    let run = site
        .cluster
        .as_user("alice")
        .shell("srun --gcp-wif bash -c 'echo job=$SLURM_JOB_ID; env | sort; stat -c \"%n %U %a\" $GCP_WIF_ACCESS_TOKEN_FILE $GOOGLE_APPLICATION_CREDENTIALS; ls $(dirname $GCP_WIF_ACCESS_TOKEN_FILE); echo file=$(cat $GCP_WIF_ACCESS_TOKEN_FILE); wc -l <$GCP_WIF_ACCESS_TOKEN_FILE; cat $GOOGLE_APPLICATION_CREDENTIALS'")
        .run()
        .ok();
    let value = |name: &str| {
        run.stdout
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}=")))
            .unwrap_or_else(|| panic!("no {name} in {}", run.stdout))
    };
    let directory = format!("/run/gcp-wif/jobs/{}", value("job"));
    assert_eq!(value("GOOGLE_APPLICATION_CREDENTIALS"), format!("{directory}/credentials.json"));
    assert_eq!(value("CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"), format!("{directory}/credentials.json"));
    assert_eq!(value("GCP_WIF_ACCESS_TOKEN_FILE"), format!("{directory}/access_token"));
    assert_eq!(value("GCP_WIF_SERVICE_ACCOUNT"), SERVICE_ACCOUNT);
    for name in ["GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"] {
        assert_eq!(value(name), "demo-project");
    }
    assert_eq!(value("GOOGLE_OAUTH_ACCESS_TOKEN"), value("file"));
    assert!(value("GOOGLE_OAUTH_ACCESS_TOKEN_EXPIRES_AT").ends_with('Z'));
    assert!(run.stdout.contains(&format!("{directory}/access_token alice 400")), "{}", run.stdout);
    assert!(run.stdout.contains(&format!("{directory}/credentials.json alice 400")), "{}", run.stdout);
    assert!(run.stdout.contains("\naccess_token\ncredentials.json\n"), "{}", run.stdout);
    assert!(run.stdout.contains("\n0\n{"), "the token ends in a newline: {}", run.stdout);
    site.finish();
}

#[test]
fn without_a_project_of_the_sites_a_job_has_its_service_accounts() {
    const DOMAIN_SCOPED: &str = "trainer@vision.example.com.iam.gserviceaccount.com";
    let site = Site::start();
    site.google.configure(|options| options.service_accounts.push(ServiceAccount::new(DOMAIN_SCOPED, &[SUBJECT])));
    let projects = |options: &str| {
        let line = format!(
            "srun {options} --gcp-wif bash -c \
             'echo \"$GOOGLE_CLOUD_PROJECT $GCLOUD_PROJECT $CLOUDSDK_CORE_PROJECT\"; {} env | grep -c PROJECT='",
            command_path()
        );
        site.cluster.as_user("alice").shell(&line).run().stdout
    };
    assert_eq!(projects(""), "demo-project demo-project demo-project\n3\n");
    // With the identity from the rules, not with the site's own.
    site.configure(json!({"rules": [{"service_account": DOMAIN_SCOPED, "allow": [SERVICE_ACCOUNT]}]}));
    assert_eq!(projects(""), "example.com:vision example.com:vision example.com:vision\n3\n");
    let option = format!("--gcp-wif-service-account={SERVICE_ACCOUNT}");
    assert_eq!(projects(&option), "demo-project demo-project demo-project\n3\n");
    site.configure(json!({"project": "sites", "rules": [{"service_account": DOMAIN_SCOPED}]}));
    assert_eq!(projects(""), "sites sites sites\n3\n");
    site.configure(json!({}));
    site.trust(&site.source().direct());
    assert_eq!(projects(""), "  \n0\n");
    site.finish();
}

#[test]
fn another_user_can_neither_list_nor_read_a_jobs_files() {
    let site = Site::start();
    let (job, id) = site.running_job();
    let directory = format!("/run/gcp-wif/jobs/{id}");
    let line = format!(
        "ls {directory}; cat {directory}/access_token; stat {directory}/access_token; ls /run/gcp-wif/jobs; ls -R /run/gcp-wif/records"
    );
    let run = site.cluster.node(1).as_user("bob").shell(&line).run();
    assert_eq!(
        (run.stdout.as_str(), run.stderr.matches("Permission denied").count()),
        ("", 5),
        "{}{}",
        run.stdout,
        run.stderr
    );
    site.cancel(job);
    site.finish();
}

#[test]
fn direct_federation_needs_no_service_account() {
    let site = Site::start();
    site.trust(&crate::google::Source::file(TOKEN_FILE).format(Format::Text).direct());
    let line =
        format!("srun --gcp-wif bash -c {}", quoted(&format!("{}; echo who=$GCP_WIF_SERVICE_ACCOUNT", site.list())));
    let run = site.cluster.as_user("alice").shell(&line).run().ok();
    assert!(run.stdout.contains(OBJECT) && run.stdout.contains(&format!("who={SUBJECT}")), "{}", run.stdout);
    assert_eq!(site.google.requests_to(Endpoint::Impersonation).len(), 0);
    site.finish();
}

#[test]
fn the_subject_token_can_be_a_field_of_json() {
    let site = Site::start();
    let token = site.google.subject_token(&Claims::default());
    site.rotate(&json!({"id": {"a": 1}, "jwt": token}).to_string());
    site.trust(&site.source().format(Format::Json("jwt".to_owned())));
    let run = site.cluster.as_user("alice").command(["srun", "--gcp-wif", "bash", "-c", &site.list()]).run().ok();
    assert!(run.stdout.contains(OBJECT), "{}", run.stdout);
    site.finish();
}

#[test]
fn a_configured_lifetime_is_requested() {
    let site = Site::start();
    site.trust(&site.source().lifetime(1200));
    site.cluster.as_user("alice").command(["srun", "--gcp-wif", "bash", "-c", &site.list()]).run().ok();
    let requests = site.google.requests_to(Endpoint::Impersonation);
    assert!(requests[0].body.contains("\"lifetime\":\"1200s\""));
    site.finish();
}

#[test]
fn https_with_the_sites_own_certificate_authority() {
    let site = Site::start();
    for node in site.cluster.nodes() {
        fs::write(node.config_path().with_file_name("ca.pem"), site.google.ca_certificate()).unwrap();
    }
    site.configure(json!({"ca_certificates": "/etc/slurm/ca.pem"}));
    site.trust(&site.source().secure());
    let run = site.cluster.as_user("alice").command(["srun", "--gcp-wif", "bash", "-c", &site.list()]).run().ok();
    assert!(run.stdout.contains(OBJECT), "{}", run.stdout);
    assert!(site.google.requests_to(Endpoint::Sts)[0].secure);
    site.finish();
}

#[test]
fn a_rotated_subject_token_is_read_anew() {
    let site = Site::start();
    let tokens = [
        site.google.subject_token(&Claims::default()),
        site.google.subject_token(&Claims::default().with("jti", json!("second"))),
    ];
    for token in &tokens {
        site.rotate(token);
        site.cluster.as_user("alice").command(["srun", "--gcp-wif", "true"]).run().ok();
    }
    let sent = site.google.requests_to(Endpoint::Sts);
    for (request, token) in sent.iter().zip(&tokens) {
        assert!(request.body.replace("%2E", ".").replace("%2D", "-").replace("%5F", "_").contains(token.as_str()));
    }
    site.finish();
}

#[test]
fn many_steps_at_once_make_one_exchange() {
    let site = Site::start();
    // So slow that all others wait for the first one.
    site.google.inject(Endpoint::Sts, Fault::Delay(Duration::from_secs(1)), Times::Forever);
    let line = "for i in $(seq 20); do srun -n1 --overlap --gcp-wif sh -c 'test -n \"$GOOGLE_OAUTH_ACCESS_TOKEN\" && echo served' & done; wait";
    let run = site.cluster.as_user("alice").command(["salloc", "-N1", "bash", "-c", line]).run().ok();
    assert_eq!(run.stdout.matches("served").count(), 20, "{}{}", run.stdout, run.stderr);
    assert_eq!(site.google.requests_to(Endpoint::Sts).len(), 1);
    site.finish();
}

#[test]
fn a_step_can_have_another_identity_than_its_job() {
    let site = Site::start();
    site.configure(
        json!({"rules": [{"users": ["alice"], "service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]}),
    );
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif\necho 1=$GCP_WIF_SERVICE_ACCOUNT\n\
         srun --gcp-wif-service-account={OTHER_ACCOUNT} bash -c 'echo 2=$GCP_WIF_SERVICE_ACCOUNT; cat $GCP_WIF_ACCESS_TOKEN_FILE >/dev/null && '{}\n\
         srun bash -c 'echo 3=$GCP_WIF_SERVICE_ACCOUNT'\nsrun --no-gcp-wif bash -c 'echo 4=$GCP_WIF_SERVICE_ACCOUNT'\n",
        quoted(&site.list())
    );
    let (state, output) = site.cluster.run_batch("alice", &script, &[]);
    assert_eq!(state, JobState::Completed, "{output}");
    for line in
        [format!("1={SERVICE_ACCOUNT}"), format!("2={OTHER_ACCOUNT}"), format!("3={SERVICE_ACCOUNT}"), "4=".to_owned()]
    {
        assert!(output.lines().any(|l| l == line), "{line}: {output}");
    }
    assert!(output.contains(OBJECT), "{output}");
    site.finish();
}

#[test]
fn the_same_under_required() {
    let site = Site::with(Settings::with(crate::cluster::Plugin::Required));
    let run =
        site.cluster.as_user("alice").command(["srun", "-N2", "--gcp-wif", "bash", "-c", &site.list()]).run().ok();
    assert_eq!(run.stdout.matches(OBJECT).count(), 2, "{}", run.stdout);
    site.cluster.as_user("alice").command(["srun", "true"]).run().ok();
    site.finish();
}

/// A word, quoted for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[test]
fn a_job_that_asks_for_nothing_leaves_nothing_on_its_node() {
    let site = Site::start();
    // An unusable credential configuration changes nothing, because it is not read.
    site.write_credential_configuration("{");
    let script = "#!/bin/bash\n#SBATCH -w n1\nsrun true && salloc -Q -w n1 --overlap true; srun hostname\n";
    for line in [script.to_owned(), script.replace("#SBATCH -w n1", "#SBATCH -w n1 --no-gcp-wif")] {
        site.cluster.run_batch("alice", &line, &[]);
    }
    site.cluster.as_user("bob").command(["srun", "-N2", "true"]).run().ok();
    site.cluster.assert_healthy();
    for node in site.cluster.nodes() {
        assert!(!node.run_dir().join("gcp-wif").exists(), "{} has a runtime directory", node.name());
        assert!(!node.log().contains("gcp-wif: "), "{}", node.log());
    }
    site.finish();
}
