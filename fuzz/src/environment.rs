//! The fuzz target for a job's environment.
#![allow(clippy::indexing_slicing, reason = "a missing variable violates an invariant")]

use std::collections::BTreeMap;

use gcp_wif_core::plan::environment::{self, Change, Environment};
use gcp_wif_core::words::secret::Secret;

/// The variables of a job's environment.
type Variables = BTreeMap<String, String>;

/// Applies the changes for the wanted variables to an environment.
fn after(before: &Variables, wanted: &Environment, explicit: bool) -> Variables {
    let mut after = before.clone();
    for change in environment::changes(wanted, explicit, &|name| before.get(name).cloned()) {
        match change {
            Change::Set(name, value) => drop(after.insert(name.to_owned(), value.expose().to_owned())),
            Change::Unset(name) => drop(after.remove(name)),
        }
    }
    after
}

/// Checks the changes of an environment. The input has one line for each variable.
pub(crate) fn environment(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let users: Variables = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let value = |value: &str| Secret::new(value.to_owned());
    let wanted = Environment::from([
        ("GOOGLE_OAUTH_ACCESS_TOKEN", value("t")),
        ("GOOGLE_APPLICATION_CREDENTIALS", value("/run/gcp-wif/jobs/2/credentials.json")),
        ("GOOGLE_CLOUD_PROJECT", value("site")),
        ("GCE_METADATA_HOST", value("127.0.0.1:20001")),
        ("ENROOT_CONFIG_PATH", value("/run/gcp-wif/jobs/2/enroot-0")),
    ]);
    for explicit in [false, true] {
        let first = after(&users, &wanted, explicit);
        // A second application must change nothing, as for a step in a job.
        assert_eq!(after(&first, &wanted, explicit), first);
        let (name, is_ours) = ("GOOGLE_OAUTH_ACCESS_TOKEN", explicit || !is_own(&users, "GOOGLE_OAUTH_ACCESS_TOKEN"));
        assert_eq!(first[name], if is_ours { "t" } else { &users[name] });
        assert_eq!(first["ENROOT_CONFIG_PATH"], "/run/gcp-wif/jobs/2/enroot-0");
        if ["http_proxy", "HTTPS_PROXY"].iter().any(|name| users.get(*name).is_some_and(|value| !value.is_empty())) {
            for name in ["no_proxy", "NO_PROXY"] {
                let excepts = |entry: &str| entry == "127.0.0.1";
                let list = &first[name];
                assert!(list.trim() == "*" || list.split([',', ' ', '\t']).any(excepts), "{name}={list}");
            }
        }
        // Variables that the plugin does not own must not change.
        let ours =
            |name: &str| ["GOOGLE_", "GCLOUD_", "CLOUDSDK_", "GCE_", "GCP_WIF_"].iter().any(|o| name.starts_with(o));
        let ours = |name: &str| ours(name) || ["ENROOT_CONFIG_PATH", "no_proxy", "NO_PROXY"].contains(&name);
        let others = |variables: &Variables| {
            variables.iter().filter(|(name, _)| !ours(name)).map(|(n, v)| (n.clone(), v.clone())).collect::<Variables>()
        };
        assert_eq!(others(&first), others(&users));
        // Without credentials, only the user's own variables must be left.
        let left = after(&first, &Environment::new(), false);
        assert!(
            left.values().all(|value| value != "/run/gcp-wif/jobs/2/enroot-0" || users.values().any(|u| u == value))
        );
        if !users.keys().any(|name| name.starts_with("GCP_WIF_")) && !explicit {
            assert_eq!(left, users);
        }
    }
}

fn is_own(users: &Variables, name: &str) -> bool {
    users.contains_key(name) && !environment::is_ours(name, &|name| users.get(name).cloned())
}
