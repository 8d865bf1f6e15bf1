//! A cluster whose nodes hold subject tokens that an embedded Google of its own trusts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Background, Cluster, Node, Settings, set_mode, wait_until};
use crate::google::{
    Bucket, Claims, Format, Google, Options, ProjectedVolume, SERVICE_ACCOUNT, SUBJECT, ServiceAccount, Source,
};

/// Where a node sees the subject token.
pub const TOKEN_FILE: &str = "/var/run/secrets/tokens/token";
/// A second service account, which the subject may impersonate as well.
pub const OTHER_ACCOUNT: &str = "other@demo-project.iam.gserviceaccount.com";
/// The bucket that both service accounts and the federated principal may list.
pub const BUCKET: &str = "demo-bucket";
/// Its one object.
pub const OBJECT: &str = "hello.txt";

const CREDENTIAL_FILE: &str = "credential-configuration.json";

/// A cluster and its Google.
pub struct Site {
    pub cluster: Cluster,
    pub google: Google,
    volumes: Vec<ProjectedVolume>,
}

impl Site {
    /// Boots both; the site has the shortest configuration.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    /// The same with a cluster of these settings.
    #[track_caller]
    pub fn with(settings: Settings) -> Self {
        let everyone = [SERVICE_ACCOUNT, OTHER_ACCOUNT, SUBJECT];
        let google = Google::start(Options {
            buckets: vec![Bucket::new(BUCKET, &[(OBJECT, "hello\n")], &everyone)],
            service_accounts: accounts(),
            ..Options::default()
        });
        let cluster = Cluster::start(settings);
        let token = google.subject_token(&Claims::default());
        // Readable by all, as the kubelet lays it out by default: under direct delivery the job reads it.
        let volumes = cluster.nodes().map(|node| ProjectedVolume::with_mode(node.tokens_dir(), &token, 0o644)).into();
        let site = Self { cluster, google, volumes };
        site.trust(&site.source());
        site.configure(json!({}));
        site
    }

    /// What the credential configuration is made from unless a test says otherwise.
    pub fn source(&self) -> Source {
        Source::file(TOKEN_FILE).format(Format::Text).service_account(SERVICE_ACCOUNT)
    }

    /// Writes the site configuration of both nodes: the shortest one with these keys besides. Where nothing else is
    /// said the job reads the subject token itself, so that the test needs no agent.
    pub fn configure(&self, keys: Value) {
        let path = format!("/etc/slurm/{CREDENTIAL_FILE}");
        let mut config = json!({"credential_configuration": path, "delivery": "direct"});
        for (key, value) in keys.as_object().expect("keys are an object") {
            config[key] = value.clone();
        }
        self.cluster.write_config(&config.to_string());
    }

    /// Writes the credential configuration of both nodes.
    pub fn trust(&self, source: &Source) {
        self.write_credential_configuration(&self.google.credential_configuration_text(source));
    }

    /// Writes a credential configuration of any text.
    pub fn write_credential_configuration(&self, text: &str) {
        for node in self.cluster.nodes() {
            let path = credential_path(&node);
            fs::write(&path, text).expect("the node's /etc/slurm is writable");
            set_mode(&path, 0o644);
        }
    }

    /// Replaces the subject token of both nodes, as the kubelet does.
    pub fn rotate(&self, token: &str) {
        for volume in &self.volumes {
            volume.rotate(token);
        }
    }

    /// Takes the volume with the subject token from both nodes, as if it were not mounted yet.
    pub fn unmount_tokens(&mut self) {
        self.volumes.clear();
        for node in self.cluster.nodes() {
            for name in names(&node.tokens_dir()) {
                let path = node.tokens_dir().join(name);
                let removed = if path.is_symlink() { fs::remove_file(path) } else { fs::remove_dir_all(path) };
                removed.expect("the volume can be emptied");
            }
        }
    }

    /// Lays a subject token out anew on both nodes, with this mode.
    pub fn mount_tokens(&mut self, mode: u32, token: &str) {
        self.unmount_tokens();
        let mount = |node: Node| ProjectedVolume::with_mode(node.tokens_dir(), token, mode);
        self.volumes = self.cluster.nodes().map(mount).into();
    }

    /// Forgets the tokens and failures that the nodes keep for all jobs of a user, as if the next job were the first.
    pub fn forget(&self) {
        for node in self.cluster.nodes() {
            let tokens = node.run_dir().join("gcp-wif/tokens");
            for name in names(&tokens) {
                fs::remove_dir_all(tokens.join(name)).expect("what is kept can be removed");
            }
        }
    }

    /// A line of shell that lists the bucket with the access token of a variable, token in no argument.
    pub fn list(&self) -> String {
        format!(
            "printf 'Authorization: Bearer %s' \"$GOOGLE_OAUTH_ACCESS_TOKEN\" | \
             curl -sS --fail-with-body -H @- {}/storage/v1/b/{BUCKET}/o | grep '\"name\"'",
            self.google.http_url()
        )
    }

    /// A job of alice's with credentials that runs on n1 until [`Site::cancel`], and its number.
    #[track_caller]
    pub fn running_job(&self) -> (Background, String) {
        let words = ["srun", "-w", "n1", "--gcp-wif", "bash", "-c", "echo $SLURM_JOB_ID; sleep 300"];
        let job = self.cluster.as_user("alice").command(words).spawn();
        wait_until(Duration::from_secs(60), || job.stdout().ends_with('\n'));
        let id = job.stdout().trim().to_owned();
        (job, id)
    }

    /// Cancels all of alice's jobs.
    #[track_caller]
    pub fn cancel(&self, job: Background) {
        self.cluster.as_user("root").command(["scancel", "-u", "alice"]).run().ok();
        drop(job);
    }

    /// What every test ends with: idle nodes, nothing left of any job, no token where none belongs.
    #[track_caller]
    pub fn finish(self) {
        self.cluster.assert_healthy();
        for node in self.cluster.nodes() {
            for directory in ["jobs", "records"] {
                let left = names(&node.run_dir().join("gcp-wif").join(directory));
                assert!(left.is_empty(), "{}: {directory} holds {left:?}", node.name());
            }
        }
        self.cluster.assert_nowhere(&self.google.tokens());
    }
}

/// The service accounts that the subject may impersonate.
pub fn accounts() -> Vec<ServiceAccount> {
    [SERVICE_ACCOUNT, OTHER_ACCOUNT].map(|email| ServiceAccount::new(email, &[SUBJECT])).into()
}

/// Where a node's credential configuration is, from outside.
pub fn credential_path(node: &Node) -> PathBuf {
    node.config_path().with_file_name(CREDENTIAL_FILE)
}

/// The names in a directory; none if it is not there.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
