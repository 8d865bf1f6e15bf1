//! A site, a job and its credentials, for the targets and the tests.

use std::sync::LazyLock;

use gcp_wif_core::exchange::AccessToken;
use gcp_wif_core::exchange::credential_configuration::CredentialConfiguration;
use gcp_wif_core::plan::record::{Generation, Issued, JobRecord, Metadata, Port, ProcessId};
use gcp_wif_core::policy::config::Config;
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::policy::request::Options;
use gcp_wif_core::policy::site::Site;
pub use gcp_wif_core::testing::facts;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::words::time::{Moment, UnixSeconds};
use gcp_wif_core::world::fs::Place;

/// The site's own service account.
pub const EMAIL: &str = "site@p.iam.gserviceaccount.com";
/// The job's access token.
pub const TOKEN: &str = "ya29.theaccesstokenofthejob";
/// The handle of the job's port.
pub const HANDLE: &str = "thehandleofthejobsport";
/// The time of all requests and answers.
pub const NOW: UnixSeconds = 1_700_000_000;
/// [`NOW`] on both clocks of a node.
pub const MOMENT: Moment = Moment { unix: NOW, since_boot: 100 };

const HEAD: &str = r#""type": "external_account", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "audience": "//iam.googleapis.com/projects/12/locations/global/workloadIdentityPools/p/providers/q",
    "token_url": "https://sts.googleapis.com/v1/token", "credential_source": {"file": "/t"}"#;

fn site(impersonation: &str) -> Site {
    Site {
        config: Config::parse(br#"{"credential_configuration": "/c"}"#).unwrap(),
        configuration: CredentialConfiguration::parse(format!("{{{HEAD}{impersonation}}}").as_bytes()).unwrap(),
    }
}

/// A site that impersonates [`EMAIL`].
pub static IMPERSONATES: LazyLock<Site> = LazyLock::new(|| {
    let url = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/";
    site(&format!(r#", "service_account_impersonation_url": "{url}{EMAIL}:generateAccessToken""#))
});
/// A site with direct federation.
pub static FEDERATED: LazyLock<Site> = LazyLock::new(|| site(""));

/// Returns the site's grant for the job.
pub fn grant(site: &Site) -> Grant {
    Grant::decide(site, &facts(), None).unwrap()
}

/// Returns the job's token, with a lifetime of an hour.
pub fn token() -> Token {
    let token = AccessToken { token: Secret::new(TOKEN.to_owned()), expires_at: NOW + 3600 };
    Token::new(token, MOMENT)
}

/// Returns the job's issued credentials.
pub fn issued(site: &Site) -> Issued {
    let grant = grant(site);
    Issued {
        place: Place { job: JobId(7), below: None },
        name: grant.identity().to_string(),
        token: token(),
        port: Some(Port { number: 20_001, handle: Secret::new(HANDLE.to_owned()) }),
        credentials: "{}".to_owned(),
        metadata: Metadata::new(site, grant.identity()),
        is_published: true,
        grant,
    }
}

/// Returns the job's record.
pub fn record(site: &Site) -> JobRecord {
    let slurmd = ProcessId { pid: 1, start: 1 };
    let started_by = Generation { boot: "boot".to_owned(), slurmd };
    let mut record = JobRecord::new(facts(), Options::default(), started_by);
    record.remember(issued(site));
    record
}
