//! One life cycle: created, created again, removed, restored.

use serde_json::Value;

use gcp_wif_core::exchange::credential_configuration::CredentialConfiguration;
use gcp_wif_core::exchange::run::run;
use gcp_wif_core::exchange::subject_token::SubjectToken;
use gcp_wif_core::exchange::{Exchange, Wanted};
use gcp_wif_core::words::google::{Identity, Scope};
use gcp_wif_core::world::clock::SystemClock;
use gcp_wif_core::world::http::Client;

use crate::api::server::{Api, Recorded};
use crate::api::world::{NUMBER, World};
use crate::desk::{Desk, Run, golden};
use crate::google::{Bucket, Claims, Google, Options, SUBJECT, ServiceAccount};
use crate::interrupted::kill_at;

/// Everything that the script can create, once.
pub const ALL: [&str; 6] = [
    "--yes",
    "--service-account=trainer-jobs",
    "--bucket=training-data:objectUser",
    "--repository=us-central1/images",
    "--service-usage",
    "--condition=assertion.sub.startsWith('system:serviceaccount:')",
];

fn writing(requests: &[Recorded]) -> Vec<String> {
    requests.iter().filter(|request| request.is_writing()).map(|request| request.target.clone()).collect()
}

#[test]
fn created_created_again_removed_and_restored() {
    let Some(desk) = Desk::new() else { return };
    // As in a new project at Google: new resources appear late, operations take time, and others change policies.
    {
        let mut world = desk.api.world();
        (world.lag, world.slow, world.interferes) = (1, true, true);
    }
    let untouched = desk.api.dump();
    // Killed with a half of everything.
    kill_at(&desk, 6, "after");
    let first = desk.setup(&ALL).ok();
    assert!(first.stdout.contains("not yet: "), "{}", first.stdout);
    let made = desk.api.dump();
    golden("whole.json", &made);
    golden("credential-configuration.json", &desk.written("credential-configuration.json"));
    golden("gcp-wif.json", &desk.written("gcp-wif.json"));
    assert!(!made.contains("principalSet") && !made.contains('*'));
    let audience = format!(
        "\n  https://iam.googleapis.com/projects/{NUMBER}/locations/global/workloadIdentityPools/slurm/providers/cluster\n"
    );
    assert!(first.stdout.contains(&audience) && first.stdout.contains("gcp-wif doctor"), "{}", first.stdout);
    accepts_a_job(&desk);

    desk.api.world().settle();
    desk.api.take_requests();
    let second = desk.setup(&ALL).ok();
    assert!(second.stdout.contains("There is nothing to do in project my-project."), "{}", second.stdout);
    assert!(second.stdout.contains("credential-configuration.json is up to date."), "{}", second.stdout);
    assert_eq!(writing(&desk.api.take_requests()), Vec::<String>::new());
    assert_eq!(desk.api.dump(), made);

    remove(&desk, &ALL);
    let removed: Value = serde_json::from_str(&desk.api.dump()).unwrap();
    let before: Value = serde_json::from_str(&untouched).unwrap();
    assert_eq!(removed["pools"]["slurm"]["state"], "DELETED");
    assert_eq!(removed["providers"]["slurm/cluster"]["state"], "DELETED");
    for part in ["accounts", "repositories", "policies"] {
        assert_eq!(removed[part], before[part], "{part}");
    }

    let back = desk.setup(&ALL).ok();
    assert!(back.stdout.contains("restore the pool slurm"), "{}", back.stdout);
    assert!(back.stdout.contains("restore the provider cluster"), "{}", back.stdout);
    assert_eq!(desk.api.dump(), made);
}

fn remove(desk: &Desk, options: &[&str]) -> Run {
    let options = [options, &["--remove"]].concat();
    desk.setup(&options).ok()
}

/// A Google with the script's resources accepts a node's token, with the file that the script wrote.
fn accepts_a_job(desk: &Desk) {
    let google = Google::start(options(&desk.api));
    let text = desk.written("credential-configuration.json");
    let text = text
        .replace("https://sts.googleapis.com", &google.http_url())
        .replace("https://iamcredentials.googleapis.com", &google.http_url());
    let configuration = CredentialConfiguration::parse(text.as_bytes()).unwrap();
    let impersonation = configuration.impersonation.as_ref().unwrap();
    let identity = Identity::ServiceAccount(impersonation.service_account.clone());
    let scopes = [Scope::cloud_platform()];
    let client = Client::new(None, None).unwrap();
    let exchange = |subject: &str| {
        let token = google.subject_token(&Claims::default().subject(subject));
        let token = SubjectToken::parse(token.as_bytes(), &configuration.subject_token_format).unwrap();
        let wanted = Wanted { identity: &identity, scopes: &scopes, lifetime: None };
        let mut exchange = Exchange::new(&configuration, &token, wanted, "slurm job 1".to_owned());
        run(&mut exchange, &client, &SystemClock, std::time::Duration::from_secs(20)).is_ok()
    };
    assert!(exchange(SUBJECT));
    assert!(!exchange("system:serviceaccount:tenant-slurm:another"));
}

/// The embedded Google with the resources of this project.
fn options(api: &Api) -> Options {
    let world: &World = &api.world();
    let provider = &world.providers["slurm/cluster"];
    let principal = format!(
        "principal://iam.googleapis.com/projects/{NUMBER}/locations/global/workloadIdentityPools/slurm/subject/"
    );
    let accounts = world.accounts.keys().map(|email| {
        let members = world.members(email, "roles/iam.workloadIdentityUser");
        let subjects: Vec<&str> = members.iter().filter_map(|member| member.strip_prefix(&principal)).collect();
        ServiceAccount::new(email, &subjects)
    });
    let audiences = provider["oidc"]["allowedAudiences"].as_array().into_iter().flatten();
    Options {
        project_number: NUMBER.to_owned(),
        pool: "slurm".to_owned(),
        provider: "cluster".to_owned(),
        issuer: provider["oidc"]["issuerUri"].as_str().unwrap().to_owned(),
        allowed_audiences: audiences.filter_map(|one| one.as_str().map(str::to_owned)).collect(),
        service_accounts: accounts.collect(),
        buckets: vec![Bucket::new("training-data", &[], &[])],
        ..Options::default()
    }
}
