//! Refusals and their messages.

use std::fs;
use std::os::unix::fs::symlink;

use crate::api::world::World;
use crate::desk::{Desk, golden};

/// The script reports wrong options before it asks anything.
#[test]
fn wrong_options_are_refused() {
    let desk = Desk::without_gcloud(World::new());
    // This gcloud fails if the script calls it.
    desk.install("gcloud", "#!/bin/sh\nexit 99\n");
    let keys = desk.path("keys");
    fs::write(&keys, r#"{"keys": [{"kty": "RSA", "n": "AQAB", "d": "AQAB"}]}"#).unwrap();
    let private = format!("--jwks={}", keys.display());
    let long = format!("--subject=system:serviceaccount:tenant-slurm:{}", "a".repeat(100));
    let cases: [&[&str]; 24] = [
        &["--frobnicate"],
        &["--frobnicate=1"],
        &["something"],
        &["--pool"],
        &["--pool="],
        &["--project=123456789012"],
        &["--project=My Project"],
        &["--issuer=http://oidc.example.net"],
        &["--issuer=oidc.example.net"],
        &["--pool=abc"],
        &["--pool=gcp-slurm"],
        &["--provider=Cluster"],
        &["--subject=*"],
        &["--subject=system:serviceaccount:*"],
        &[&long],
        &["--service-account=job"],
        &["--service-account=job-runner@my-project.iam.gserviceaccount.com"],
        &["--direct", "--service-account=job-runner"],
        &["--direct", "--lifetime=3600"],
        &["--lifetime=60"],
        &["--bucket=gs://training-data"],
        &["--repository=images"],
        &["--sts-location=here"],
        &["--credential-source-file=token"],
    ];
    let mut seen = String::new();
    for options in cases {
        let line = desk.setup(&[options, &["--yes"]].concat()).failure(2);
        seen.push_str(&format!("{}\n    {line}\n", options.join(" ")));
    }
    golden("options.txt", &seen.replace(&desk.directory.path().display().to_string(), "DESK"));
    let line = desk.setup(&["--yes", &private]).failure(1);
    assert!(line.contains("has a private key"), "{line}");
    fs::write(&keys, "no keys").unwrap();
    let line = desk.setup(&["--yes", &private]).failure(1);
    assert!(line.contains("is not a JSON Web Key Set; run kubectl get --raw /openid/v1/jwks"), "{line}");
    assert!(desk.run(&["--help"]).ok().stdout.starts_with("Usage: deploy/google/setup "));
    assert_eq!(
        desk.run(&["--yes"]).failure(2),
        "setup: --project is missing: it must be the project's id, not its name or \
                number. Try: deploy/google/setup --help"
    );
}

#[test]
fn a_missing_gcloud_is_reported() {
    let desk = Desk::without_gcloud(World::new());
    for program in ["bash", "dirname", "mktemp", "wc", "tr", "rm", "cut"] {
        let found = ["/usr/bin", "/bin"].map(|place| std::path::Path::new(place).join(program));
        symlink(found.iter().find(|path| path.exists()).unwrap(), desk.path("bin").join(program)).unwrap();
    }
    let issuer = format!("--issuer={}", desk.api.issuer());
    let mut command = desk.command("/bin/bash");
    command.args(["deploy/google/setup", "--project=my-project", &issuer, "--yes"]).env("PATH", desk.path("bin"));
    let line = crate::desk::finish(&mut command).failure(1);
    assert!(line.starts_with("setup: gcloud is not installed; install it"), "{line}");
}

/// The issuer differs from the tokens' iss, so each exchange would fail.
#[test]
fn another_issuer_is_refused() {
    let desk = Desk::without_gcloud(World::new());
    desk.install("gcloud", "#!/bin/sh\nexit 99\n");
    let base = desk.api.issuer().replace("/id/cluster", "");
    let run = |issuer: &str| {
        let issuer = format!("--issuer={base}{issuer}");
        desk.run(&["--project=my-project", &issuer, "--yes"]).failure(1)
    };
    let line = run("/id/unknown");
    assert!(line.contains("/id/unknown/.well-known/openid-configuration: curl: (22) "), "{line}");
    assert!(line.contains("Correct --issuer; for an issuer that only the cluster's network"), "{line}");
    let line = run("/id/renamed");
    assert!(
        line.contains("names the issuer https://oidc.example.net/id/cluster; --issuer must be exactly that"),
        "{line}"
    );
    // The slash counts, because Google compares the tokens' iss with the issuer exactly.
    let line = run("/id/cluster/");
    assert!(line.contains("names the issuer https://") && line.contains("/id/cluster; --issuer must be"), "{line}");
}

/// The script reports Google's refusals in Google's words, and does nothing else.
#[test]
fn googles_refusals_are_reported_in_its_words() {
    let Some(desk) = Desk::new() else { return };
    fs::write(desk.path("token"), "ya29.another").unwrap();
    let line = desk.setup(&["--yes"]).failure(1);
    assert!(line.contains("cannot look at project my-project: ") && line.contains("invalid authentication"), "{line}");
    fs::write(desk.path("token"), crate::api::server::TOKEN).unwrap();

    let issuer = format!("--issuer={}", desk.api.issuer());
    let line = desk.run(&["--project=other-project", &issuer, "--yes"]).failure(1);
    assert!(
        line.contains("cannot look at project other-project: ") && line.contains("(or it may not exist)"),
        "{line}"
    );

    let line = desk.setup(&["--yes", "--bucket=no-such-bucket"]).failure(1);
    assert!(line.contains("the bucket gs://no-such-bucket does not exist. Create it"), "{line}");

    desk.api.world().services.insert("iam.googleapis.com".to_owned());
    desk.api.world().denied = vec![("workloadIdentityPools", "iam.workloadIdentityPools.get")];
    let line = desk.setup(&["--yes"]).failure(1);
    assert!(line.contains("cannot look at the pool slurm: "), "{line}");
    assert!(line.contains("Permission 'iam.workloadIdentityPools.get' denied on resource"), "{line}");
    assert!(desk.api.world().pools.is_empty());
}

#[test]
fn a_missing_login_is_reported() {
    let Some(desk) = Desk::new() else { return };
    let issuer = format!("--issuer={}", desk.api.issuer());
    let mut command = desk.command("deploy/google/setup");
    command.args(["--project=my-project", &issuer, "--yes"]).env_remove("CLOUDSDK_AUTH_ACCESS_TOKEN_FILE");
    let line = crate::desk::finish(&mut command).failure(1);
    assert!(line.contains("gcloud auth login"), "{line}");
    assert!(desk.api.take_requests().is_empty());
}
