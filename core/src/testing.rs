//! Helpers for unit tests.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::exchange::AccessToken;
use crate::job::processes::{Processes, User};
use crate::job::wake::Asked;
use crate::plan::environment::Change;
use crate::plan::record::{Generation, Issued, JobRecord, Metadata, Port, ProcessId};
use crate::plan::report::Failure;
use crate::policy::config::Config;
use crate::policy::facts::{JobFacts, Placement};
use crate::policy::grant::Grant;
use crate::policy::request::Options;
use crate::policy::site::Site;
use crate::tokens::Token;
use crate::words::names::JobId;
use crate::words::secret::Secret;
use crate::words::time::{Moment, UnixSeconds};
use crate::world::fs::Place;

/// A temporary directory, removed on drop.
pub struct Directory(PathBuf);

/// Creates a new directory.
pub fn directory() -> Directory {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("gcp-wif-unit-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    Directory(path)
}

impl Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Builds a JWT with this payload and an invalid signature.
pub fn jwt(payload: &str) -> String {
    use base64::Engine;
    let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(payload), part("signature"))
}

/// Builds a credential configuration that names this service account.
pub fn credential_configuration(email: &str) -> String {
    format!(
        r#"{{"type": "external_account", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "token_url": "https://sts.googleapis.com/v1/token", "credential_source": {{"file": "/t"}},
        "service_account_impersonation_url":
        "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{email}:generateAccessToken"}}"#
    )
}

/// Builds a site with these additional keys, whose credential configuration names [`SITE`].
pub fn site(settings: &str) -> Site {
    let directory = directory();
    let at = |name: &str| directory.join(name);
    std::fs::write(at("credential.json"), credential_configuration(SITE)).unwrap();
    let config = format!(r#"{{"credential_configuration": "{}"{settings}}}"#, at("credential.json").display());
    std::fs::write(at("site.json"), config).unwrap();
    Site::load(&at("site.json")).unwrap()
}

/// The service account of [`site`].
pub const SITE: &str = "site@p.iam.gserviceaccount.com";

/// Returns the facts of alice's job 7.
pub fn facts() -> JobFacts {
    JobFacts {
        job: JobId(7),
        uid: 61001,
        gid: 61001,
        user: Some("alice".to_owned()),
        groups: Vec::new(),
        placement: Some(Placement { account: Some("vision".to_owned()), partition: None }),
    }
}

/// Returns a record of alice's job 7.
pub fn record() -> JobRecord {
    JobRecord::new(facts(), Options::default(), FakeProcesses::default().generation)
}

/// Returns the grant of a site with direct federation.
pub fn federated() -> Grant {
    let mut site = site("");
    site.configuration.impersonation = None;
    Grant::decide(&site, &facts(), None).unwrap()
}

/// Returns credentials of the site's identity with a token that was issued at time 0.
pub fn issued(token: &str, expires_at: UnixSeconds) -> Issued {
    let site = site("");
    let grant = Grant::decide(&site, &facts(), None).unwrap();
    Issued {
        place: Place { job: JobId(7), below: None },
        name: SITE.to_owned(),
        token: Token::new(
            AccessToken { token: Secret::new(token.to_owned()), expires_at },
            Moment { unix: 0, since_boot: 0 },
        ),
        port: None,
        credentials: "{}".to_owned(),
        metadata: Metadata::new(&site, grant.identity()),
        is_published: true,
        grant,
    }
}

/// The environment of a fake job or step.
#[derive(Debug, Default)]
pub struct Environment(pub RefCell<BTreeMap<String, String>>);

impl Deref for Environment {
    type Target = RefCell<BTreeMap<String, String>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Environment {
    /// Returns a variable.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.borrow().get(name).cloned()
    }

    /// Makes a change.
    pub fn change(&self, change: &Change) {
        let mut variables = self.0.borrow_mut();
        match change {
            Change::Set(name, value) => drop(variables.insert((*name).to_owned(), value.expose().to_owned())),
            Change::Unset(name) => drop(variables.remove(*name)),
        }
    }

    /// Returns all variables.
    pub fn all(&self) -> Vec<(String, String)> {
        self.0.borrow().iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}

/// Fake processes that run all work immediately in this process.
pub struct FakeProcesses {
    /// The slurmd and its boot.
    pub generation: Generation,
    /// The jobs with a running slurmstepd.
    pub living: BTreeMap<JobId, ProcessId>,
    /// The number of walks through /proc.
    pub walks: Cell<u32>,
    /// The ports that other programs have taken.
    pub foreign: BTreeSet<u16>,
}

impl Default for FakeProcesses {
    fn default() -> Self {
        let slurmd = ProcessId { pid: 1, start: 1 };
        Self {
            generation: Generation { boot: "boot".to_owned(), slurmd },
            living: BTreeMap::new(),
            walks: Cell::default(),
            foreign: BTreeSet::new(),
        }
    }
}

impl Processes for FakeProcesses {
    fn generation(&self) -> Generation {
        self.generation.clone()
    }

    fn living(&self) -> BTreeMap<JobId, ProcessId> {
        self.walks.set(self.walks.get() + 1);
        self.living.clone()
    }

    fn runs(&self, process: ProcessId) -> bool {
        self.living.values().any(|living| *living == process)
    }

    fn this(&self) -> ProcessId {
        ProcessId { pid: 9, start: 9 }
    }

    fn end(&self, _: ProcessId) {}

    fn detach(&self, work: &mut dyn FnMut()) {
        work();
    }

    fn new_port(&self, taken: &BTreeSet<u16>) -> Result<Port, Failure> {
        let number = (20_001..).find(|port| !taken.contains(port)).unwrap();
        Ok(Port { number, handle: Secret::new("handle".to_owned()) })
    }

    fn wake_agent(&self, _: &Config, _: &Path, _: Option<Asked>) -> Result<BTreeSet<u16>, Failure> {
        Ok((0..=u16::MAX).filter(|port| !self.foreign.contains(port)).collect())
    }

    fn ask_agent(&self, _: &Path) -> Option<Asked> {
        None
    }

    fn tell_agent(&self, _: &Path) {}

    fn as_user(&self, _: &User<'_>, answer: &mut Vec<u8>, work: &mut dyn FnMut() -> Vec<u8>) -> Result<(), Failure> {
        *answer = work();
        Ok(())
    }
}
