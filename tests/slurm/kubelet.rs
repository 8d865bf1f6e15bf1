//! The subject token as the kubelet provides it: in a projected volume that it rotates and may mount late, with tokens
//! that have many claims.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{JobState, command_path, wait_until};
use crate::golden::Golden;
use crate::google::{Claims, Endpoint};
use crate::site::{OBJECT, Site, names};

const LIMIT: Duration = Duration::from_secs(60);
/// How long after the job's start the volume appears.
const LATE: Duration = Duration::from_secs(1);
/// How often the volume is rotated in all, at least.
const ROTATIONS: usize = 200;

/// A site whose subject token only root can read, as with `defaultMode: 0400`.
fn site(keys: Value) -> Site {
    let mut site = Site::start();
    let mut config = json!({"delivery": "agent", "command": command_path()});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    site.configure(config);
    site.mount_tokens(0o400, &site.google.subject_token(&Claims::default()));
    site
}

#[test]
fn a_token_of_mode_0400_is_roots_alone_and_serves_jobs_under_the_agent() {
    let site = site(json!({}));
    let line = format!("{}; cat /var/run/secrets/tokens/token", site.list());
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run();
    assert!(run.stdout.contains(OBJECT) && run.stderr.contains("token: Permission denied"), "{}", run.stderr);
    let doctor = site.cluster.node(1).command([command_path(), "doctor"]).run().ok();
    let says = |line: &str| line.starts_with("ok ") && line.contains(" mode ") && line.ends_with(" 0400");
    assert!(doctor.stdout.lines().any(says), "{}", doctor.stdout);
    site.finish();
}

#[test]
fn a_token_that_is_rotated_all_the_time_fails_no_job_and_no_refresh() {
    let site = site(json!({}));
    site.google.configure(|options| options.access_token_life = Some(4));
    let tokens: Vec<String> =
        (0..4).map(|n| site.google.subject_token(&Claims::default().with("jti", json!(n.to_string())))).collect();
    let is_done = AtomicBool::new(false);
    let rotations = std::thread::scope(|scope| {
        let rotating = scope.spawn(|| {
            let all = tokens.iter().cycle().take_while(|_| !is_done.load(Ordering::Relaxed));
            // Lets other processes run.
            all.inspect(|_| std::thread::sleep(Duration::from_millis(2))).map(|token| site.rotate(token)).count()
        });
        // A job whose tokens the agent renews meanwhile, and jobs that exchange tokens themselves.
        let (job, id) = site.running_job();
        for _ in 0..10 {
            site.forget();
            let run =
                site.cluster.as_user("bob").command(["srun", "-w", "n2", "--gcp-wif", "bash", "-c", &site.list()]);
            assert!(run.run().ok().stdout.contains(OBJECT));
        }
        let refreshes = || site.google.requests_to(Endpoint::Sts).len();
        let before = refreshes();
        wait_until(LIMIT, || refreshes() >= before + 3);
        let status = std::fs::read_to_string(site.cluster.node(1).job_dir(&id).join("status")).unwrap();
        assert!(status.starts_with("state=fresh\n"), "{status}");
        is_done.store(true, Ordering::Relaxed);
        site.cancel(job);
        rotating.join().unwrap()
    });
    assert!(rotations > ROTATIONS, "{rotations}");
    let log = std::fs::read_to_string(site.cluster.node(1).run_dir().join("gcp-wif/agent.log")).unwrap();
    assert!(!log.contains("outcome=failed") && !site.cluster.node(2).log().contains("outcome=failed"), "{log}");
    site.finish();
}

#[test]
fn a_volume_that_is_mounted_while_a_job_starts_is_waited_for() {
    let mut site = site(json!({}));
    site.unmount_tokens();
    let script = format!("#!/bin/bash\n{}\n", site.list());
    let job = site.cluster.batch("alice", &script, &["-w", "n1", "--gcp-wif"]);
    // A process waits for the token.
    let kept = site.cluster.node(1).run_dir().join("gcp-wif/tokens");
    wait_until(LIMIT, || !names(&kept).is_empty());
    std::thread::sleep(LATE);
    site.mount_tokens(0o400, &site.google.subject_token(&Claims::default()));
    let (state, output) = (site.cluster.wait_job(&job), site.cluster.job_output(&job));
    assert_eq!((state, output.matches(OBJECT).count()), (JobState::Completed, 1), "{output}");
    site.finish();
}

#[test]
fn without_a_volume_jobs_run_under_auto_and_an_explicit_one_says_why() {
    let mut site = site(json!({"auto": true}));
    site.unmount_tokens();
    let alice = site.cluster.as_user("alice");
    let script = "#!/bin/bash\necho ran\n";
    let jobs: Vec<String> = (0..4).map(|_| site.cluster.batch("alice", script, &["-w", "n1"])).collect();
    for job in jobs {
        assert_eq!(site.cluster.wait_job(&job), JobState::Completed);
        assert!(site.cluster.job_output(&job).ends_with("; the job runs without credentials\nran\n"));
    }
    let run = alice.command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().expect_status(1);
    let mut golden = Golden::new("volume");
    golden.add("no volume", run.stderr.lines().find(|line| line.starts_with("gcp-wif: ")).unwrap(), &site);
    golden.check();
    site.finish();
}

#[test]
fn tokens_with_many_claims_and_several_audiences_are_exchanged() {
    let site = site(json!({}));
    for bytes in [0, 1 << 10, 2 << 10, 3 << 10] {
        let audiences = json!(["https://kubernetes.default.svc", format!("https:{}", site.google.audience()), "vault"]);
        let claims = Claims::default().with("aud", audiences).with("groups", json!("x".repeat(bytes)));
        site.rotate(&site.google.subject_token(&claims));
        site.forget();
        let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()]);
        assert!(run.run().ok().stdout.contains(OBJECT), "{bytes}");
    }
    let doctor = site.cluster.node(1).command([command_path(), "doctor"]).run().ok();
    assert!(!doctor.stdout.contains("warning  subject token"), "{}", doctor.stdout);
    site.finish();
}
