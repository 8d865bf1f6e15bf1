//! Existing resources: updated, used as they are, or left alone.

use serde_json::{Value, json};

use crate::api::world::{NUMBER, Policy, World};
use crate::desk::Desk;

const KEYS: &str = "{\"keys\": [{\"kty\": \"RSA\", \"kid\": \"1\",\n \"n\": \"AQAB\", \"e\": \"AQAB\"}]}\n";

fn provider(desk: &Desk) -> Value {
    desk.api.world().providers["slurm/cluster"].clone()
}

/// Changed options update the resources. The script skips steps that another run has done.
#[test]
fn changed_options_update_the_provider() {
    let Some(desk) = Desk::new() else { return };
    let keys = desk.path("keys");
    std::fs::write(&keys, KEYS).unwrap();
    let keys = format!("--jwks={}", keys.display());
    let issuer = "--issuer=https://kubernetes.default.svc";
    let output = format!("--output={}", desk.path("out").display());
    let direct = ["--project=my-project", issuer, &output, &keys, "--yes", "--direct", "--bucket=training-data"];
    let both = ["--subject=system:serviceaccount:slurm:gpu", "--subject=system:serviceaccount:slurm:cpu"];
    desk.run(&[&direct[..], &both, &["--sts-location=us-central1"]].concat()).ok();
    let made = provider(&desk);
    assert_eq!(made["oidc"]["issuerUri"], "https://kubernetes.default.svc");
    let uploaded: Value = serde_json::from_str(made["oidc"]["jwksJson"].as_str().unwrap()).unwrap();
    assert_eq!(uploaded["keys"][0]["kid"], "1");
    let of_pool = format!(
        "principal://iam.googleapis.com/projects/{NUMBER}/locations/global/workloadIdentityPools/slurm/subject/"
    );
    let readers = desk.api.world().members("gs://training-data", "roles/storage.objectViewer");
    let subjects = ["system:serviceaccount:slurm:gpu", "system:serviceaccount:slurm:cpu"];
    assert_eq!(readers, subjects.map(|subject| format!("{of_pool}{subject}")));
    assert!(desk.api.world().accounts.is_empty());
    let written: Value = serde_json::from_str(&desk.written("credential-configuration.json")).unwrap();
    assert_eq!(written["token_url"], "https://sts.us-central1.rep.googleapis.com/v1/token");
    assert!(written["service_account_impersonation_url"].is_null());

    let audience = ["--audience=https://gcp.example.net", "--audience=other", "--condition=true"];
    let changed = desk.run(&[&direct[..], &both, &audience].concat()).ok();
    assert!(changed.stdout.contains("[1/1] update the provider cluster\n"), "{}", changed.stdout);
    assert!(changed.stdout.contains("\n  https://gcp.example.net\n"), "{}", changed.stdout);
    let after = provider(&desk);
    assert_eq!(after["oidc"]["allowedAudiences"], json!(["https://gcp.example.net", "other"]));
    assert_eq!(after["attributeCondition"], "true");
    assert_eq!(after["oidc"]["jwksJson"], made["oidc"]["jwksJson"]);

    // Without the options, the settings are removed.
    desk.run(&[&direct[..], &both].concat()).ok();
    assert_eq!(provider(&desk), made);
}

/// The script uses and keeps what somebody else created. It also keeps what somebody else uses.
#[test]
fn what_others_created_stays() {
    let Some(desk) = Desk::new() else { return };
    let other = "serviceAccount:trainer-jobs@my-project.iam.gserviceaccount.com";
    let email = "trainer-jobs@my-project.iam.gserviceaccount.com";
    let images = "us-central1/images";
    {
        let mut world = desk.api.world();
        world.services.extend(["iam.googleapis.com", "artifactregistry.googleapis.com"].map(str::to_owned));
        world.accounts.insert(email.to_owned(), json!({"email": email, "uniqueId": "7"}));
        let name = "projects/my-project/locations/us-central1/repositories/images";
        world.repositories.insert(images.to_owned(), json!({"name": name, "format": "DOCKER"}));
        // A conditional role is not the one that is needed.
        let binding = json!({"role": "roles/storage.objectViewer", "members": [other],
            "condition": {"title": "for a while", "expression": "request.time < timestamp('2027-01-01T00:00:00Z')"}});
        world.policies.insert("gs://training-data".to_owned(), Policy { bindings: vec![binding], version: 4 });
    }
    let options =
        ["--yes", "--service-account=trainer-jobs", "--service-account=reader-jobs", "--bucket=training-data"];
    let options = [&options[..], &["--repository=us-central1/images"]].concat();
    let run = desk.setup(&options).ok();
    assert!(!run.stdout.contains("create the service account trainer-jobs"), "{}", run.stdout);
    assert_eq!(desk.api.world().members("gs://training-data", "roles/storage.objectViewer").len(), 2);
    let site: Value = serde_json::from_str(&desk.written("gcp-wif.json")).unwrap();
    let reader = "reader-jobs@my-project.iam.gserviceaccount.com";
    assert_eq!(site["rules"], json!([{"service_account": email, "allow": [reader]}]));

    // Another cluster's provider in the same pool, and an image.
    let provider = provider(&desk);
    desk.api.world().providers.insert("slurm/other".to_owned(), {
        let mut other = provider;
        other["name"] =
            format!("projects/{NUMBER}/locations/global/workloadIdentityPools/slurm/providers/other").into();
        other
    });
    let removed = desk.setup(&[&options[..], &["--remove"]].concat()).ok();
    for note in [
        "The service account trainer-jobs stays, with its roles on buckets, repositories and project: this script did not",
        "The repository us-central1/images stays: this script did not create it.",
        "The pool slurm stays: it has other providers (other).",
    ] {
        assert!(removed.stdout.contains(note), "{note}\n{}", removed.stdout);
    }
    let world = desk.api.world();
    assert_eq!(world.accounts.keys().collect::<Vec<_>>(), [email]);
    assert_eq!(world.members(email, "roles/iam.workloadIdentityUser"), [""; 0]);
    assert_eq!(world.members("gs://training-data", "roles/storage.objectViewer"), [other]);
    assert_eq!(world.members(images, "roles/artifactregistry.reader"), [other]);
    assert_eq!(world.pools["slurm"]["state"], "ACTIVE");
    assert_eq!(world.providers["slurm/cluster"]["state"], "DELETED");
    assert!(!world.dump().to_string().contains("deleted:"));
}

/// A gcloud that shows a pool and its provider, in the script's format, and starts at once.
fn show(desk: &Desk, pool: &str, provider: &[&str]) {
    std::fs::write(desk.path("pool"), pool).unwrap();
    std::fs::write(desk.path("provider"), provider.join("\n")).unwrap();
    let text = format!(
        "#!/bin/sh\ncase \"$*\" in\n  projects*) echo {NUMBER} ;;\n  services*) ;;\n  *providers*) cat {0}/provider ;;\n  \
         *pools*) cat {0}/pool ;;\n  *) echo NOT_FOUND >&2; exit 1 ;;\nesac\n",
        desk.directory.path().display()
    );
    desk.install("gcloud", &text);
}

/// The script does not change a provider of another issuer, nor what somebody has disabled.
#[test]
fn a_provider_of_another_cluster_is_left_alone() {
    let desk = Desk::without_gcloud(World::new());
    let mapping = "google.subject=assertion.sub";
    let others = ["ACTIVE", "", "", "https://token.actions.githubusercontent.com", "", "", mapping, ""];
    show(&desk, "ACTIVE\n\n", &others);
    let line = desk.setup(&["--yes"]).failure(1);
    assert!(
        line.contains("a provider cluster exists that this script did not create, with other settings (--issuer"),
        "{line}"
    );
    show(&desk, "ACTIVE\nTrue\n", &others);
    let line = desk.setup(&["--yes"]).failure(1);
    assert!(line.contains("the pool slurm is disabled. If that is not intended, run: gcloud iam "), "{line}");
    show(&desk, "ACTIVE\n\n", &["ACTIVE", "True", "", &desk.api.issuer(), "", "", mapping, ""]);
    let line = desk.setup(&["--yes"]).failure(1);
    assert!(line.contains("the provider cluster is disabled. If that is not intended"), "{line}");
    let own = "Made by spank-gcp-wif's deploy/google/setup";
    let keys = ["ACTIVE", "", own, &desk.api.issuer(), "", "", mapping, "{\"keys\": []}"];
    show(&desk, "ACTIVE\n\n", &keys);
    let line = desk.setup(&["--yes"]).failure(1);
    assert!(line.contains("the provider cluster has uploaded keys, which gcloud cannot remove"), "{line}");
}
