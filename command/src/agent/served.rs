//! What one endpoint serves: one identity of one job.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use gcp_wif_core::job::lifecycle::Site;
use gcp_wif_core::plan::record::{Issued, JobRecord};
use gcp_wif_core::policy::facts::JobFacts;
use gcp_wif_core::words::names::{Identity, JobId};
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::words::time::UnixSeconds;

/// The credentials of an endpoint, as they are now.
#[derive(Debug, Clone)]
pub(crate) struct Served {
    /// The job.
    pub job: JobId,
    /// Its user: the only one, besides root, who is answered.
    pub uid: u32,
    /// What slurmd says of the job.
    pub facts: JobFacts,
    /// The site configuration's path.
    pub config_path: PathBuf,
    /// The identity.
    pub identity: Identity,
    /// The identity's email. A federated principal has none; its pool's name stands in.
    pub email: String,
    /// The job's project.
    pub project: Option<String>,
    /// The number of the pool's project.
    pub project_number: String,
    /// Google's universe.
    pub universe_domain: String,
    /// Scopes of the token.
    pub scopes: Vec<String>,
    /// The job's handle.
    pub handle: Secret,
    /// The access token.
    pub token: Secret,
    /// When the token came.
    pub issued_at: UnixSeconds,
    /// When it ends.
    pub expires_at: UnixSeconds,
    /// The token before, and its end: who got it a moment ago may ask about it.
    pub earlier: Option<(Secret, UnixSeconds)>,
}

impl Served {
    /// From now on it is this.
    pub(crate) fn replace(&mut self, new: Self) {
        let old = std::mem::replace(self, new);
        let is_renewed = old.issued_at != self.issued_at;
        self.earlier = if is_renewed { Some((old.token, old.expires_at)) } else { old.earlier };
    }

    /// How many whole seconds are left of the token, none of them in doubt: the clock tells no parts of a second.
    pub(crate) fn left(&self, now: UnixSeconds) -> i64 {
        self.expires_at.saturating_sub(now).saturating_sub(1)
    }

    /// What a record says of one identity; none if it has no endpoint.
    pub(crate) fn of(record: &JobRecord, issued: &Issued, site: &Site, config_path: &Path) -> Option<(u16, Self)> {
        let endpoint = issued.endpoint.as_ref()?;
        let audience = site.configuration.audience.as_str();
        let part = |after: &str| audience.split(after).nth(1)?.split('/').next().map(str::to_owned);
        let pool = part("/workloadIdentityPools/").unwrap_or_default();
        let email = issued.identity.service_account().map_or(pool, ToString::to_string);
        let served = Self {
            job: record.facts.job,
            uid: record.facts.uid,
            facts: record.facts.clone(),
            config_path: config_path.to_owned(),
            identity: issued.identity.clone(),
            email,
            project: site.config.project.clone(),
            project_number: part("/projects/").unwrap_or_default(),
            universe_domain: site.configuration.universe_domain.clone(),
            scopes: site.config.scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
            handle: endpoint.handle.clone(),
            token: issued.token().clone(),
            issued_at: issued.issued_at,
            expires_at: issued.expires_at,
            earlier: None,
        };
        Some((endpoint.port, served))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A token that has a little more than 600 seconds left at 1000.
    pub(crate) fn served() -> Served {
        Served {
            job: JobId(7),
            uid: 61001,
            facts: JobFacts { job: JobId(7), uid: 61001, gid: 61001, user: None, groups: Vec::new(), placement: None },
            config_path: PathBuf::new(),
            identity: Identity::Federated,
            email: "a@p.iam.gserviceaccount.com".to_owned(),
            project: Some("demo".to_owned()),
            project_number: "12".to_owned(),
            universe_domain: "googleapis.com".to_owned(),
            scopes: vec![gcp_wif_core::words::names::Scope::CLOUD_PLATFORM.to_owned()],
            handle: Secret::new("handle".to_owned()),
            token: Secret::new("ya29.t".to_owned()),
            issued_at: 0,
            expires_at: 1601,
            earlier: None,
        }
    }
}
