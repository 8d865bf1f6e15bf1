//! After a job's first hour. Tokens live for seconds here, so that it is over soon.

mod clock;
mod identity;
pub mod job;
mod pulls;
mod refused;
mod slow;
mod steps;
mod upgraded;

use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{command_path, set_mode};
use crate::google::Endpoint;
use crate::site::Site;

const LIMIT: Duration = Duration::from_secs(60);

/// A site whose agent serves access tokens that live for so many seconds.
pub fn site(keys: Value, life: Option<i64>) -> Site {
    let site = Site::start();
    site.google.configure(|options| options.access_token_life = life);
    for node in site.cluster.nodes() {
        set_mode(node.tokens_dir(), 0o700);
    }
    configure(&site, keys);
    site
}

/// Changes the site configuration of both nodes to these keys.
pub fn configure(site: &Site, keys: Value) {
    let mut config = json!({"delivery": "agent", "command": command_path()});
    for (key, value) in keys.as_object().unwrap() {
        config[key] = value.clone();
    }
    site.configure(config);
}

/// For which service accounts Google was asked for an access token, in order.
fn impersonated(site: &Site) -> Vec<String> {
    let requests = site.google.requests_to(Endpoint::Impersonation);
    let email = |target: &str| Some(target.rsplit_once("serviceAccounts/")?.1.split_once(':')?.0.replace("%40", "@"));
    requests.iter().map(|request| email(&request.target).expect("a path with an email")).collect()
}
