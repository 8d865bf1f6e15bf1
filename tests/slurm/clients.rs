//! Google's own clients, as jobs that have nothing except what the plugin gave them.
//!
//! They use Google's real host names, as on every site, because some clients accept no others. Behind the proxy of
//! [`Internet`], these names lead to the embedded Google, and a request to any other host fails the test.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{CommandLine, Run, set_mode};
use crate::google::{Endpoint, Fault, Recorded, SERVICE_ACCOUNT, SUBJECT, Times};
use crate::internet::Internet;
use crate::site::{BUCKET, OBJECT, Site};
use crate::skipped::skip;

/// The root certificates, at their path on the nodes.
const ROOTS: &str = "/etc/slurm/ca.pem";
/// google-auth looks up trust boundaries in the background. If the network drops such a request, the request hangs.
/// Here each of them hangs for longer than a job may take.
const HANGS: Duration = Duration::from_secs(300);
const LIMIT: Duration = Duration::from_secs(100);

/// A lifetime in seconds that is too short for Python and Node, which then refresh before each request.
const SHORT_LIFE: i64 = 200;
/// rclone refreshes ten seconds before the end.
const SHORTER_LIFE: i64 = 9;

#[test]
fn python() {
    let world = World::start();
    world.shorten_lives(SHORT_LIFE);
    for identity in Identity::ALL {
        world.trust(identity);
        let python = world.job(&[&library("python/bin/python"), "-", BUCKET]).stdin(include_str!("../clients/list.py"));
        let run = world.run(python, identity, 2).ok();
        assert_eq!(run.stdout, format!("project demo-project\n{OBJECT} hello\n"));
    }
    // Otherwise the test would not show that no job waits for a hanging look-up.
    assert!(!world.site.google.requests_to(Endpoint::Unknown).is_empty(), "nothing was looked up");
    world.finish();
}

#[test]
fn node() {
    let world = World::start();
    world.shorten_lives(SHORT_LIFE);
    for identity in Identity::ALL {
        world.trust(identity);
        let node = world
            .job(&[&library("bin/node"), "-", BUCKET])
            .env("NODE_PATH", &library("node_modules"))
            .stdin(include_str!("../clients/list.js"));
        let run = world.run(node, identity, 2).ok();
        assert_eq!(run.stdout, format!("project demo-project\n{OBJECT} hello\n"));
    }
    world.finish();
}

#[test]
fn rclone() {
    let world = World::start();
    world.shorten_lives(SHORTER_LIFE);
    for identity in Identity::ALL {
        world.trust(identity);
        let line = format!("rclone ls :gcs:{BUCKET} && rclone cat :gcs:{BUCKET}/{OBJECT}");
        let job = world
            .job(&["bash", "-c", &line])
            .env("RCLONE_CONFIG", "/dev/null")
            // Debian's 1.60 finds the credentials without an option, later releases need one.
            .env("RCLONE_GCS_ENV_AUTH", "true");
        // More than one for each of the two.
        let run = world.run(job, identity, 3).ok();
        assert_eq!(run.stdout, format!("{:9} {OBJECT}\nhello\n", "hello\n".len()));
    }
    world.finish();
}

#[test]
fn gcloud() {
    let world = World::start();
    if world.site.cluster.as_user("alice").shell("command -v gcloud").run().status != 0 {
        skip("gcloud is not installed");
        return world.finish();
    }
    for identity in Identity::ALL {
        world.trust(identity);
        let line = format!(
            "export CLOUDSDK_CONFIG=$HOME/gcloud-$SLURM_JOB_ID
             printf 'Authorization: Bearer %s' $(gcloud auth print-access-token) |
               curl -sS --fail-with-body -H @- https://storage.googleapis.com/storage/v1/b/{BUCKET}/o | grep '\"name\"'
             gcloud storage ls gs://{BUCKET} && gcloud storage cat gs://{BUCKET}/{OBJECT}"
        );
        let job = world
            .job(&["bash", "-c", &line])
            // Both features send requests that have nothing to do with credentials.
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true");
        let run = world.run(job, identity, 1).ok();
        assert!(run.stdout.contains(&format!("\"name\": \"{OBJECT}\"")), "{}", run.stdout);
        assert!(run.stdout.ends_with(&format!("gs://{BUCKET}/{OBJECT}\nhello\n")), "{}", run.stdout);
    }
    world.finish();
}

#[test]
fn curl() {
    let world = World::start();
    let line = format!(
        "for token in \"$GOOGLE_OAUTH_ACCESS_TOKEN\" \"$(cat \"$GCP_WIF_ACCESS_TOKEN_FILE\")\"; do
           printf 'Authorization: Bearer %s' \"$token\" | curl -sS --fail-with-body -H @- \
             'https://storage.googleapis.com/storage/v1/b/{BUCKET}/o/{OBJECT}?alt=media'
         done"
    );
    for identity in Identity::ALL {
        world.trust(identity);
        let run = world.run(world.job(&["bash", "-c", &line]), identity, 0).ok();
        assert_eq!(run.stdout, "hello\nhello\n");
    }
    world.finish();
}

/// The identity that the job gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    ServiceAccount,
    Federated,
}

impl Identity {
    const ALL: [Self; 2] = [Self::ServiceAccount, Self::Federated];
}

/// A site, and the internet as its jobs know it.
struct World {
    site: Site,
    internet: Internet,
}

impl World {
    #[track_caller]
    fn start() -> Self {
        let site = Site::start();
        let internet = Internet::start(&site.google);
        for node in site.cluster.nodes() {
            let roots = node.config_path().with_file_name("ca.pem");
            fs::write(&roots, site.google.ca_certificate()).unwrap();
            set_mode(&roots, 0o644);
        }
        site.configure(json!({
            "delivery": "direct",
            // Without a project google-auth would ask the Resource Manager for one.
            "project": "demo-project",
            "proxy": internet.url(),
            "ca_certificates": ROOTS,
        }));
        site.google.inject(Endpoint::Unknown, Fault::Delay(HANGS), Times::Forever);
        Self { site, internet }
    }

    /// Limits the lifetime of Google's tokens to this many seconds.
    fn shorten_lives(&self, seconds: i64) {
        self.site.google.configure(|options| {
            options.federated_life = Some(seconds);
            options.access_token_life = Some(seconds);
        });
    }

    /// Writes a credential configuration with Google's own endpoints.
    fn trust(&self, identity: Identity) {
        let source = self.site.source().secure();
        let source = if identity == Identity::Federated { source.direct() } else { source };
        let google = self.site.google.https_url();
        let text = self
            .site
            .google
            .credential_configuration_text(&source)
            .replace(&format!("{google}/v1/projects/"), "https://iamcredentials.googleapis.com/v1/projects/")
            .replace(&google, "https://sts.googleapis.com");
        self.site.write_credential_configuration(&text);
    }

    /// A job of alice's with credentials, and with the variables that a site behind a proxy sets for every job.
    fn job(&self, words: &[&str]) -> CommandLine {
        let proxy = self.internet.url();
        let words = ["srun", "--gcp-wif"].iter().chain(words);
        let mut job = self.site.cluster.as_user("alice").command(words).limit(LIMIT);
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
            job = job.env(name, &proxy);
        }
        for name in [
            "SSL_CERT_FILE",
            "CURL_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "NODE_EXTRA_CA_CERTS",
            "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
        ] {
            job = job.env(name, ROOTS);
        }
        job
    }

    /// Runs a job and checks on Google's side that the client used only the job's credentials, and that it made at
    /// least this many exchanges itself, or none at all for 0.
    #[track_caller]
    fn run(&self, job: CommandLine, identity: Identity, exchanges: usize) -> Run {
        let before = self.site.google.requests().len();
        let run = job.run();
        let mut requests = self.site.google.requests().split_off(before);
        // The plugin's own exchange.
        requests.retain(|request| !request.header("user-agent").is_some_and(|agent| agent.starts_with("gcp-wif/")));
        let told = || format!("{identity:?}\n{}{}{}", run.stdout, run.stderr, summary(&requests));
        let refused = self.internet.refused();
        assert!(refused.is_empty(), "the job asked elsewhere: {refused:?} {}", told());
        let count = |endpoint| requests.iter().filter(|request| request.endpoint == endpoint).count();
        let enough = |count| if exchanges == 0 { count == 0 } else { count >= exchanges };
        let impersonations = count(Endpoint::Impersonation);
        assert!(enough(count(Endpoint::Sts)), "not {exchanges} exchanges: {}", told());
        match identity {
            Identity::ServiceAccount => assert!(enough(impersonations), "not {exchanges} impersonations: {}", told()),
            Identity::Federated => assert_eq!(impersonations, 0, "{}", told()),
        }
        assert!(count(Endpoint::Storage) > 0, "the bucket was never asked for: {}", told());

        let name = match identity {
            Identity::ServiceAccount => SERVICE_ACCOUNT.to_owned(),
            Identity::Federated => self.site.google.principal(SUBJECT),
        };
        for request in &requests {
            if request.endpoint == Endpoint::Unknown {
                assert!(request.target.ends_with("/allowedLocations"), "{}", told());
                continue;
            }
            assert!(matches!(request.status, Some(200 | 206)), "{}", told());
            if request.endpoint == Endpoint::Storage {
                let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
                let token = bearer.and_then(|secret| self.site.google.state.token(secret));
                assert_eq!(token.map(|token| token.identity.name().to_owned()), Some(name.clone()), "{}", told());
            }
        }
        run
    }

    #[track_caller]
    fn finish(self) {
        self.site.finish();
    }
}

/// The requests in a form without secrets.
fn summary(requests: &[Recorded]) -> String {
    let line = |request: &Recorded| {
        let agent = request.header("x-goog-api-client").or_else(|| request.header("user-agent")).unwrap_or_default();
        format!("{:?} {} {} {agent}\n", request.status, request.method, request.target)
    };
    requests.iter().map(line).collect()
}

/// The path of something that `ci/install clients` installed. Jobs get the real path, because they may not be able to
/// read the checkout, which has a link to it.
#[track_caller]
pub fn library(part: &str) -> String {
    let link = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/clients");
    let place = link.canonicalize().unwrap_or_else(|_| panic!("no {}: run ci/install clients", link.display()));
    place.join(part).display().to_string()
}
