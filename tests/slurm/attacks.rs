//! What a user of a shared node might try. Each test is named after the attack that it repels. docs/security.md says
//! where each attack is known from.

mod answers;
mod forged;
mod processes;
mod trees;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{ALICE, JobState, Node, Plugin, Settings, command_path, set_mode, set_owner, wait_until};
use crate::google::{Endpoint, Fault, SERVICE_ACCOUNT, Times};
use crate::site::{OBJECT, OTHER_ACCOUNT, Site, names};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn planted_links() {
    let site = Site::start();
    site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    let jobs = site.cluster.node(1).run_dir().join("gcp-wif/jobs");
    let outside = site.cluster.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("access_token"), "precious").unwrap();
    // Everyone can predict the next job's number.
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
        // Set by hand, which bypasses srun's checks: the node receives text that a user chose.
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
    let node = site.cluster.node(1);
    let second = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", WAIT]).spawn();
    wait_until(LIMIT, || second.stdout().ends_with('\n'));
    // Only root could plant it there.
    symlink(node.job_dir(&id), node.job_dir(second.stdout().trim()).join("first")).unwrap();
    site.cluster.as_user("root").command(["scancel", second.stdout().trim()]).run().ok();
    drop(second);
    wait_until(LIMIT, || names(&node.run_dir().join("gcp-wif/jobs")).len() == 1);
    assert!(node.job_dir(&id).join("access_token").exists());
    site.cancel(first);
    site.finish();
}

/// A job that tells its number and waits.
const WAIT: &str = "echo $SLURM_JOB_ID; sleep 300";

#[test]
fn failures_provoked() {
    type Break = fn(&Site);
    let faults: [(&str, Break); 3] = [
        ("Google refuses", |site| site.google.inject(Endpoint::Sts, Fault::status(403), Times::Forever)),
        ("no rule", |site| site.configure(json!({"rules": [{"users": ["bob"]}]}))),
        ("a broken configuration", |site| site.configure(json!({"rules": true}))),
    ];
    for plugin in [Plugin::Optional, Plugin::Required] {
        let site = Site::with(Settings::with(plugin));
        for (fault, provoke) in faults {
            provoke(&site);
            let alice = site.cluster.as_user("alice");
            let array = site.cluster.batch("alice", "#!/bin/bash\n#SBATCH --gcp-wif --array=1-4\necho ran\n", &[]);
            let line = "srun true; srun --gcp-wif true; srun --no-gcp-wif true";
            alice.command(["salloc", "-Q", "-N2", "--gcp-wif", "bash", "-c", line]).run();
            let run = alice.shell("srun --gcp-wif echo ran : --gcp-wif echo ran").run();
            assert!(run.status == 1 && run.stdout.is_empty(), "{fault}: {} {}", run.status, run.stdout);
            let run = alice.command(["srun", "-N2", "-n8", "--gcp-wif", "echo", "ran"]).run();
            assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{fault}: {}", run.stderr);
            assert_eq!(site.cluster.wait_job(&array), JobState::Failed, "{fault}");
            site.cluster.assert_healthy();
        }
        site.finish();
    }
}

#[test]
fn oversized_input() {
    let site = Site::start();
    // ci/cluster takes no longer ones; those of a mebibyte are in forged.rs.
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
        ("LD_LIBRARY_PATH", "/nonexistent"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent"),
        ("GOOGLE_API_USE_CLIENT_CERTIFICATE", "true"),
        ("GCP_WIF_AGENT_SOCKETS", "22:0,80:1"),
        ("NO_PROXY", "*"),
        ("SLURM_NODENAME", "../../n2"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
    ] {
        command = command.env(name, value);
    }
    for delivery in ["direct", "agent"] {
        site.configure(json!({"delivery": delivery, "command": command_path()}));
        let run = command.clone().run().ok();
        assert!(run.stdout.contains(OBJECT), "{delivery}: {}", run.stderr);
    }
    site.finish();
}

/// Starts slurmd of a node anew, with these variables in its environment.
#[track_caller]
fn restart_with(site: &Site, node: &Node, variables: &[(&str, &str)]) {
    let log = site.cluster.dir().join("log").join(node.name()).display().to_string();
    let line = format!(
        "pid=$(cat {log}.pid); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.05; done; \
         PATH=$PATH:/usr/sbin:/sbin setsid slurmd -N {} </dev/null >>{log}.err 2>&1",
        node.name()
    );
    let mut command = node.command(["bash", "-c", &line]);
    for (name, value) in variables {
        command = command.env(name, value);
    }
    command.run().ok();
    let try_it = || site.cluster.as_user("alice").command(["srun", "-w", &node.name(), "true"]).run();
    wait_until(LIMIT, || try_it().status == 0);
}

#[test]
fn hostile_variables_of_the_daemons() {
    let site = Site::start();
    let node = site.cluster.node(1);
    let nowhere = "http://127.0.0.1:1";
    let mut variables = vec![
        ("SSL_CERT_FILE", "/dev/null"),
        ("SSL_CERT_DIR", "/dev/null"),
        ("HOME", "/nonexistent"),
        ("TMPDIR", "/nonexistent"),
        ("RUST_LOG", "trace"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent"),
        ("GCE_METADATA_HOST", "127.0.0.1:1"),
        ("GCP_WIF_AGENT_SOCKETS", "22:0,80:1"),
    ];
    variables.extend(
        ["https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
            .map(|name| (name, nowhere)),
    );
    restart_with(&site, &node, &variables);
    for delivery in ["direct", "agent"] {
        site.configure(json!({"delivery": delivery, "command": command_path()}));
        site.forget();
        let line = format!("unset http_proxy all_proxy ALL_PROXY; {}", site.list());
        // The prolog's environment is made by slurmd. That of a step's slurmstepd, which asks here, is slurmd's own.
        let words = ["salloc", "-Q", "-w", "n1", "bash", "-c", "srun true; srun --gcp-wif bash -c \"$LINE\""];
        let run = site.cluster.as_user("alice").command(words).env("LINE", &line).run().ok();
        assert!(run.stdout.contains(OBJECT), "{delivery}: {}", run.stderr);
    }
    site.finish();
}

#[test]
fn commands_in_a_users_files() {
    let site = Site::start();
    let home = site.cluster.home("alice");
    let touch = format!("$(touch {0}/ran)`touch {0}/ran`", home.display());
    let own = home.join("$(touch ran)");
    for directory in ["hooks.d", "mounts.d", "environ.d"] {
        fs::create_dir_all(own.join(directory)).unwrap();
    }
    let line = format!("machine nvcr.io login a password {touch}\n");
    fs::write(own.join(".credentials"), &line).unwrap();
    fs::write(own.join("mounts.d/$(touch ran).fstab"), format!("{touch} {touch} none bind 0 -1\n")).unwrap();
    fs::write(own.join("environ.d/$(touch ran).env"), format!("A={touch}\n")).unwrap();
    fs::write(own.join("hooks.d/$(touch ran).sh"), "#!/bin/sh\n").unwrap();
    let show = "cat $ENROOT_CONFIG_PATH/.credentials; find $ENROOT_CONFIG_PATH -type l -printf '%f\n'";
    let command = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", show]);
    let run = command.env("ENROOT_CONFIG_PATH", &own.display().to_string()).env("XDG_CONFIG_HOME", &touch).run().ok();
    assert!(run.stdout.starts_with(&line), "{}", run.stdout);
    assert_eq!(run.stdout.matches("\n$(touch ran).").count(), 3, "{}", run.stdout);
    let look = format!("ls {}/ran /ran /run/ran 2>/dev/null; true", home.display());
    assert_eq!(site.cluster.node(1).command(["sh", "-c", &look]).run().ok().stdout, "");
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
    // The environment of slurmstepd, a root process that other users may look at.
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
    // Short lines, because longer lines of steps that print at the same time arrive in pieces.
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

#[test]
fn a_configuration_that_others_can_write() {
    let site = Site::start();
    let path = site.cluster.node(1).config_path();
    type Spoil = fn(&std::path::Path);
    let spoils: [(&str, Spoil); 3] = [
        ("must be owned by root", |path| set_owner(path, ALICE)),
        ("lets group or others write", |path| set_mode(path, 0o664)),
        ("lets group or others write", |path| set_mode(path, 0o646)),
    ];
    for (why, spoil) in spoils {
        site.configure(json!({"auto": true}));
        spoil(&path);
        let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "echo", "ran"]).run();
        assert_eq!((run.status, run.stdout.as_str()), (1, ""), "{why}: {}", run.stderr);
        assert!(run.stderr.contains(why), "{why}: {}", run.stderr);
    }
    site.finish();
}
