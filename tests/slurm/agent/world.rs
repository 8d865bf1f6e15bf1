//! A site whose agent serves short-lived tokens, and clients as its jobs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::clients::library;
use crate::cluster::{Background, CommandLine, Run, command_path, set_mode};
use crate::google::state::AccessToken;
use crate::google::{Bucket, Endpoint, Recorded, SERVICE_ACCOUNT, SUBJECT};
use crate::internet::Internet;
use crate::site::{OBJECT, OTHER_ACCOUNT, Site};

/// An access token's lifetime in seconds: shorter than any client's margin, so that each client asks the agent often.
pub const LIFE: i64 = 5;
pub const LIMIT: Duration = Duration::from_secs(300);
/// The file in alice's home that ends the clients.
pub const STOP: &str = "stop";
/// How many of the tokens that a client used must have expired in the end.
const EXPIRIES: usize = 3;

/// How a client finds its credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By GOOGLE_APPLICATION_CREDENTIALS alone.
    File,
    /// By GCE_METADATA_HOST and the related variables alone.
    Metadata,
    /// By everything that the job has.
    Given,
}

impl Way {
    /// The variables that lead to the other ways.
    const fn others(self) -> &'static [&'static str] {
        match self {
            Self::File => &["GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"],
            Self::Metadata => &["GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE"],
            Self::Given => &[],
        }
    }
}

/// A site whose agent serves short-lived tokens, and the internet as its jobs know it.
pub struct World {
    pub site: Site,
    internet: Internet,
    /// The identity of the clients, unless a job asks for another one.
    identity: String,
}

impl World {
    #[track_caller]
    pub fn start(life: i64) -> Self {
        Self::with(life, json!({"rules": [{"service_account": SERVICE_ACCOUNT, "allow": [OTHER_ACCOUNT]}]}))
    }

    /// A site without a service account: its jobs are the federated principal.
    #[track_caller]
    pub fn federated(life: i64) -> Self {
        Self::federated_with(life, json!({}))
    }

    /// The same with these additional keys in its configuration.
    #[track_caller]
    pub fn federated_with(life: i64, keys: Value) -> Self {
        let mut world = Self::with(life, keys);
        world.site.trust(&world.site.source().direct());
        world.identity = world.site.google.principal(SUBJECT);
        world
    }

    /// A site with these additional keys in its configuration.
    #[track_caller]
    pub fn with(life: i64, keys: Value) -> Self {
        Self::on(Site::start(), life, keys)
    }

    /// The same on an existing site.
    #[track_caller]
    pub fn on(site: Site, life: i64, keys: Value) -> Self {
        let internet = Internet::start(&site.google);
        site.google.configure(|options| {
            options.federated_life = Some(life);
            options.access_token_life = Some(life);
        });
        for node in site.cluster.nodes() {
            set_mode(node.tokens_dir(), 0o700);
            let roots = node.config_path().with_file_name("ca.pem");
            fs::write(&roots, site.google.ca_certificate()).unwrap();
            set_mode(&roots, 0o644);
        }
        let mut config = json!({"delivery": "agent", "command": command_path(), "project": "demo-project"});
        for (key, value) in keys.as_object().unwrap() {
            config[key] = value.clone();
        }
        site.configure(config);
        Self { site, internet, identity: SERVICE_ACCOUNT.to_owned() }
    }

    /// A job of alice's on the first node, for a client that finds its credentials in one way.
    pub fn job(&self, way: Way, words: &[&str]) -> CommandLine {
        let (options, words): (Vec<&str>, Vec<&str>) =
            words.iter().partition(|word| word.starts_with("--gcp-wif") || word.starts_with("--container"));
        let unset = way.others().iter().flat_map(|name| ["-u", name]);
        let words =
            ["srun", "-w", "n1", "--gcp-wif"].into_iter().chain(options).chain(["env"]).chain(unset).chain(words);
        self.site.cluster.as_user("alice").command(words).limit(LIMIT)
    }

    /// The proxy settings of a job. google-auth looks up trust boundaries at one of Google's host names, and some
    /// clients cannot use another address for Cloud Storage.
    pub fn behind_the_proxy(&self, job: CommandLine) -> CommandLine {
        let roots = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE"];
        let job = roots.iter().fold(job, |job, name| job.env(name, "/etc/slurm/ca.pem"));
        job.env("HTTPS_PROXY", &self.internet.url())
    }

    /// The same with only these variables, and without the user's exceptions.
    pub fn with_proxies(&self, job: CommandLine, names: &[&str]) -> CommandLine {
        let job = job.env("REQUESTS_CA_BUNDLE", "/etc/slurm/ca.pem");
        names.iter().fold(job, |job, name| job.env(name, &self.internet.url()))
    }

    pub fn python<'a>(&self, bucket: &'a str, way: Way) -> (&'a str, CommandLine) {
        let (python, url) = (library("python/bin/python"), self.site.google.http_url());
        let job = self.job(way, &[&python, "-", &url, bucket, STOP]);
        (bucket, self.behind_the_proxy(job).stdin(include_str!("../../clients/loop.py")))
    }

    pub fn node<'a>(&self, bucket: &'a str, way: Way) -> (&'a str, CommandLine) {
        self.node_with("google-auth-library", bucket, way)
    }

    /// A Node client with one of the versions of its library.
    pub fn node_with<'a>(&self, package: &str, bucket: &'a str, way: Way) -> (&'a str, CommandLine) {
        let (node, url) = (library("bin/node"), self.site.google.http_url());
        let job = self.job(way, &[&node, "-", package, &url, bucket, STOP]);
        let modules = library("node_modules");
        (bucket, job.env("NODE_PATH", &modules).stdin(include_str!("../../clients/loop.js")))
    }

    /// A Rust client with one of its libraries; none if they are not installed.
    pub fn rust<'a>(&self, client: &str, bucket: &'a str, way: Way) -> Option<(&'a str, CommandLine)> {
        let (program, url) = (library("rust"), self.site.google.http_url());
        let words = [&*program, client, &url, bucket, OBJECT, STOP];
        Path::new(&program).exists().then(|| (bucket, self.job(way, &words)))
    }

    /// None if the library is not installed.
    pub fn java<'a>(&self, bucket: &'a str, way: Way) -> Option<(&'a str, CommandLine)> {
        let (java, classes, url) = (library("bin/java"), library("java"), self.site.google.http_url());
        let path = format!("{classes}:{classes}/*");
        let words = [&*java, "-cp", &path, "Loop", &url, bucket, STOP];
        Path::new(&java).exists().then(|| (bucket, self.job(way, &words)))
    }

    /// Whether jobs can run gcloud.
    pub fn has_gcloud(&self) -> bool {
        self.site.cluster.as_user("alice").shell("command -v gcloud").run().status == 0
    }

    /// A job that asks gcloud for a token repeatedly.
    pub fn gcloud(&self, bucket: &str, way: Way, options: &[&str]) -> CommandLine {
        let round = format!(
            "token=$(gcloud auth print-access-token) && printf 'Authorization: Bearer %s' $token | \
             curl -sS -f -H @- -o /dev/null {}/storage/v1/b/{bucket}/o",
            self.site.google.http_url()
        );
        self.gcloud_rounds(&round, way, options)
    }

    /// A job that repeatedly copies an object out of a bucket, and back under another name.
    pub fn gcloud_storage(&self, bucket: &str, way: Way, options: &[&str]) -> CommandLine {
        let round = format!(
            "gcloud storage cp gs://{bucket}/{OBJECT} {bucket}.txt && grep -qx hello {bucket}.txt && \
             gcloud storage cp {bucket}.txt gs://{bucket}/copy.txt"
        );
        self.gcloud_rounds(&round, way, options)
    }

    /// A job that runs a line repeatedly until [`STOP`] exists. On a busy machine a command can take longer than its
    /// token's life, and is then run again; see [`Self::assert_identity`].
    pub fn gcloud_rounds(&self, round: &str, way: Way, options: &[&str]) -> CommandLine {
        let line = format!(
            "log=$(mktemp -p ~)
             until [ -e {STOP} ]; do
                 {{ {round}; }} 2>$log || grep -qw 401 $log || {{ cat $log; exit 1; }}
                 sleep 2
             done
             echo read"
        );
        let words: Vec<&str> = options.iter().copied().chain(["bash", "-c", &line]).collect();
        self.gcloud_job(way, &words)
    }

    /// A job whose gcloud calls only Google's endpoints.
    pub fn gcloud_job(&self, way: Way, words: &[&str]) -> CommandLine {
        self.job(way, words)
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "true")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "true")
            .env("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", &format!("{}/storage/v1/", self.site.google.http_url()))
    }

    /// Starts clients, each with the bucket that it uses.
    pub fn spawn<const N: usize>(&self, jobs: [(&str, CommandLine); N]) -> [Background; N] {
        jobs.map(|(bucket, job)| {
            self.make_bucket(bucket);
            job.spawn()
        })
    }

    /// Makes a bucket with one object.
    pub fn make_bucket(&self, name: &str) {
        let bucket = Bucket::new(name, &[(OBJECT, "hello\n")], &[SERVICE_ACCOUNT, OTHER_ACCOUNT, SUBJECT]);
        self.site.google.configure(|options| options.buckets.push(bucket.writable()));
    }

    /// Waits until Google has seen something. A client that ends before that has failed.
    #[track_caller]
    pub fn wait_for(&self, running: &mut [Background], condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !condition(self) {
            let ended = running.iter_mut().find_map(|job| (!job.is_running()).then_some(job));
            let told = ended.map(|job| format!("a client ended: {}{}", job.stdout(), job.stderr()));
            assert!(told.is_none(), "{}", told.unwrap_or_default());
            assert!(Instant::now() < end, "too slow: {:#?}", self.summary());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The identity that the token of a request stands for.
    pub fn token_of(&self, request: &Recorded) -> Option<AccessToken> {
        bearer(request).and_then(|secret| self.site.google.state.token(secret))
    }

    /// Lets clients run again after their end.
    pub fn start_again(&self) {
        fs::remove_file(self.site.cluster.home("alice").join(STOP)).unwrap();
    }

    /// Ends the clients, and checks that none of them failed.
    #[track_caller]
    pub fn stop(&self, running: impl IntoIterator<Item = Background>) -> Vec<String> {
        let stop = self.site.cluster.home("alice").join(STOP);
        fs::write(stop, "").unwrap();
        running.into_iter().map(|job| job.wait(LIMIT).ok()).map(|Run { stdout, .. }| stdout).collect()
    }

    /// Runs clients until each has used a token after [`EXPIRIES`] expired ones. Returns what they print.
    #[track_caller]
    pub fn outlive<const N: usize>(&self, jobs: [(&str, CommandLine); N]) -> [String; N] {
        self.outlive_all(jobs.into()).try_into().unwrap()
    }

    /// The same for any number of clients.
    #[track_caller]
    pub fn outlive_all(&self, jobs: Vec<(&str, CommandLine)>) -> Vec<String> {
        let buckets: Vec<&str> = jobs.iter().map(|(bucket, _)| *bucket).collect();
        let mut running: Vec<Background> = jobs.into_iter().flat_map(|job| self.spawn([job])).collect();
        self.wait_for(&mut running, |world| buckets.iter().all(|bucket| world.has_outlived(bucket)));
        let printed = self.stop(running);
        for bucket in buckets {
            self.assert_identity(bucket);
        }
        printed
    }

    /// Checks that every request for a bucket had a token of the right identity, and that none was refused.
    #[track_caller]
    pub fn assert_identity(&self, bucket: &str) {
        let identity = if bucket.ends_with("-other") { OTHER_ACCOUNT } else { &self.identity };
        for request in self.requests(bucket) {
            let told = format!("{bucket}: {:?} {} {}", request.status, request.method, request.target);
            // A client that writes first checks whether the object exists. A cut connection has no status, and the
            // client may cut it.
            let is_right = matches!(request.status, Some(200..=299 | 308 | 404));
            // The address of an upload is sufficient permission.
            if is_right && bearer(&request).is_none() && request.target.contains("upload_id=") {
                continue;
            }
            let token = self.token_of(&request).unwrap_or_else(|| panic!("{told}"));
            // A client can take longer than its token's life, and some use a token until it is refused.
            let arrived = request.time.duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
            let is_late = request.status == Some(401) && token.expires <= arrived + 1;
            assert!(is_right || is_late, "{told}");
            assert_eq!(token.identity.name(), identity, "{told}");
        }
    }

    /// Runs a client that refuses this way with these words, and checks that it sent no request to Google.
    #[track_caller]
    pub fn refuses(&self, (bucket, job): (&str, CommandLine), words: &str) {
        let run = job.run();
        assert!(run.status != 0 && run.stderr.contains(words), "{} {}{}", run.status, run.stdout, run.stderr);
        assert!(self.requests(bucket).is_empty(), "{bucket}: {:#?}", self.summary());
    }

    /// The requests of a client to Cloud Storage.
    pub fn requests(&self, bucket: &str) -> Vec<Recorded> {
        let is_it = |part: &str| percent_decode_str(part).decode_utf8_lossy() == bucket;
        let named = |request: &Recorded| request.target.split(['/', '?']).any(is_it);
        self.site.google.requests_to(Endpoint::Storage).into_iter().filter(named).collect()
    }

    /// The requests to Google, without secrets.
    fn summary(&self) -> Vec<String> {
        let requests = self.site.google.requests();
        requests.iter().map(|request| format!("{:?} {} {}", request.status, request.method, request.target)).collect()
    }

    /// Whether a client has used a token after [`EXPIRIES`] expired ones.
    pub fn has_outlived(&self, bucket: &str) -> bool {
        self.expiries(bucket) >= EXPIRIES
    }

    /// How many expired tokens a client used before its current one.
    fn expiries(&self, bucket: &str) -> usize {
        let now = self.site.google.state.now();
        let requests = self.requests(bucket);
        let served = |request: &&Recorded| request.status.is_some_and(|status| status != 401);
        let requests: Vec<_> = requests.iter().filter(served).collect();
        let mut tokens: Vec<&str> = requests.iter().copied().filter_map(bearer).collect();
        tokens.dedup();
        tokens.retain(|secret| self.site.google.state.token(secret).is_some_and(|token| token.expires <= now));
        let alive = requests.into_iter().filter_map(bearer).next_back().is_some_and(|last| !tokens.contains(&last));
        if alive { tokens.len() } else { 0 }
    }

    /// The end of every test: checks that only the agent and the plugin exchanged tokens at Google.
    #[track_caller]
    pub fn finish(self) {
        for endpoint in [Endpoint::Sts, Endpoint::Impersonation] {
            for request in self.site.google.requests_to(endpoint) {
                let agent = request.header("user-agent").unwrap_or_default();
                assert!(agent.starts_with("gcp-wif/"), "{endpoint:?}: {agent}");
            }
        }
        let refused = self.internet.refused();
        assert!(refused.is_empty(), "a client asked elsewhere: {refused:?}");
        self.site.finish();
    }
}

fn bearer(request: &Recorded) -> Option<&str> {
    request.header("authorization")?.strip_prefix("Bearer ")
}
