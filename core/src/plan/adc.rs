//! A user's own application default credentials, which clients take before they ask the metadata endpoint.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::world::fs;

const FILE: &str = "application_default_credentials.json";

/// The file that Google's client libraries would find where GOOGLE_APPLICATION_CREDENTIALS is not set, looked for as
/// the user that this process is. It is not opened.
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
