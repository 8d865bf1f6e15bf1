//! One exchange for a user and identity on a node: which jobs share a token, which never do, and what the node keeps.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Node, Settings, command_path, wait_until};
use crate::google::{Endpoint, Fault, SERVICE_ACCOUNT, Times};
use crate::site::{OBJECT, OTHER_ACCOUNT, Site, names};

const LIMIT: Duration = Duration::from_secs(60);
/// How many jobs of one user start at once here.
const JOBS: usize = 50;
/// What a job prints about its token.
const TOKEN: &str = "echo token=$GOOGLE_OAUTH_ACCESS_TOKEN";

/// A site whose nodes have this many processors, as Slurm counts them.
fn site_of(cpus: u32) -> Site {
    Site::with(Settings { cpus: Some(cpus), ..Settings::default() })
}

/// The number of requests to Google for a token.
fn exchanges(site: &Site) -> usize {
    site.google.requests_to(Endpoint::Sts).len()
}

/// The token of one of this user's jobs on the first node.
#[track_caller]
fn token_of(site: &Site, user: &str, options: &[&str]) -> String {
    let words = ["srun", "-w", "n1"].into_iter().chain(options.iter().copied()).chain(["bash", "-c", TOKEN]);
    let run = site.cluster.as_user(user).command(words).run().ok();
    let token = run.stdout.trim().strip_prefix("token=").unwrap_or_default().to_owned();
    assert!(!token.is_empty(), "{}{}", run.stdout, run.stderr);
    token
}

/// The tokens that a node keeps, each in its own directory.
fn kept(node: &Node) -> Vec<PathBuf> {
    let directory = node.run_dir().join("gcp-wif/tokens");
    names(&directory).into_iter().map(|name| directory.join(name)).collect()
}

/// Changes a kept token.
#[track_caller]
fn change(path: &Path, change: impl FnOnce(&mut Value)) {
    let path = path.join("token");
    let mut value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(&path, value.to_string()).unwrap();
}

/// The lines of a node's log about issuances.
fn issuances(node: &Node) -> Vec<String> {
    node.log().lines().filter(|line| line.contains("gcp-wif: issuance ")).map(str::to_owned).collect()
}

#[test]
fn a_users_second_job_asks_google_nothing() {
    let site = Site::start();
    let tokens: BTreeSet<String> = (0..3).map(|_| token_of(&site, "alice", &["--gcp-wif"])).collect();
    assert_eq!((tokens.len(), exchanges(&site)), (1, 1));
    let lines = issuances(&site.cluster.node(1));
    let sources: Vec<usize> =
        ["source=google", "source=kept"].map(|source| lines.iter().filter(|line| line.contains(source)).count()).into();
    assert_eq!((lines.len(), sources), (3, vec![1, 2]), "{lines:#?}");
    // Another node has its own token.
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n2", "--gcp-wif", "true"]).run().ok();
    assert_eq!((run.stderr.as_str(), exchanges(&site)), ("", 2));
    site.finish();
}

#[test]
fn only_root_can_read_kept_tokens() {
    let site = Site::start();
    token_of(&site, "alice", &["--gcp-wif"]);
    let node = site.cluster.node(1);
    let kept = kept(&node);
    assert_eq!(kept.len(), 1);
    for (path, mode) in
        [(kept[0].parent().unwrap().to_owned(), 0o700), (kept[0].clone(), 0o700), (kept[0].join("token"), 0o600)]
    {
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, mode), "{}", path.display());
    }
    site.finish();
}

#[test]
fn jobs_of_one_user_that_start_at_once_make_one_exchange() {
    let site = site_of(u32::try_from(JOBS).unwrap());
    site.configure(json!({"delivery": "agent", "command": command_path()}));
    site.google.inject(Endpoint::Impersonation, Fault::Delay(Duration::from_millis(500)), Times::Once);
    let script = format!("#!/bin/bash\n#SBATCH --gcp-wif --array=1-{JOBS} -w n1 -o out --open-mode=append\n{TOKEN}\n");
    let job = site.cluster.batch("alice", &script, &[]);
    site.cluster.wait_job(&job);
    let output = fs::read_to_string(site.cluster.home("alice").join("out")).unwrap();
    let tokens: Vec<&str> = output.lines().filter(|line| line.starts_with("token=ya29.")).collect();
    let different: BTreeSet<&&str> = tokens.iter().collect();
    assert_eq!((tokens.len(), different.len(), exchanges(&site)), (JOBS, 1, 1), "{output}");
    site.finish();
}

#[test]
fn two_users_never_hold_the_same_token() {
    let site = site_of(40);
    let script = format!("#!/bin/bash\n#SBATCH --gcp-wif --array=1-20 -w n1 -o out --open-mode=append\n{TOKEN}\n");
    let jobs = ["alice", "bob"].map(|user| (user, site.cluster.batch(user, &script, &[])));
    let [alices, bobs] = jobs.map(|(user, job)| {
        site.cluster.wait_job(&job);
        let output = fs::read_to_string(site.cluster.home(user).join("out")).unwrap();
        output.lines().filter(|line| line.starts_with("token=ya29.")).map(str::to_owned).collect::<BTreeSet<_>>()
    });
    assert_eq!((alices.len(), bobs.len(), exchanges(&site)), (1, 1, 2));
    assert!(alices.is_disjoint(&bobs));

    // Not even if one user's kept token is at the path of the other's.
    let places = kept(&site.cluster.node(1));
    let of = |uid: u32| {
        places.iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with(&uid.to_string())).unwrap()
    };
    fs::copy(of(crate::cluster::ALICE).join("token"), of(crate::cluster::BOB).join("token")).unwrap();
    let token = format!("token={}", token_of(&site, "bob", &["--gcp-wif"]));
    assert!(!alices.contains(&token), "bob has alice's token");
    site.finish();
}

#[test]
fn identities_of_one_user_keep_apart() {
    let site = Site::start();
    site.configure(json!({"rules": [{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]}));
    let other = format!("--gcp-wif-service-account={OTHER_ACCOUNT}");
    for _ in 0..3 {
        for (option, account) in [("--gcp-wif", SERVICE_ACCOUNT), (&*other, OTHER_ACCOUNT)] {
            let token = site.google.state.token(&token_of(&site, "alice", &[option])).unwrap();
            assert_eq!(token.identity.name(), account);
        }
    }
    assert_eq!(exchanges(&site), 2);
    // Scopes do not mix either.
    site.configure(json!({"scopes": ["https://www.googleapis.com/auth/devstorage.read_only"]}));
    token_of(&site, "alice", &["--gcp-wif"]);
    assert_eq!(exchanges(&site), 3);
    site.finish();
}

#[test]
fn a_failure_applies_to_the_users_other_jobs_and_to_nobody_else() {
    let site = Site::start();
    site.google.inject(Endpoint::Impersonation, Fault::status(403), Times::Once);
    let failed = || site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run();
    let first = failed().expect_status(1);
    assert!(first.stderr.contains("gcp-wif: impersonation: "), "{}", first.stderr);
    // An exchange would succeed now.
    token_of(&site, "bob", &["--gcp-wif"]);
    let before = exchanges(&site);
    let second = failed();
    // Skipped on a machine so slow that ten seconds have passed already.
    if second.status != 0 {
        assert_eq!((second.stderr.contains("gcp-wif: impersonation: "), exchanges(&site)), (true, before));
    }
    wait_until(LIMIT, || failed().status == 0);
    assert_eq!(exchanges(&site), before + 1);
    site.finish();
}

#[test]
fn a_job_begins_with_half_of_a_tokens_life_under_the_agent_and_nine_tenths_without() {
    for (delivery, left, asked) in [("agent", 0.65, 1), ("agent", 0.45, 2), ("direct", 0.95, 1), ("direct", 0.85, 2)] {
        let site = Site::start();
        site.configure(json!({"delivery": delivery, "command": command_path()}));
        token_of(&site, "alice", &["--gcp-wif"]);
        // As if it had arrived that much earlier.
        let kept = kept(&site.cluster.node(1));
        change(&kept[0], |kept| {
            let passed = ((1.0 - left) * 3600.0) as i64;
            for key in ["issued_at", "expires_at", "since_boot"] {
                let time = &mut kept["token"]["token"][key];
                *time = json!(time.as_i64().unwrap() - passed);
            }
        });
        token_of(&site, "alice", &["--gcp-wif"]);
        assert_eq!(exchanges(&site), asked, "{delivery} {left}");
        site.finish();
    }
}

#[test]
fn a_kept_token_that_cannot_be_read_counts_as_none() {
    let site = Site::start();
    token_of(&site, "alice", &["--gcp-wif"]);
    let place = kept(&site.cluster.node(1)).remove(0);
    let whole = fs::read(place.join("token")).unwrap();
    for (number, content) in [&whole[..whole.len() / 2], b"", b"{}", b"\xff\xfe"].into_iter().enumerate() {
        fs::write(place.join("token"), content).unwrap();
        let token = token_of(&site, "alice", &["--gcp-wif"]);
        assert!(site.google.state.token(&token).is_some());
        assert_eq!(exchanges(&site), number + 2);
    }
    // Additional data from a newer release does no harm.
    change(&place, |kept| kept["of_a_newer_release"] = json!(1));
    let before = exchanges(&site);
    token_of(&site, "alice", &["--gcp-wif"]);
    assert_eq!(exchanges(&site), before);
    site.finish();
}

#[test]
fn a_clock_that_was_set_invalidates_kept_tokens() {
    let site = Site::start();
    for minutes in [-2, 2] {
        let token = token_of(&site, "alice", &["--gcp-wif"]);
        let (kept, before) = (kept(&site.cluster.node(1)), exchanges(&site));
        // The wall clock was off by that much when the token arrived, and the monotonic clock was not.
        change(&kept[0], |kept| {
            for key in ["issued_at", "expires_at"] {
                let time = &mut kept["token"]["token"][key];
                *time = json!(time.as_i64().unwrap() + minutes * 60);
            }
        });
        assert_ne!(token, token_of(&site, "alice", &["--gcp-wif"]), "{minutes}");
        assert_eq!(exchanges(&site), before + 1, "{minutes}");
    }
    site.finish();
}

#[test]
fn the_agent_and_new_jobs_share_what_either_gets() {
    let site = site_of(8);
    site.google.configure(|options| options.access_token_life = Some(20));
    site.configure(json!({"delivery": "agent", "command": command_path()}));
    let jobs: Vec<_> = ["alice"; 3]
        .map(|user| {
            let script = "#!/bin/bash\n#SBATCH --gcp-wif -w n1\nsleep 300\n";
            site.cluster.batch(user, script, &[])
        })
        .into();
    let node = site.cluster.node(1);
    let tokens = || {
        jobs.iter()
            .map(|job| fs::read_to_string(node.job_dir(job).join("access_token")).unwrap_or_default())
            .collect::<BTreeSet<_>>()
    };
    let shared = || {
        Some(tokens())
            .filter(|tokens| tokens.len() == 1)
            .and_then(|mut tokens| tokens.pop_first())
            .filter(|token| !token.is_empty())
    };
    wait_until(LIMIT, || shared().is_some());
    for _ in 0..3 {
        let (before, asked) = (shared(), exchanges(&site));
        wait_until(LIMIT, || shared().is_some_and(|token| Some(token) != before));
        assert_eq!(exchanges(&site), asked + 1);
    }
    for job in &jobs {
        site.cluster.as_user("root").command(["scancel", job]).run().ok();
    }
    site.cluster.assert_healthy();
    site.finish();
}

#[test]
fn a_kept_token_is_removed_after_its_expiry() {
    let site = Site::start();
    site.google.configure(|options| options.access_token_life = Some(3));
    token_of(&site, "alice", &["--gcp-wif"]);
    let node = site.cluster.node(1);
    let alices = kept(&node);
    assert_eq!(alices.len(), 1);
    let end = site.google.state.now() + 4;
    wait_until(LIMIT, || site.google.state.now() > end);
    // The next prolog of any user that has something to do removes it.
    token_of(&site, "bob", &["--gcp-wif"]);
    assert!(!alices[0].exists());
    let run =
        site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &site.list()]).run().ok();
    assert!(run.stdout.contains(OBJECT));
    site.finish();
}
