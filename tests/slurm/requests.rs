//! Options: refused at submission, inherited, overridden; and what they do to the job's environment.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cluster::{Cluster, JobState, Run};
use crate::golden::Golden;
use crate::google::SERVICE_ACCOUNT;
use crate::site::{OBJECT, OTHER_ACCOUNT, Site};

#[test]
fn what_cannot_be_honored_is_refused_at_submission() {
    let site = Site::start();
    let alice = site.cluster.as_user("alice");
    let long = format!("--gcp-wif-service-account={}", "a".repeat(64 << 10));
    let cases: [(&str, &[&str]); 8] = [
        ("both", &["--gcp-wif", "--no-gcp-wif"]),
        ("a service account and none", &["--gcp-wif-service-account=a@p.iam.gserviceaccount.com", "--no-gcp-wif"]),
        ("no email", &["--gcp-wif-service-account=trainer"]),
        ("empty", &["--gcp-wif-service-account="]),
        ("blanks", &["--gcp-wif-service-account=a b@p.iam.gserviceaccount.com"]),
        ("a newline", &["--gcp-wif-service-account=a@p.iam.gserviceaccount.com\nx"]),
        ("shell", &["--gcp-wif-service-account=$(touch pwned)@p.iam.gserviceaccount.com"]),
        ("64 KiB", &[&long]),
    ];
    let mut golden = Golden::new("option");
    for (case, options) in cases {
        for command in ["srun", "sbatch", "salloc"] {
            let words = [command].into_iter().chain(options.iter().copied());
            let run = match command {
                "sbatch" => alice.command(words).stdin("#!/bin/bash\necho ran\n").run(),
                _ => alice.command(words).arg("echo").arg("ran").run(),
            };
            assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{command} {case}: {}", run.stderr);
            assert_eq!(run.stderr.lines().count(), 1, "{command} {case}: {}", run.stderr);
            if command == "srun" {
                golden.add(case, run.stderr.trim_end(), &site);
            }
        }
        let directive = format!("#!/bin/bash\n#SBATCH {}\necho ran\n", quoted_words(options));
        let run = alice.command(["sbatch"]).stdin(directive).run();
        assert_ne!(run.status, 0, "directive {case}");
    }
    golden.check();
    assert!(!site.cluster.home("alice").join("pwned").exists());
    assert_eq!(site.google.requests().len(), 0, "a submission made a request");
    site.finish();
}

fn quoted_words(words: &[&str]) -> String {
    words.iter().map(|word| format!("\"{}\" ", word.replace('\n', " "))).collect()
}

#[test]
fn a_later_component_cannot_ask_alone() {
    let site = Site::start();
    let script = "#!/bin/bash\n#SBATCH -w n1\n#SBATCH hetjob\n#SBATCH --gcp-wif -w n2\necho ran\n";
    let run = site.cluster.as_user("alice").command(["sbatch"]).stdin(script).run().expect_status(1);
    let mut golden = Golden::new("option_component");
    golden.add("a later component", run.stderr.trim_end(), &site);
    golden.check();
    site.finish();
}

#[test]
fn what_a_step_was_given_is_not_inherited_by_what_it_submits() {
    let site = Site::start();
    site.configure(json!({"rules": [{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]}));
    let inner = "sbatch -W -o inner.out --wrap 'echo who=$GCP_WIF_SERVICE_ACCOUNT' >/dev/null; cat inner.out";
    let words = ["srun", "--gcp-wif", &format!("--gcp-wif-service-account={OTHER_ACCOUNT}"), "bash", "-c", inner];
    let run = site.cluster.as_user("alice").command(words).run().ok();
    assert_eq!(run.stdout, "who=\n", "{}", run.stderr);
    site.finish();
}

#[test]
fn help_lists_the_options() {
    let cluster = Cluster::start(crate::cluster::Settings::default());
    for command in ["srun", "sbatch", "salloc"] {
        let help = cluster.as_user("alice").command([command, "--help"]).run().ok().stdout;
        assert_eq!(help.matches("[gcp-wif]").count(), 3, "{command}: {help}");
        for option in ["--gcp-wif ", "--no-gcp-wif ", "--gcp-wif-service-account=EMAIL"] {
            assert!(help.contains(option), "{command} {option}: {help}");
        }
    }
}

#[test]
fn a_submission_makes_no_request() {
    let site = Site::start();
    let job = site.cluster.batch("alice", "#!/bin/bash\n#SBATCH --gcp-wif\n", &["--hold"]);
    assert_eq!(site.google.requests().len(), 0);
    site.cluster.as_user("root").command(["scancel", &job]).run().ok();
    site.finish();
}

#[test]
fn a_steps_own_option_wins_over_the_jobs() {
    let site = Site::start();
    site.configure(json!({"rules": [{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]}));
    let who = "/bin/bash -c 'echo $0=$GCP_WIF_SERVICE_ACCOUNT'";
    let steps = format!(
        "#!/bin/bash\nsrun {who} plain\nsrun --gcp-wif {who} with\nsrun --no-gcp-wif {who} without\n\
         srun --gcp-wif-service-account={OTHER_ACCOUNT} {who} other\nsrun --export=NONE {who} none\n\
         srun --export=NONE --no-gcp-wif {who} bare\n"
    );
    let other = format!("--gcp-wif-service-account={OTHER_ACCOUNT}");
    let (none, site_account) = ("", SERVICE_ACCOUNT);
    for (options, expected) in [
        (&[][..], [none, site_account, none, OTHER_ACCOUNT, none, none]),
        (&["--gcp-wif"], [site_account, site_account, none, OTHER_ACCOUNT, site_account, none]),
        (&["--no-gcp-wif"], [none, site_account, none, OTHER_ACCOUNT, none, none]),
        (&[other.as_str()], [OTHER_ACCOUNT, OTHER_ACCOUNT, none, OTHER_ACCOUNT, OTHER_ACCOUNT, none]),
    ] {
        let (state, output) = site.cluster.run_batch("alice", &steps, options);
        let names = ["plain", "with", "without", "other", "none", "bare"];
        let lines: Vec<String> = names.iter().zip(expected).map(|(name, who)| format!("{name}={who}")).collect();
        // Newer releases say when they created a step.
        let output: Vec<&str> = output.lines().filter(|line| !line.starts_with("srun: ")).collect();
        assert_eq!((state, output), (JobState::Completed, lines.iter().map(String::as_str).collect()), "{options:?}");
    }
    site.finish();
}

#[test]
fn a_users_own_variables_are_kept_under_auto_and_replaced_on_request() {
    let site = Site::start();
    site.configure(json!({"project": "site-project", "auto": true}));
    let run = |options: &[&str]| -> Run {
        let words = ["srun"].into_iter().chain(options.iter().copied()).chain(["env"]);
        site.cluster
            .as_user("alice")
            .command(words)
            .env("GOOGLE_APPLICATION_CREDENTIALS", "/home/alice/key.json")
            .env("GOOGLE_CLOUD_PROJECT", "alices-project")
            .env("GOOGLE_OAUTH_ACCESS_TOKEN", "alices-token")
            .run()
            .ok()
    };
    for (options, credentials, token) in [
        (&[][..], "/home/alice/key.json", true),
        (&["--gcp-wif"], "/run/gcp-wif/jobs/", false),
        (&["--no-gcp-wif"], "/home/alice/key.json", true),
    ] {
        let environment = run(options).stdout;
        assert!(
            environment.contains(&format!("\nGOOGLE_APPLICATION_CREDENTIALS={credentials}")),
            "{options:?}: {environment}"
        );
        assert!(environment.contains("GOOGLE_CLOUD_PROJECT=alices-project\n"), "{options:?}: {environment}");
        assert_eq!(
            environment.contains("GOOGLE_OAUTH_ACCESS_TOKEN=alices-token\n"),
            token,
            "{options:?}: {environment}"
        );
        assert_eq!(
            environment.contains("GCLOUD_PROJECT=site-project\n"),
            !options.contains(&"--no-gcp-wif"),
            "{options:?}"
        );
    }
    site.finish();
}

#[test]
fn a_job_submitted_from_inside_a_job_stores_no_token() {
    let site = Site::start();
    let inner = "sbatch --parsable --hold --export=ALL,CANARY=cafe-and-cake -o inner-%j.out";
    let script = format!(
        "#!/bin/bash\n#SBATCH --gcp-wif\n\
         printf '#!/bin/bash\\n{}\\n' >inner.sh\n\
         {inner} inner.sh >ids\n{inner} --no-gcp-wif inner.sh >>ids\n\
         srun -Q {inner} inner.sh >>ids\n",
        "echo who=$GCP_WIF_SERVICE_ACCOUNT token=${GOOGLE_OAUTH_ACCESS_TOKEN:+yes} file=$GCP_WIF_ACCESS_TOKEN_FILE"
    );
    let (state, output) = site.cluster.run_batch("alice", &script, &["--export=ALL,GOOGLE_CLOUD_PROJECT=mine"]);
    assert_eq!(state, JobState::Completed, "{output}");
    let ids = fs::read_to_string(site.cluster.home("alice").join("ids")).unwrap();
    let ids: Vec<&str> = ids.split_whitespace().collect();
    assert_eq!(ids.len(), 3, "{ids:?} {output}");

    // The state of the inner jobs is on slurmctld's disk now, with their environment.
    let of_inner =
        |path: &PathBuf| ids.iter().any(|id| path.parent().is_some_and(|p| p.ends_with(format!("job.{id}"))));
    let state: Vec<PathBuf> = environments(&site.cluster.dir().join("state")).into_iter().filter(of_inner).collect();
    assert_eq!(state.len(), 3, "{state:?}");
    for file in &state {
        let environment = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
        assert!(environment.contains("CANARY=cafe-and-cake"), "{}", file.display());
        assert!(environment.contains("GOOGLE_CLOUD_PROJECT=mine"), "the user's own variable went");
        for name in ["GOOGLE_OAUTH", "GOOGLE_APPLICATION", "CLOUDSDK", "GCP_WIF_"] {
            assert!(!environment.contains(name), "{name} is in {}", file.display());
        }
    }
    site.cluster.assert_nowhere(&site.google.tokens());

    for id in &ids {
        site.cluster.as_user("root").command(["scontrol", "release", id]).run().ok();
    }
    for (id, who) in ids.iter().zip([SERVICE_ACCOUNT, "", SERVICE_ACCOUNT]) {
        assert_eq!(site.cluster.wait_job(id), JobState::Completed);
        let output = site.cluster.job_output(id);
        let (token, file) =
            if who.is_empty() { ("", String::new()) } else { ("yes", format!("/run/gcp-wif/jobs/{id}/access_token")) };
        assert_eq!(output, format!("who={who} token={token} file={file}\n"), "job {id}");
    }
    site.finish();
}

/// The files in which slurmctld keeps the environments of batch jobs.
fn environments(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(environments(&path)),
            path if path.file_name().is_some_and(|name| name == "environment") => found.push(path),
            _ => {}
        }
    }
    found
}

#[test]
fn an_allocation_of_srun_inside_a_job_is_a_separate_job() {
    let site = Site::start();
    let line = format!(
        "srun --gcp-wif bash -c 'env -u SLURM_JOB_ID -u SLURM_JOBID srun -w n2 --gcp-wif bash -c {}'",
        quoted_twice(&site.list())
    );
    let run = site.cluster.as_user("alice").shell(&line).run().ok();
    assert!(run.stdout.contains(OBJECT), "{}{}", run.stdout, run.stderr);
    site.finish();
}

/// A word for a shell within single quotes of another.
fn quoted_twice(text: &str) -> String {
    format!("'\\''{}'\\''", text.replace('\'', "'\\''\\'\\'''\\''"))
}
