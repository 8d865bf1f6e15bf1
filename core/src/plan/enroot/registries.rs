//! Google's registry hosts.
#![forbid(unsafe_code)]

use crate::words::google::RegistryHost;

use Place::{Host, Location, Region};

/// A place where Google hosts images.
enum Place {
    /// An Artifact Registry location, at `LOCATION-docker.pkg.dev`.
    Location(&'static str),
    /// A location that also has a regional endpoint, `docker.LOCATION.rep.pkg.dev`.
    Region(&'static str),
    /// Another host.
    Host(&'static str),
}

/// All places, the most used first: curl limits the size of a netrc file, so with long tokens the last ones do not fit.
///
/// <https://cloud.google.com/artifact-registry/docs/repositories/repo-locations>, and the hosts for which gcloud 528
/// configures docker (`googlecloudsdk/core/docker/constants.py`).
const PLACES: [Place; 54] = [
    Location("us"),
    Location("europe"),
    Location("asia"),
    Region("us-central1"),
    Region("us-east1"),
    Region("us-east4"),
    Region("us-east5"),
    Region("europe-west4"),
    Region("europe-west1"),
    Region("europe-west2"),
    Region("europe-west3"),
    Region("europe-west6"),
    Region("europe-west8"),
    Region("europe-west9"),
    Region("europe-west10"),
    Region("europe-west12"),
    Region("us-east7"),
    Host("gcr.io"),
    Host("us.gcr.io"),
    Host("eu.gcr.io"),
    Host("asia.gcr.io"),
    Host("marketplace.gcr.io"),
    Region("us-central2"),
    Region("us-south1"),
    Region("us-west1"),
    Region("us-west2"),
    Region("us-west3"),
    Region("us-west4"),
    Location("us-west8"),
    Region("africa-south1"),
    Region("asia-east1"),
    Region("asia-east2"),
    Region("asia-northeast1"),
    Region("asia-northeast2"),
    Region("asia-northeast3"),
    Region("asia-south1"),
    Region("asia-south2"),
    Region("asia-southeast1"),
    Region("asia-southeast2"),
    Location("asia-southeast3"),
    Region("australia-southeast1"),
    Region("australia-southeast2"),
    Region("europe-central2"),
    Region("europe-north1"),
    Location("europe-north2"),
    Region("europe-southwest1"),
    Region("me-central1"),
    Region("me-central2"),
    Region("me-west1"),
    Region("northamerica-northeast1"),
    Region("northamerica-northeast2"),
    Location("northamerica-south1"),
    Region("southamerica-east1"),
    Region("southamerica-west1"),
];

/// Returns all registry hosts, regional endpoints last. This is the default of `registries`.
pub fn of_google() -> Vec<RegistryHost> {
    let usual = PLACES.iter().map(|place| match place {
        Location(name) | Region(name) => format!("{name}-docker.pkg.dev"),
        Host(name) => (*name).to_owned(),
    });
    let regional = PLACES.iter().filter_map(|place| match place {
        Region(name) => Some(format!("docker.{name}.rep.pkg.dev")),
        Location(_) | Host(_) => None,
    });
    usual.chain(regional).filter_map(|host| RegistryHost::try_from(host).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_host_is_listed_once_and_the_most_used_come_first() {
        let hosts: Vec<String> = of_google().into_iter().map(String::from).collect();
        assert_eq!(hosts.iter().collect::<BTreeSet<_>>().len(), hosts.len());
        let ending = |ending: &str| hosts.iter().filter(|host| host.ends_with(ending)).count();
        assert_eq!((ending("-docker.pkg.dev"), ending(".rep.pkg.dev"), ending("gcr.io")), (49, 42, 5));
        let place = |host: &str| hosts.iter().position(|h| h == host).unwrap();
        for [first, then] in [
            ["us-docker.pkg.dev", "us-central1-docker.pkg.dev"],
            ["us-central1-docker.pkg.dev", "gcr.io"],
            ["gcr.io", "asia-east1-docker.pkg.dev"],
            ["southamerica-west1-docker.pkg.dev", "docker.us-central1.rep.pkg.dev"],
            ["us-west8-docker.pkg.dev", "docker.asia-east1.rep.pkg.dev"],
        ] {
            assert!(place(first) < place(then), "{first} {then}");
        }
    }
}
