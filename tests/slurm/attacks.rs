//! What a user of a shared node might try. Each test is named after the attack that it repels; the table says where
//! the attack is known from.
//!
//! | attack | known from | repelled by |
//! |---|---|---|
//! | a file or link planted where root writes | CVE-2023-41914, CVE-2025-6020 | held directories, `O_NOFOLLOW`, owner and mode checked: [`planted_links`], `failures::node::runtime_directory` |
//! | a path in a name | sudo-rs CVE-2023-42456 | numbers and checked emails only: [`paths_in_names`], `requests` |
//! | a clean-up that removes another job's files | deepops#728 | one directory for each job: [`clean_up_of_one_job`] |
//! | failures provoked to drain nodes | CVE-2016-10030 | no hook returns an error: `failures`, [`failures_provoked`] |
//! | oversized options and variables | CVE-2026-65108 | lengths checked first: [`oversized_input`] |
//! | variables that steer root's code | CVE-2021-31215, CVE-2025-23266 | root reads no variable of the user: [`hostile_variables`] |
//! | a secret in an argument or an environment of root's | CVE-2020-27746 | tokens go through pipes and files: [`secrets_while_an_exchange_runs`] |
//! | a secret in a log | QRMI, Slurm's own TaskProlog | type `Secret`; every test searches the logs at debug5: `Site::finish` |
//! | terminal and log injection | sudo CVE-2023-28486 | foreign text is escaped and clipped: [`escape_sequences`] |
//! | a token stored with a nested job | slurm.conf(5), job_env | `requests::a_job_submitted_from_inside_a_job_stores_no_token` |
//! | a forged account or partition | SPANK has no item for them | facts of the signed credential only: [`forged_account_and_partition`] |
//! | a hostile STS: redirects, endless and slow answers | google-auth's warning on configurations | none is followed or waited for: `failures::google::token_exchange` |
//! | quota used up by many steps | EKS, SPIRE limits | one exchange for a job and node: `jobs::many_steps_at_once_make_one_exchange` |
//! | tokens of two identities mixed up | cache keys without the identity | records by identity: [`two_identities_at_once`] |
//! | a configuration that others can write | CVE-2010-3380 | refused: `failures::node::site_configuration` |
//! | another user's token at a loopback port | kube2iam#17, rolesanywhere serve | the kernel's record of the caller, before anything is read: `agent::callers` |
//! | a page in a browser that asks a metadata port | DNS rebinding, GCE's design | headers and host checked, no CORS: `agent::callers::another_user_is_not_answered` |
//! | an agent read by its users: /proc, ptrace, sockets, logs | CVE-2020-27746 | root's alone: `agent::callers::files_and_processes_are_closed_to_users` |
//! | a port taken over when its agent dies | handles are sent to it | the watcher keeps the socket, a handle is nothing to others: `agent::callers::a_dead_agents_port_is_kept_or_of_no_use` |
//! | an agent starved by connections | slow loris | strangers cost nothing, users have shares: `agent::callers::a_crowd_does_not_keep_a_job_from_its_token` |
//! | an exchange that hangs | sybil | deadlines, and the epilog ends it: `kills` |
//! | an identity that changes with a refresh | two decisions about one job | a grant is remembered and repeated: `refresh::identity::rules_that_are_written_later_end_a_jobs_refresh_and_do_not_change_who_it_is` |
//! | a refresh that writes into the next run of its job | `scontrol requeue` | each run has a number of its own: `refresh::slow::a_refresh_of_a_jobs_earlier_run_changes_nothing_of_the_later_one` |
//! | every port hoarded | `bind(2)` | ports that only root can bind come first: `agent::ports::a_user_who_takes_all_ports_keeps_nobody_from_credentials` |
//! | a file grown to fill root's memory | CVE-2018-16864 | what root reads is root's: `published::a_user_cannot_make_the_agent_read_more_than_it_wrote` |
//! | a file grown to fill the runtime directory | logind.conf(5), RuntimeDirectorySize | the file is emptied, and the processes that have it open are killed: `published::a_user_who_fills_the_runtime_directory_keeps_no_other_user_from_credentials` |
//! | a runtime directory filled by enroot's files | logind.conf(5), RuntimeDirectoryInodesMax | limits for each step: `containers::users::twenty_steps_of_one_user_take_a_small_share_of_the_runtime_directory_whatever_he_has` |
//! | `.credentials` linked to /proc | file inclusion of /proc/self/environ | only files of real file systems are read: `containers::users::what_is_of_the_kernel_and_of_no_file_system_is_not_copied` |
//! | functions exported into a shell of root's | CVE-2014-6271 | no shell is run: `containers::system::no_function_of_the_users_runs_at_a_steps_start_and_none_leaves_a_process` |
//! | an agent that is stopped or hangs | SIGSTOP, cgroups(7) | a heartbeat, and the next step replaces both processes: `agent::trouble` |
//! | a setuid process named after a job's step | `exec -a`, su(1) | the real user of a process counts: `published::what_a_crash_left_is_swept_though_a_user_calls_a_process_after_the_jobs_steps` |
//! | a home that never answers | FUSE, hard NFS mounts | whoever waits for it is left behind, without a lock: `containers::users::a_home_that_never_answers_keeps_no_job_from_its_refresh_and_its_next_step` |

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{JobState, wait_until};
use crate::google::{Endpoint, Fault, SERVICE_ACCOUNT, Times};
use crate::site::{OBJECT, OTHER_ACCOUNT, Site, names};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn each_test_that_the_table_names_is_there() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm");
    let here = include_str!("attacks.rs");
    let rows = here.lines().filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix(" |")?.rsplit_once(" | "));
    let mut count = 0;
    // The head has two lines.
    let cells = rows.skip(2).filter_map(|(_, last)| last.rsplit(": ").next());
    for name in cells.flat_map(|names| names.split(", ")) {
        let name = name.trim_matches(['[', ']', '`']);
        // A module, a test of a module, or a test of this file.
        let test = name.rsplit("::").next().unwrap();
        let file = |name: &str| fs::read_to_string(directory.join(name.replace("::", "/") + ".rs"));
        let source = match name.rsplit_once("::") {
            Some((module, _)) => file(module).ok(),
            None => Some(here.to_owned()),
        };
        let is_test = source.is_some_and(|source| source.contains(&format!("\nfn {test}() {{")));
        assert!(is_test || name == "Site::finish" || file(name).is_ok(), "there is no test {name}");
        count += 1;
    }
    assert!(count > 30, "{count}");
}

#[test]
fn planted_links() {
    let site = Site::start();
    site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    let jobs = site.cluster.node(1).run_dir().join("gcp-wif/jobs");
    let outside = site.cluster.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("access_token"), "precious").unwrap();
    // The next job's number is known to everyone.
    symlink(&outside, jobs.join("2")).unwrap();
    site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    assert_eq!(fs::read_to_string(outside.join("access_token")).unwrap(), "precious");
    site.finish();
}

#[test]
fn paths_in_names() {
    let site = Site::start();
    site.configure(json!({"rules": [{"allow": [OTHER_ACCOUNT]}]}));
    for email in ["../../../../etc/x@p.iam.gserviceaccount.com", "a@../../x.iam.gserviceaccount.com", ".."] {
        // By hand, past the checks of srun: what the node receives is a user's text.
        let name = "_SLURM_SPANK_OPTION_gcp_wif_gcp_wif_service_account";
        let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "echo", "ran"]).env(name, email).run();
        assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{email}");
        assert!(run.stderr.contains("gcp-wif: option: "), "{email}: {}", run.stderr);
    }
    site.finish();
}

#[test]
fn clean_up_of_one_job() {
    let site = Site::start();
    let (first, id) = site.running_job();
    site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    let node = site.cluster.node(1);
    wait_until(LIMIT, || names(&node.run_dir().join("gcp-wif/jobs")).len() == 1);
    assert!(node.job_dir(&id).join("access_token").exists());
    site.cancel(first);
    site.finish();
}

#[test]
fn failures_provoked() {
    let site = Site::start();
    site.google.inject(Endpoint::Sts, Fault::status(403), Times::Forever);
    let alice = site.cluster.as_user("alice");
    let array = site.cluster.batch("alice", "#!/bin/bash\n#SBATCH --gcp-wif --array=1-8\necho ran\n", &[]);
    alice
        .command([
            "salloc",
            "-Q",
            "-N2",
            "--gcp-wif",
            "bash",
            "-c",
            "srun true; srun --gcp-wif true; srun --no-gcp-wif true",
        ])
        .run();
    alice.shell("srun --gcp-wif true : --gcp-wif true").run();
    assert_eq!(site.cluster.wait_job(&array), JobState::Failed);
    site.finish();
}

#[test]
fn oversized_input() {
    let site = Site::start();
    let long = "x".repeat(100_000);
    let alice = site.cluster.as_user("alice");
    let option = "_SLURM_SPANK_OPTION_gcp_wif_gcp_wif_service_account";
    let run = alice.command(["srun", "-w", "n1", "echo", "ran"]).env(option, &long).run();
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
    assert!(run.stderr.len() < 2000, "{} bytes", run.stderr.len());
    let run = alice
        .command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()])
        .env("GCP_WIF_VARIABLES", &long)
        .env("GOOGLE_APPLICATION_CREDENTIALS", &long)
        .env("GOOGLE_OAUTH_ACCESS_TOKEN", &format!("{}:{}", long, ",".repeat(10_000)))
        .run()
        .ok();
    assert!(run.stdout.contains(OBJECT), "{}", run.stderr);
    site.finish();
}

#[test]
fn hostile_variables() {
    let site = Site::start();
    let nowhere = "http://127.0.0.1:1";
    let mut command = site.cluster.as_user("alice").command([
        "srun",
        "-w",
        "n1",
        "--gcp-wif",
        "bash",
        "-c",
        &format!("unset http_proxy all_proxy ALL_PROXY; {}", site.list()),
    ]);
    for name in
        ["https_proxy", "HTTPS_PROXY", "http_proxy", "all_proxy", "ALL_PROXY", "SPANK_https_proxy", "SPANK_HTTP_PROXY"]
    {
        command = command.env(name, nowhere);
    }
    for (name, value) in [
        ("SSL_CERT_FILE", "/dev/null"),
        ("SSL_CERT_DIR", "/dev/null"),
        ("HOME", "/nonexistent"),
        ("TMPDIR", "/nonexistent"),
        ("RUST_LOG", "trace"),
        ("RUST_BACKTRACE", "full"),
        ("SPANK_RUST_LOG", "trace"),
        ("SPANK_LD_PRELOAD", "/tmp/none.so"),
        ("SPANK_SLURM_JOB_ACCOUNT", "admin"),
        ("GCE_METADATA_HOST", "127.0.0.1:1"),
    ] {
        command = command.env(name, value);
    }
    assert!(command.run().ok().stdout.contains(OBJECT));
    site.finish();
}

#[test]
fn secrets_while_an_exchange_runs() {
    let site = Site::start();
    for endpoint in [Endpoint::Sts, Endpoint::Impersonation] {
        site.google.inject(endpoint, Fault::Delay(Duration::from_secs(1)), Times::Once);
        let mut run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "sleep", "1"]).spawn();
        let mut looks = 0;
        wait_until(LIMIT, || {
            site.cluster.assert_nowhere(&site.google.tokens());
            looks += 1;
            !run.is_running()
        });
        assert!(looks > 3, "the exchange was over too soon to look");
    }
    // A process of root's that other users may look at: the environment of slurmstepd.
    let line = "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep -c ya29. || true";
    let (job, _) = site.running_job();
    let seen = site.cluster.node(1).as_user("bob").shell(line).run();
    assert_eq!(seen.stdout, "0\n", "{}", seen.stderr);
    site.cancel(job);
    site.finish();
}

#[test]
fn escape_sequences() {
    let site = Site::start();
    let hostile = "{\"error\":\"invalid_grant\",\"error_description\":\"\\u001b]0;owned\\u0007\\n\\r\\u202e[2J\"}";
    site.google.inject(
        Endpoint::Sts,
        Fault::Answer { status: 400, content_type: "application/json".to_owned(), body: hostile.into() },
        Times::Forever,
    );
    let run = site
        .cluster
        .as_user("alice")
        .command(["srun", "-w", "n1", "-J", "a\nb\u{1b}[2J", "--gcp-wif", "true"])
        .run()
        .expect_status(1);
    let line = run.stderr.lines().find(|line| line.starts_with("gcp-wif")).unwrap_or_else(|| panic!("{}", run.stderr));
    assert!(line.contains("\\u{1b}]0;owned\\u{7}\\n\\r\\u{202e}[2J"), "{line}");
    let log = site.cluster.node(1).log();
    let issuance = log.lines().find(|line| line.contains("outcome=failed")).unwrap();
    assert!(!issuance.contains('\u{1b}') && !issuance.contains('\u{202e}'), "{issuance}");
    site.finish();
}

#[test]
fn forged_account_and_partition() {
    let site = Site::start();
    site.configure(
        json!({"rules": [{"accounts": ["admin"]}, {"partitions": ["gpu"], "service_account": OTHER_ACCOUNT}]}),
    );
    let alice = site.cluster.as_user("alice");
    let forged = ["SLURM_JOB_ACCOUNT", "SPANK_SLURM_JOB_ACCOUNT", "SLURM_SPANK_SLURM_JOB_ACCOUNT"];
    let mut command = alice.command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]);
    for name in forged {
        command = command.env(name, "admin");
    }
    let run = command.env("SLURM_JOB_PARTITION", "gpu").env("SPANK_SLURM_JOB_PARTITION", "gpu").run();
    assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{}", run.stderr);
    assert!(run.stderr.contains("gcp-wif: rules: no rule gives user alice"), "{}", run.stderr);

    let script = "#!/bin/bash\nexport SLURM_JOB_ACCOUNT=admin SLURM_JOB_PARTITION=gpu\nsrun --gcp-wif echo ran\n";
    let (_, output) = site.cluster.run_batch("alice", script, &[]);
    assert!(!output.contains("ran"), "{output}");

    for (options, who) in [(["-A", "admin"], SERVICE_ACCOUNT), (["-p", "gpu"], OTHER_ACCOUNT)] {
        let script = "#!/bin/bash\nsrun --gcp-wif bash -c 'echo $GCP_WIF_SERVICE_ACCOUNT'\n";
        let (state, output) = site.cluster.run_batch("alice", script, &options);
        assert_eq!((state, output.trim()), (JobState::Completed, who), "{options:?}");
    }
    site.finish();
}

#[test]
fn two_identities_at_once() {
    let site = Site::start();
    site.configure(json!({"rules": [{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]}));
    // Short lines: longer ones of steps that print at the same time come in pieces.
    let show = "bash -c 'echo $0 $GCP_WIF_SERVICE_ACCOUNT $(printf %s \"$GOOGLE_OAUTH_ACCESS_TOKEN\" | cksum) \
                $(cksum <$GCP_WIF_ACCESS_TOKEN_FILE)'";
    let line = format!(
        "for i in $(seq 8); do srun -Q -n1 --overlap --gcp-wif {show} {SERVICE_ACCOUNT} & \
         srun -Q -n1 --overlap --gcp-wif-service-account={OTHER_ACCOUNT} {show} {OTHER_ACCOUNT} & done; wait"
    );
    let run = site.cluster.as_user("alice").command(["salloc", "-Q", "-w", "n1", "bash", "-c", &line]).run().ok();
    let lines: Vec<Vec<&str>> = run.stdout.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), 16, "{}{}", run.stdout, run.stderr);
    let mut tokens = Vec::new();
    for words in &lines {
        assert_eq!((words[0], words[2]), (words[1], words[4]), "{words:?}");
        tokens.push((words[0], words[2]));
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 2, "each identity has one token: {tokens:?}");
    assert_eq!(site.google.requests_to(Endpoint::Sts).len(), 2);
    site.finish();
}
