//! Google as a node sees it: over TLS, with the system's certificate authorities, two services at two addresses, and a
//! round trip of some milliseconds.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::cluster::{command_path, set_mode};
use crate::google::{Google, Source};
use crate::relay::Relay;
use crate::site::Site;

/// The round trip between a node and Google within a region.
pub const ROUND_TRIP: Duration = Duration::from_millis(20);

const SYSTEM_CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

pub struct Distant {
    sts: Relay,
    iam: Relay,
    /// The system's authorities and the embedded Google's own.
    pub certificates: Vec<u8>,
}

impl Distant {
    pub fn new(google: &Google) -> Self {
        let server = google.https_url().trim_start_matches("https://").parse().expect("an address");
        let [sts, iam] = [(); 2].map(|()| Relay::start(server, ROUND_TRIP));
        let mut certificates = fs::read(SYSTEM_CERTIFICATES).expect("the system has certificate authorities");
        certificates.extend(google.ca_certificate().as_bytes());
        Self { sts, iam, certificates }
    }

    pub fn sts_url(&self) -> String {
        self.sts.url()
    }

    pub fn iam_url(&self) -> String {
        self.iam.url()
    }

    /// The credential configuration for this Google.
    pub fn credential_configuration(&self, google: &Google, source: &Source) -> String {
        let mut configuration = google.credential_configuration(&source.clone().secure());
        let lead =
            |url: &serde_json::Value, to: &str| json!(url.as_str().expect("a URL").replace(&google.https_url(), to));
        configuration["token_url"] = lead(&configuration["token_url"], &self.sts_url());
        let key = "service_account_impersonation_url";
        configuration[key] = lead(&configuration[key], &self.iam_url());
        configuration.to_string()
    }

    /// Makes the nodes of a site use this Google, with the README's shortest configuration and a project.
    pub fn serve(&self, site: &Site) {
        for node in site.cluster.nodes() {
            let path = node.config_path().with_file_name("ca.pem");
            fs::write(&path, &self.certificates).expect("the node's /etc/slurm is writable");
            set_mode(&path, 0o644);
        }
        site.write_credential_configuration(&self.credential_configuration(&site.google, &site.source()));
        let keys = json!({
            "delivery": "agent",
            "command": command_path(),
            "project": "demo-project",
            "ca_certificates": "/etc/slurm/ca.pem",
        });
        site.configure(keys);
    }
}
