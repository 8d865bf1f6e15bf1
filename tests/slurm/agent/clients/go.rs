//! Google's libraries for Go, as Debian's packages have their sources: oldest and newest.

use serde_json::Value;

use super::super::world::{LIFE, STOP, Way, World};
use super::{BOTH, METADATA};
use crate::clients::library;
use crate::cluster::CommandLine;
use crate::google::{Endpoint, SERVICE_ACCOUNT};
use crate::table::Row;
use crate::tried::{absent, record, version};

const OAUTH2: &str = "Go: golang.org/x/oauth2/google";
const AUTH: &str = "Go: cloud.google.com/go/auth";

fn job<'a>(world: &World, program: &str, bucket: &'a str, way: Way) -> (&'a str, CommandLine) {
    let url = world.site.google.http_url();
    (bucket, world.job(way, &[&library(program), &url, bucket, STOP]))
}

#[test]
fn oauth2_of_debian() {
    let Some(found) = version(&[&library("go/oauth2-old"), "--version"]) else {
        return absent(&format!("{OAUTH2}, Debian's"));
    };
    let world = World::start(LIFE);
    world.refuses(job(&world, "go/oauth2-old", "old-file", Way::File), "invalid TokenURL");
    assert_eq!(world.outlive([job(&world, "go/oauth2-old", "old-metadata", Way::Metadata)]), ["read\n"]);
    world.finish();
    let remark = "before 0.6 it accepts only Google's `token_url`. `env -u GOOGLE_APPLICATION_CREDENTIALS`";
    record(&Row::new(&format!("{OAUTH2}, Debian's"), &found, METADATA, remark));
}

#[test]
fn oauth2() {
    let Some(found) = version(&[&library("go/oauth2"), "--version"]) else {
        return absent(OAUTH2);
    };
    let world = World::start(LIFE);
    let jobs = [("go-file", Way::File), ("go-metadata", Way::Metadata)];
    let jobs = jobs.map(|(bucket, way)| job(&world, "go/oauth2", bucket, way));
    assert_eq!(world.outlive(jobs), ["read\n"; 2]);
    world.finish();
    record(&Row::new(OAUTH2, &found, BOTH, ""));
}

#[test]
fn auth() {
    let program = library("go/auth");
    let Some(found) = version(&[&program, "--version"]) else {
        return absent(AUTH);
    };
    let world = World::start(LIFE);
    let jobs = [("auth-file", Way::File), ("auth-metadata", Way::Metadata)];
    let jobs = jobs.map(|(bucket, way)| job(&world, "go/auth", bucket, way));
    assert_eq!(world.outlive(jobs), ["read\n"; 2]);
    let ask = |way| {
        let job = world.behind_the_proxy(world.job(way, &[&program, "identity", "https://service.example"]));
        job.env("SSL_CERT_FILE", "/etc/slurm/ca.pem").run()
    };
    let claims: Value = serde_json::from_str(&ask(Way::Metadata).ok().stdout).unwrap();
    assert_eq!((&claims["aud"], &claims["email"]), (&"https://service.example".into(), &SERVICE_ACCOUNT.into()));
    // By file this version asks IAM Credentials itself, without a token; but for the account in the impersonation URL.
    assert!(ask(Way::File).stderr.contains("CREDENTIALS_MISSING"));
    let asked = world.site.google.requests_to(Endpoint::IdToken);
    assert!(asked.last().unwrap().target.contains(&format!("/{SERVICE_ACCOUNT}:generateIdToken")), "{asked:?}");
    world.finish();
    let remark = "the version is google-cloud-go's. OpenID tokens (idtoken) by metadata";
    record(&Row::new(AUTH, &found, BOTH, remark));
}
