//! Application Default Credentials that the user has set up. Client libraries prefer them to the metadata endpoint.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::world::fs;

const FILE: &str = "application_default_credentials.json";

/// Returns the file that Google's client libraries find if GOOGLE_APPLICATION_CREDENTIALS is not set. The process must
/// run as the user. The file is not opened.
///
/// <https://cloud.google.com/docs/authentication/application-default-credentials>
pub fn users_own(environment: &[(String, String)]) -> Option<PathBuf> {
    let variable = |name: &str| {
        let found = environment.iter().find(|(key, value)| key == name && value.starts_with('/'));
        found.map(|(_, value)| Path::new(value))
    };
    let directories =
        [variable("CLOUDSDK_CONFIG").map(Path::to_owned), variable("HOME").map(|home| home.join(".config/gcloud"))];
    directories.into_iter().flatten().map(|directory| directory.join(FILE)).find(|file| fs::is_file(file))
}
