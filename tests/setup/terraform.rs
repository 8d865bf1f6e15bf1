//! The Terraform module. The tests cannot run its provider, so:
//!
//! - each resource and each argument is in the provider's documentation,
//! - each reference resolves,
//! - and Terraform itself evaluates the module, with each resource of Google's turned into a `terraform_data` of the same
//!   arguments. What it would make is what the script makes: both are compared with the same file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use hcl::{Block, Body, Expression, Structure};
use serde_json::{Value, json};

use crate::desk::{finish, root};
use crate::skipped::{is_installed, skip};

const ANY: [&str; 3] = ["depends_on", "for_each", "project"];

/// Arguments as the documentation of hashicorp/google has them, and what it computes besides.
const KNOWN: [Known; 10] = [
    ("data google_project", &["project_id"], &[("number", "\"123456789012\"")]),
    ("google_project_service", &["service", "disable_on_destroy"], &[]),
    (
        "google_iam_workload_identity_pool",
        &["workload_identity_pool_id", "display_name", "description", "disabled"],
        &[],
    ),
    (
        "google_iam_workload_identity_pool_provider",
        &[
            "workload_identity_pool_id",
            "workload_identity_pool_provider_id",
            "display_name",
            "description",
            "disabled",
            "attribute_mapping",
            "attribute_condition",
            "oidc.issuer_uri",
            "oidc.allowed_audiences",
            "oidc.jwks_json",
        ],
        &[],
    ),
    (
        "google_service_account",
        &["account_id", "display_name", "description", "disabled"],
        &[
            ("email", "\"${ACCOUNT_ID}@${PROJECT}.iam.gserviceaccount.com\""),
            ("name", "\"projects/${PROJECT}/serviceAccounts/${ACCOUNT_ID}@${PROJECT}.iam.gserviceaccount.com\""),
        ],
    ),
    ("google_service_account_iam_member", &["service_account_id", "role", "member"], &[]),
    ("google_storage_bucket_iam_member", &["bucket", "role", "member"], &[]),
    ("google_artifact_registry_repository", &["location", "repository_id", "format", "description"], &[]),
    ("google_artifact_registry_repository_iam_member", &["location", "repository", "role", "member"], &[]),
    ("google_project_iam_member", &["role", "member"], &[]),
];

/// A kind of resource: its name, its arguments, and what is computed of them.
type Known = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

fn known(kind: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|(name, ..)| *name == kind)
}

/// The module's blocks, of all files.
fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    for name in ["main.tf", "outputs.tf", "variables.tf", "versions.tf"] {
        let text = fs::read_to_string(root().join("deploy/google/terraform").join(name)).unwrap();
        let body: Body = hcl::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        for structure in body {
            match structure {
                Structure::Block(block) => blocks.push(block),
                Structure::Attribute(attribute) => panic!("{name}: {} is outside of a block", attribute.key()),
            }
        }
    }
    blocks
}

fn labels(block: &Block) -> Vec<&str> {
    block.labels().iter().map(hcl::BlockLabel::as_str).collect()
}

/// `google_x`, or `data google_x`, for what has arguments of the provider's.
fn kind(block: &Block) -> Option<(String, String)> {
    match (block.identifier(), labels(block).as_slice()) {
        ("resource", [kind, name]) => Some(((*kind).to_owned(), (*name).to_owned())),
        ("data", [kind, name]) => Some((format!("data {kind}"), (*name).to_owned())),
        _ => None,
    }
}

fn text(expression: &Expression) -> String {
    hcl::format::to_string(expression).unwrap()
}

/// Arguments by their names, those of nested blocks with the block's name before them.
fn arguments(block: &Block) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for attribute in block.body().attributes() {
        all.push((attribute.key().to_owned(), text(attribute.expr())));
    }
    for nested in block.body().blocks() {
        for attribute in nested.body().attributes() {
            all.push((format!("{}.{}", nested.identifier(), attribute.key()), text(attribute.expr())));
        }
    }
    all
}

/// Paths of names with dots between them, as `var.pool` or `google_service_account.jobs`; what is in brackets is left
/// out.
fn paths(text: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '.';
    text.split(|letter| !is_part(letter)).filter(|part| part.contains('.')).map(str::to_owned).collect()
}

#[test]
fn every_name_in_the_module_exists() {
    let blocks = blocks();
    let mut named: BTreeSet<String> = BTreeSet::new();
    let mut used: BTreeSet<String> = BTreeSet::new();
    for block in &blocks {
        match (block.identifier(), labels(block).as_slice()) {
            ("variable", [name]) => {
                named.insert(format!("var.{name}"));
                assert!(block.body().attributes().any(|attribute| attribute.key() == "description"), "{name}");
            }
            ("locals", []) => {
                named.extend(block.body().attributes().map(|attribute| format!("local.{}", attribute.key())));
            }
            ("resource", [kind, name]) => drop(named.insert(format!("{kind}.{name}"))),
            ("data", [kind, name]) => drop(named.insert(format!("data.{kind}.{name}"))),
            ("output", [_]) | ("terraform", []) => {}
            other => panic!("{other:?}"),
        }
        if let Some((kind, name)) = kind(block) {
            let (_, allowed, _) = known(&kind).unwrap_or_else(|| panic!("{kind} is no resource that is known"));
            for (argument, _) in arguments(block) {
                let is_known = allowed.contains(&argument.as_str()) || ANY.contains(&argument.as_str());
                assert!(is_known, "{kind}.{name} has no argument {argument}");
            }
        }
        used.extend(paths(&hcl::format::to_string(&Body::from(vec![block.clone()])).unwrap()));
    }
    let is_reference =
        |path: &&String| ["var.", "local.", "data.", "google_"].iter().any(|start| path.starts_with(start));
    let mut referenced = BTreeSet::new();
    for path in used.iter().filter(is_reference) {
        let length = if path.starts_with("data.") { 3 } else { 2 };
        let name = path.split('.').take(length).collect::<Vec<_>>().join(".");
        assert!(named.contains(&name), "{path} leads nowhere");
        referenced.insert(name);
    }
    // And what has a name is used.
    let unused: Vec<&String> =
        named.iter().filter(|name| !referenced.contains(*name) && !name.starts_with("google_")).collect();
    assert!(unused.is_empty(), "{unused:?}");
}

/// The same module with `terraform_data` in place of Google's resources.
fn translated() -> String {
    let mut out = String::new();
    for block in blocks() {
        let Some((kind, name)) = kind(&block) else {
            if block.identifier() != "terraform" {
                out.push_str(&hcl::format::to_string(&Body::from(vec![block])).unwrap());
            }
            continue;
        };
        let (_, _, computed) = known(&kind).unwrap();
        let all: BTreeMap<String, String> = arguments(&block).into_iter().collect();
        writeln!(out, "resource \"terraform_data\" \"{}__{name}\" {{", kind.replace(' ', "_")).unwrap();
        if let Some(each) = all.get("for_each") {
            writeln!(out, "  for_each = {each}").unwrap();
        }
        writeln!(out, "  input = {{").unwrap();
        for (argument, value) in all.iter().filter(|(name, _)| !["for_each", "depends_on"].contains(&name.as_str())) {
            writeln!(out, "    \"{argument}\" = {value}").unwrap();
        }
        for (attribute, value) in *computed {
            let given = |name: &str| all.get(name).map_or("", String::as_str);
            let value = value.replace("ACCOUNT_ID", given("account_id")).replace("PROJECT", given("project"));
            writeln!(out, "    {attribute} = {value}").unwrap();
        }
        writeln!(out, "  }}\n}}").unwrap();
    }
    for block in blocks() {
        let Some((kind, name)) = kind(&block) else { continue };
        let (from, to) = (kind.replace(' ', "."), kind.replace(' ', "_"));
        // With its index, if it has one, and then the name of what is read.
        let mut rest = out.as_str();
        let mut done = String::new();
        while let Some((before, after)) = rest.split_once(&format!("{from}.{name}")) {
            let index = if after.starts_with('[') { after.find("].").unwrap() + 1 } else { 0 };
            write!(done, "{before}terraform_data.{to}__{name}{}.input", &after[..index]).unwrap();
            rest = &after[index..];
        }
        done.push_str(rest);
        out = done;
    }
    out
}

fn terraform(directory: &Path, arguments: &[&str]) -> crate::desk::Run {
    let mut command = Command::new("terraform");
    command.args(arguments).current_dir(directory).env("CHECKPOINT_DISABLE", "1").env("HOME", directory);
    finish(command.env("TF_CLI_CONFIG_FILE", "/dev/null").env("TF_IN_AUTOMATION", "1"))
}

/// What the module would make with these variables: resources by their kind, and outputs.
fn plan(variables: &Value) -> Result<(BTreeMap<String, Vec<Value>>, Value), String> {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("main.tf"), translated()).unwrap();
    fs::write(directory.path().join("values.auto.tfvars.json"), variables.to_string()).unwrap();
    terraform(directory.path(), &["init", "-no-color", "-input=false"]).ok();
    let run = terraform(directory.path(), &["plan", "-no-color", "-input=false", "-out=plan"]);
    if run.status != Some(0) {
        return Err(run.stderr);
    }
    let shown = terraform(directory.path(), &["show", "-json", "plan"]).ok().stdout;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let mut resources: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for resource in shown["planned_values"]["root_module"]["resources"].as_array().unwrap() {
        let (kind, _) = resource["name"].as_str().unwrap().split_once("__").unwrap();
        resources.entry(kind.to_owned()).or_default().push(resource["values"]["input"].clone());
    }
    Ok((resources, shown["planned_values"]["outputs"].clone()))
}

fn golden(name: &str) -> Value {
    let path = root().join("tests/setup/golden").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn is_there() -> bool {
    let is_there = is_installed("terraform");
    if !is_there {
        skip("terraform is not installed: what deploy/google/terraform would make");
    }
    is_there
}

#[test]
fn the_module_creates_what_the_script_creates() {
    if !is_there() {
        return;
    }
    let variables = json!({
        "project": "my-project",
        "issuer": "https://ISSUER/id/cluster",
        "service_accounts": ["trainer-jobs"],
        "buckets": {"training-data": "objectUser"},
        "repositories": ["us-central1/images"],
        "service_usage": true,
        "condition": "assertion.sub.startsWith('system:serviceaccount:')",
    });
    let (made, outputs) = plan(&variables).unwrap();
    let wanted = golden("whole.json");
    let text = |value: &Value| value.as_str().unwrap().to_owned();

    let services: BTreeSet<String> = made["google_project_service"].iter().map(|one| text(&one["service"])).collect();
    let of_script: BTreeSet<String> = wanted["services"].as_array().unwrap().iter().map(text).collect();
    let from_the_start = ["serviceusage.googleapis.com", "cloudresourcemanager.googleapis.com"].map(str::to_owned);
    assert_eq!(services, of_script.difference(&from_the_start.into()).cloned().collect());

    let pool = &made["google_iam_workload_identity_pool"][0];
    assert_eq!(wanted["pools"][text(&pool["workload_identity_pool_id"])]["displayName"], pool["display_name"]);
    let provider = &made["google_iam_workload_identity_pool_provider"][0];
    let of_script = &wanted["providers"]["slurm/cluster"];
    assert_eq!(provider["workload_identity_pool_provider_id"], "cluster");
    for (argument, field) in [("attribute_mapping", "attributeMapping"), ("attribute_condition", "attributeCondition")]
    {
        assert_eq!(provider[argument], of_script[field]);
    }
    assert_eq!(provider["oidc.issuer_uri"], of_script["oidc"]["issuerUri"]);
    assert_eq!(provider["oidc.allowed_audiences"], json!([]));
    assert!(provider["oidc.jwks_json"].is_null() && of_script["oidc"]["jwksJson"].is_null());

    let emails: Vec<String> = made["google_service_account"].iter().map(|one| text(&one["email"])).collect();
    assert_eq!(emails, wanted["accounts"].as_object().unwrap().keys().cloned().collect::<Vec<_>>());
    let repositories: Vec<String> = made["google_artifact_registry_repository"]
        .iter()
        .map(|one| format!("{}/{}", text(&one["location"]), text(&one["repository_id"])))
        .collect();
    assert_eq!(repositories, wanted["repositories"].as_object().unwrap().keys().cloned().collect::<Vec<_>>());

    let mut policies: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (kind, bindings) in made.iter().filter(|(kind, _)| kind.ends_with("_iam_member")) {
        for binding in bindings {
            let resource = match kind.as_str() {
                "google_storage_bucket_iam_member" => format!("gs://{}", text(&binding["bucket"])),
                "google_service_account_iam_member" => {
                    text(&binding["service_account_id"]).rsplit('/').next().unwrap().to_owned()
                }
                "google_artifact_registry_repository_iam_member" => {
                    format!("{}/{}", text(&binding["location"]), text(&binding["repository"]))
                }
                _ => text(&binding["project"]),
            };
            let line = format!("{} {}", text(&binding["role"]), text(&binding["member"]));
            policies.entry(resource).or_default().push(line);
        }
    }
    let mut of_script: BTreeMap<String, Vec<String>> = serde_json::from_value(wanted["policies"].clone()).unwrap();
    // These roles belong to the bucket's owner.
    of_script.values_mut().for_each(|lines| lines.retain(|line| !line.contains(" user:")));
    assert_eq!(policies, of_script);

    let parsed = |name: &str| serde_json::from_str::<Value>(outputs[name]["value"].as_str().unwrap()).unwrap();
    assert_eq!(parsed("credential_configuration"), golden("credential-configuration.json"));
    assert_eq!(parsed("gcp_wif"), golden("gcp-wif.json"));
    assert_eq!(
        outputs["audience"]["value"],
        "https://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/slurm/providers/cluster"
    );
}

#[test]
fn the_module_for_subjects_themselves_and_for_several_accounts() {
    if !is_there() {
        return;
    }
    let (made, outputs) = plan(&json!({
        "project": "my-project", "issuer": "https://kubernetes.default.svc", "service_accounts": [],
        "subjects": ["system:serviceaccount:slurm:gpu", "system:serviceaccount:slurm:cpu"],
        "buckets": {"training-data": "objectViewer"}, "sts_location": "us-central1",
        "jwks": "{\"keys\": []}", "audiences": ["https://gcp.example.net"],
    }))
    .unwrap();
    let members: BTreeSet<&str> =
        made["google_storage_bucket_iam_member"].iter().map(|one| one["member"].as_str().unwrap()).collect();
    let of_pool =
        "principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/slurm/subject";
    let subjects = ["cpu", "gpu"].map(|name| format!("{of_pool}/system:serviceaccount:slurm:{name}"));
    assert_eq!(members, subjects.iter().map(String::as_str).collect());
    assert!(!made.contains_key("google_service_account"));
    let written: Value = serde_json::from_str(outputs["credential_configuration"]["value"].as_str().unwrap()).unwrap();
    assert_eq!(written["token_url"], "https://sts.us-central1.rep.googleapis.com/v1/token");
    assert_eq!(written["token_info_url"], "https://sts.googleapis.com/v1/introspect");
    assert!(written["service_account_impersonation_url"].is_null());
    assert_eq!(outputs["audience"]["value"], "https://gcp.example.net");

    let several = json!({
        "project": "my-project", "issuer": "https://oidc.example.net",
        "service_accounts": ["trainer-jobs", "reader-jobs"], "lifetime": 7200,
    });
    let (_, outputs) = plan(&several).unwrap();
    let site: Value = serde_json::from_str(outputs["gcp_wif"]["value"].as_str().unwrap()).unwrap();
    let [trainer, reader] = ["trainer", "reader"].map(|name| format!("{name}-jobs@my-project.iam.gserviceaccount.com"));
    assert_eq!(site["rules"], json!([{"service_account": trainer, "allow": [reader]}]));
    let written: Value = serde_json::from_str(outputs["credential_configuration"]["value"].as_str().unwrap()).unwrap();
    assert_eq!(written["service_account_impersonation"], json!({"token_lifetime_seconds": 7200}));
}

#[test]
fn the_module_refuses_what_the_script_refuses() {
    if !is_there() {
        return;
    }
    // Terraform reports all of them at once.
    let refusal = plan(&json!({
        "project": "my-project", "issuer": "http://oidc.example.net", "subjects": ["system:serviceaccount:*"],
        "pool": "gcp-slurm", "service_accounts": ["job"], "lifetime": 60, "repositories": ["images"],
    }))
    .unwrap_err();
    for words in [
        "The issuer must be an https URL",
        "A subject must be one name",
        "must not begin",
        "The name must have 6 to 30",
        "The lifetime must be 600 to 43200 seconds",
        "A repository must be LOCATION/NAME",
    ] {
        assert!(refusal.contains(words), "{words}\n{refusal}");
    }
}

#[test]
fn the_module_is_formatted() {
    if is_there() {
        let run = terraform(&root().join("deploy/google/terraform"), &["fmt", "-check", "-diff", "-no-color"]);
        assert_eq!((run.status, run.stdout.as_str()), (Some(0), ""));
    }
}
