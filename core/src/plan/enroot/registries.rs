//! The registry hosts of Google.
#![forbid(unsafe_code)]

use crate::words::google::RegistryHost;

/// Regions and multi-regions of Artifact Registry, <https://cloud.google.com/artifact-registry/docs/repositories/repo-locations>.
const LOCATIONS: [&str; 48] = [
    "africa-south1",
    "asia",
    "asia-east1",
    "asia-east2",
    "asia-northeast1",
    "asia-northeast2",
    "asia-northeast3",
    "asia-south1",
    "asia-south2",
    "asia-southeast1",
    "asia-southeast2",
    "asia-southeast3",
    "australia-southeast1",
    "australia-southeast2",
    "europe",
    "europe-central2",
    "europe-north1",
    "europe-north2",
    "europe-southwest1",
    "europe-west1",
    "europe-west10",
    "europe-west12",
    "europe-west2",
    "europe-west3",
    "europe-west4",
    "europe-west6",
    "europe-west8",
    "europe-west9",
    "me-central1",
    "me-central2",
    "me-west1",
    "northamerica-northeast1",
    "northamerica-northeast2",
    "northamerica-south1",
    "southamerica-east1",
    "southamerica-west1",
    "us",
    "us-central1",
    "us-central2",
    "us-east1",
    "us-east4",
    "us-east5",
    "us-east7",
    "us-south1",
    "us-west1",
    "us-west2",
    "us-west3",
    "us-west4",
];

/// Hosts of Container Registry, which Artifact Registry serves now.
const CONTAINER_REGISTRY: [&str; 4] = ["gcr.io", "us.gcr.io", "eu.gcr.io", "asia.gcr.io"];

/// Every registry host of Google: what the site's list defaults to.
pub fn of_google() -> Vec<RegistryHost> {
    let artifact = LOCATIONS.iter().map(|location| format!("{location}-docker.pkg.dev"));
    let container = CONTAINER_REGISTRY.iter().map(|host| (*host).to_owned());
    artifact.chain(container).filter_map(|host| RegistryHost::try_from(host).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_location_and_gcr_is_there() {
        let hosts: Vec<String> = of_google().into_iter().map(String::from).collect();
        assert_eq!(hosts.len(), LOCATIONS.len() + CONTAINER_REGISTRY.len());
        for host in ["us-central1-docker.pkg.dev", "europe-docker.pkg.dev", "gcr.io"] {
            assert!(hosts.iter().any(|h| h == host), "{host}");
        }
    }
}
