//! Steps that come to a job without its environment, and whose options count then.

use serde_json::json;

use super::job::Job;
use super::{LIMIT, site};
use crate::cluster::{JobState, Settings, wait_until};
use crate::google::SERVICE_ACCOUNT;
use crate::site::{OBJECT, OTHER_ACCOUNT, Site};

/// The same without the job's environment, but for what srun cannot do without.
const ALONE: &str = "env -i SLURM_CONF=$SLURM_CONF PATH=$PATH SLURM_JOB_ID=$SLURM_JOB_ID /usr/bin/srun --overlap -w n1";
/// What a step tells.
const WHO: &str = "/bin/bash -c 'echo who=$GCP_WIF_SERVICE_ACCOUNT token=${GOOGLE_OAUTH_ACCESS_TOKEN:+yes}'";

#[test]
fn a_step_from_outside_has_what_its_batch_job_asked_for() {
    let site = site(json!({}), None);
    let script = "#!/bin/bash\n#SBATCH --gcp-wif -w n1\ntouch ready\nsleep 300\n";
    let job = Job::of(&site, &site.cluster.batch("alice", script, &[]));
    wait_until(LIMIT, || site.cluster.home("alice").join("ready").exists());
    let run = job.step(&site, &["bash", "-c", &site.list()]).run();
    assert!(run.status == 0 && run.stdout.contains(OBJECT), "{}{}", run.stdout, run.stderr);
    // Its own option counts for more.
    let run = job.step(&site, &["--no-gcp-wif", "env"]).run().ok();
    assert!(!run.stdout.contains("GOOGLE_") && !run.stdout.contains("GCP_WIF_"), "{}", run.stdout);
    site.cluster.as_user("root").command(["scancel", &job.id]).run().ok();
    assert_eq!(site.cluster.wait_job(&job.id), JobState::Cancelled);
    site.finish();
}

/// A site with `PrologFlags=Alloc`, as many have, and one without. There the prolog runs with the first step, and what
/// it sees are the options of that step and of the job together (22.05), and of a step from outside its own alone.
fn sites() -> [Site; 2] {
    let rules = json!({"rules": [{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]});
    [Settings::default().conf("PrologFlags=Alloc"), Settings::default()].map(|settings| {
        let site = Site::with(settings);
        site.configure(rules.clone());
        site
    })
}

/// What alice's steps tell within an allocation with these options; `OUTSIDE` starts one from a shell of another login.
#[track_caller]
fn within(site: &Site, options: &[&str], line: &str) -> Vec<String> {
    let outside = "env -i SLURM_CONF=$SLURM_CONF PATH=$PATH /usr/bin/srun --overlap -w n1 --jobid=$SLURM_JOB_ID";
    let line = line.replace("OUTSIDE", outside).replace("ALONE", ALONE).replace("WHO", WHO);
    let words = ["salloc", "-Q", "-w", "n1"].into_iter().chain(options.iter().copied());
    let run = site.cluster.as_user("alice").command(words.chain(["bash", "-c", &line])).run().ok();
    run.stdout.lines().map(str::to_owned).collect()
}

fn served(account: &str) -> String {
    format!("who={account} token=yes")
}

const NONE: &str = "who= token=";

#[test]
fn a_step_from_outside_has_what_its_allocation_asked_for() {
    let [alloc, plain] = sites();
    let other = format!("--gcp-wif-service-account={OTHER_ACCOUNT}");
    for (site, option, account, first) in [
        (&alloc, "--gcp-wif", SERVICE_ACCOUNT, "OUTSIDE true"),
        (&alloc, "--gcp-wif", SERVICE_ACCOUNT, "srun --no-gcp-wif true"),
        (&alloc, &other, OTHER_ACCOUNT, "srun --gcp-wif true"),
        (&plain, "--gcp-wif", SERVICE_ACCOUNT, "srun true"),
        (&plain, "--gcp-wif", SERVICE_ACCOUNT, "srun --no-gcp-wif true"),
        (&plain, &other, OTHER_ACCOUNT, "srun true"),
    ] {
        let told = within(site, &[option], &format!("{first}; OUTSIDE WHO; OUTSIDE --no-gcp-wif WHO"));
        assert_eq!(told, [served(account), NONE.to_owned()], "{option} {first}");
    }
    alloc.finish();
    plain.finish();
}

#[test]
fn a_step_with_an_empty_environment_has_what_its_job_asked_for() {
    for site in sites() {
        assert_eq!(within(&site, &["--gcp-wif"], "srun true; ALONE WHO"), [served(SERVICE_ACCOUNT)]);
        let script = format!("#!/bin/bash\n#SBATCH --gcp-wif -w n1\n{ALONE} {WHO}\n");
        let (state, output) = site.cluster.run_batch("alice", &script, &[]);
        assert_eq!((state, output.trim()), (JobState::Completed, &*served(SERVICE_ACCOUNT)));
        site.finish();
    }
}

#[test]
fn what_a_step_asks_for_does_not_apply_to_its_job() {
    for site in sites() {
        let other = format!("srun --gcp-wif-service-account={OTHER_ACCOUNT} WHO; srun WHO; ALONE WHO; OUTSIDE WHO");
        for (options, line, expected) in [
            (
                &[][..],
                "srun --gcp-wif WHO; srun WHO; ALONE WHO; OUTSIDE WHO",
                [&*served(SERVICE_ACCOUNT), NONE, NONE, NONE],
            ),
            (&[], &other, [&*served(OTHER_ACCOUNT), NONE, NONE, NONE]),
        ] {
            assert_eq!(within(&site, options, line), expected, "{options:?} {line}");
        }
        site.finish();
    }
}

#[test]
fn what_a_step_refuses_is_not_refused_for_its_job() {
    for site in sites() {
        let told = within(&site, &["--gcp-wif"], "srun --no-gcp-wif WHO; srun WHO");
        assert_eq!(told, [NONE.to_owned(), served(SERVICE_ACCOUNT)]);
        site.finish();
    }
}
