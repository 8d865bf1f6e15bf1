//! Google's registries: the regional endpoints, and the few that fit if a token is long.

use std::fmt::Write as _;

use super::*;
use crate::google::SUBJECT;
use crate::registry::REGIONAL;

/// The longest federated token that Google issues, in bytes.
const LONGEST_TOKEN: usize = 12_288;

/// A line of shell that pulls a manifest as enroot does: the realm by netrc, then the registry with the realm's token.
fn pull(site: &Site, (host, registry): (&str, &str)) -> String {
    let realm = site.google.http_url().replace("127.0.0.1", host);
    format!(
        "t=$(curl -sS --netrc-file $ENROOT_CONFIG_PATH/.credentials \
         '{realm}/token?service={host}&scope=repository:team/tiny:pull' | sed 's/.*\"token\": *\"\\([^\"]*\\)\".*/\\1/')\n\
         printf 'Authorization: Bearer %s' $t | curl -sS -H @- http://{registry}/v2/team/tiny/manifests/1 \
         -o /dev/null -w '%{{http_code}}\\n'\n"
    )
}

#[test]
fn an_image_is_pulled_from_a_regional_endpoint() {
    let site = Site::start();
    site.google.configure(|options| options.registry_readers = vec![SERVICE_ACCOUNT.to_owned()]);
    let registries = Registries::start(&site);
    let line = pull(&site, (REGIONAL, &registries.regional()));
    let alice = site.cluster.as_user("alice");
    let run = alice.command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run().ok();
    assert_eq!(run.stdout, "200\n", "{}\n{}", run.stderr, registries.logs());
    let run = alice.command(["srun", "-w", "n1", "bash", "-c", &line]).run().ok();
    assert_eq!(run.stdout, "401\n", "without credentials: {}", run.stderr);
    site.finish();
}

#[test]
fn with_long_tokens_the_busiest_registries_have_their_lines_and_the_log_counts_the_others() {
    let site = federated(4000);
    let registries = Registries::start(&site);
    let mut line = pull(&site, (HOST, &registries.artifact()));
    write!(line, "cd $ENROOT_CONFIG_PATH; wc -c <.credentials; cut -d' ' -f2 .credentials").unwrap();
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run().ok();
    let mut lines = run.stdout.lines();
    assert_eq!(lines.next(), Some("200"), "{}\n{}", run.stderr, registries.logs());
    let bytes: usize = lines.next().unwrap().parse().unwrap();
    let hosts: Vec<&str> = lines.collect();
    // curl does not read a longer file.
    assert!(bytes < 128 << 10 && hosts.len() == 32, "{bytes} {hosts:?}");
    for host in ["us-docker.pkg.dev", "asia-docker.pkg.dev", "europe-west12-docker.pkg.dev", "gcr.io"] {
        assert!(hosts.contains(&host), "{host}: {hosts:?}");
    }
    assert_told_once(&site, "registries are left out; set registries to those in use");
    site.finish();
}

/// Newer releases of curl treat a longer word as an error in the whole file, and older ones skip its line.
#[test]
fn a_token_that_is_too_long_for_curl_leaves_the_users_own_logins_as_they_are() {
    let site = federated(LONGEST_TOKEN);
    let registries = Registries::start(&site);
    let (login, password) = COMPANY_LOGIN;
    let own = format!("machine {COMPANY} login {login} password {password}\n");
    write(&site, ".config/enroot/.credentials", &own);
    let line = format!(
        "n=\"--netrc-file $ENROOT_CONFIG_PATH/.credentials\"\n\
         curl -sS $n http://{}/v2/team/tiny/manifests/1 -o /dev/null -w '%{{http_code}}\\n'\n\
         curl -sS $n {}/ -o /dev/null && echo parsed\n{}\ncat $ENROOT_CONFIG_PATH/.credentials",
        registries.company(),
        site.google.http_url(),
        site.list(),
    );
    let run = site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "bash", "-c", &line]).run().ok();
    assert!(run.stdout.starts_with("200\nparsed\n") && run.stdout.contains(OBJECT), "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.ends_with(&own) && !run.stdout.contains("oauth2accesstoken"), "{}", run.stdout);
    assert_told_once(&site, "has 12288 bytes, which is too long for curl in .credentials");
    site.finish();
}

/// A site with direct federation, whose tokens have this many bytes.
fn federated(token_bytes: usize) -> Site {
    let site = Site::start();
    site.trust(&site.source().direct());
    site.google.configure(|options| {
        options.token_bytes = Some(token_bytes);
        options.registry_readers = vec![SUBJECT.to_owned()];
    });
    site
}

#[track_caller]
fn assert_told_once(site: &Site, told: &str) {
    let log = site.cluster.node(1).log();
    assert_eq!(log.matches(told).count(), 1, "{log}");
}
