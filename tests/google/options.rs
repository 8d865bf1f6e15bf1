//! What exists in an instance: one workload identity provider, service accounts, buckets.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::state::random_digits;

/// The subject of the kubelet's tokens unless a test says otherwise.
pub const SUBJECT: &str = "system:serviceaccount:tenant-slurm:default";
/// The service account that exists, and that [`SUBJECT`] may impersonate, unless a test says
/// otherwise.
pub const SERVICE_ACCOUNT: &str = "job-runner@demo-project.iam.gserviceaccount.com";

/// A provider's attribute condition, over the claims of a subject token.
pub type AttributeCondition = Arc<dyn Fn(&Value) -> bool + Send + Sync>;

/// The state of the world on Google's side. Public fields: a test changes what it needs.
#[derive(Clone)]
pub struct Options {
    pub project_number: String,
    pub pool: String,
    pub provider: String,
    /// A disabled provider answers like one that does not exist.
    pub provider_enabled: bool,
    /// The issuer that the provider trusts, and that subject tokens carry.
    pub issuer: String,
    /// Empty: the provider's own name, with or without `https:`.
    pub allowed_audiences: Vec<String>,
    /// Whether Google's refusal of an audience also says which one it expects. Google's words
    /// exist both ways; since 2025 mostly without.
    pub names_expected_audience: bool,
    /// A subject token for which it is false is rejected.
    pub attribute_condition: Option<AttributeCondition>,
    /// `false`: Google cannot fetch the issuer's discovery document or keys.
    pub issuer_reachable: bool,
    /// How many exchanges the project's quota still permits; none: unlimited.
    pub exchanges_left: Option<u32>,
    /// `false`: the front end reaches no service behind it, and answers with its own page.
    pub services_reachable: bool,
    /// `false`: the IAM Service Account Credentials API is not enabled in the project.
    pub iam_credentials_enabled: bool,
    pub service_accounts: Vec<ServiceAccount>,
    pub buckets: Vec<Bucket>,
    /// Limits the lifetime of federated tokens to this many seconds, for tests of refreshing.
    pub federated_life: Option<i64>,
    /// Limits the lifetime of service accounts' access tokens to this many seconds.
    pub access_token_life: Option<i64>,
    /// The length of tokens in bytes; none: Google's usual length.
    pub token_bytes: Option<usize>,
    /// Who may pull from the registry: emails, subjects, or `*`.
    pub registry_readers: Vec<String>,
    pub certificate: Certificate,
}

/// A service account and the federated subjects with `roles/iam.workloadIdentityUser` on it.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    pub email: String,
    /// Subjects, or `*` for the whole pool.
    pub subjects: Vec<String>,
    /// Listed in `constraints/iam.allowServiceAccountCredentialLifetimeExtension`.
    pub extended_lifetime: bool,
}

impl ServiceAccount {
    pub fn new(email: &str, subjects: &[&str]) -> Self {
        Self {
            email: email.to_owned(),
            subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
            extended_lifetime: false,
        }
    }
}

/// A bucket of Cloud Storage.
#[derive(Clone, Debug)]
pub struct Bucket {
    pub name: String,
    pub objects: BTreeMap<String, Object>,
    /// Who may list and read: emails of service accounts, federated subjects, or `*`.
    pub readers: Vec<String>,
    /// Whether they may also write and delete.
    pub is_writable: bool,
}

/// An object of a bucket.
#[derive(Clone, Debug)]
pub struct Object {
    pub body: Vec<u8>,
    pub content_type: String,
    /// Changes with each write.
    pub generation: u64,
}

impl Object {
    pub fn new(body: impl Into<Vec<u8>>, generation: u64) -> Self {
        Self { body: body.into(), content_type: "application/octet-stream".to_owned(), generation }
    }
}

impl Bucket {
    pub fn new(name: &str, objects: &[(&str, &str)], readers: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            objects: objects.iter().map(|&(name, body)| (name.to_owned(), Object::new(body, 1))).collect(),
            readers: readers.iter().map(|&reader| reader.to_owned()).collect(),
            is_writable: false,
        }
    }

    pub fn writable(self) -> Self {
        Self { is_writable: true, ..self }
    }
}

/// The certificate of the https port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    /// For 127.0.0.1, localhost and Google's host names, signed by the instance's authority.
    #[default]
    Valid,
    /// For another host name.
    WrongName,
    /// Ended yesterday.
    Expired,
    /// Signed by an unknown authority.
    UnknownAuthority,
}

impl Default for Options {
    fn default() -> Self {
        let project_number = random_digits(12);
        Self {
            issuer: format!("https://container.googleapis.com/v1/projects/{project_number}/slurm"),
            project_number,
            pool: "slurm".to_owned(),
            provider: "cluster".to_owned(),
            provider_enabled: true,
            issuer_reachable: true,
            exchanges_left: None,
            services_reachable: true,
            allowed_audiences: Vec::new(),
            names_expected_audience: false,
            attribute_condition: None,
            iam_credentials_enabled: true,
            service_accounts: vec![ServiceAccount::new(SERVICE_ACCOUNT, &[SUBJECT])],
            buckets: vec![Bucket::new(
                "demo-bucket",
                &[("hello.txt", "hello\n"), ("data/part-0.csv", "a,b\n1,2\n")],
                &[SERVICE_ACCOUNT, SUBJECT],
            )],
            federated_life: None,
            access_token_life: None,
            token_bytes: None,
            registry_readers: vec![SERVICE_ACCOUNT.to_owned(), SUBJECT.to_owned()],
            certificate: Certificate::Valid,
        }
    }
}

impl Options {
    fn pool_name(&self) -> String {
        format!(
            "iam.googleapis.com/projects/{}/locations/global/workloadIdentityPools/{}",
            self.project_number, self.pool
        )
    }

    pub fn audience(&self) -> String {
        format!("//{}/providers/{}", self.pool_name(), self.provider)
    }

    /// The audiences of which a subject token must carry one.
    pub fn expected_audiences(&self) -> Vec<String> {
        if self.allowed_audiences.is_empty() {
            let name = self.audience();
            vec![format!("https:{name}"), name]
        } else {
            self.allowed_audiences.clone()
        }
    }

    pub fn principal(&self, subject: &str) -> String {
        format!("principal://{}/subject/{subject}", self.pool_name())
    }

    pub fn service_account(&self, email: &str) -> Option<&ServiceAccount> {
        self.service_accounts.iter().find(|account| account.email == email)
    }
}
