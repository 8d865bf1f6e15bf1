//! The commands of `deploy/google/README.md`.

use std::fs;

use crate::api::world::World;
use crate::desk::{Desk, finish, root};

/// A gcloud that answers like Google for an empty project, and starts at once.
const EMPTY: &str = r#"#!/bin/sh
printf '%s\n' "$*" >>"${0%/*}/asked"
case "$*" in
  "projects describe my-project "*) echo 123456789012 ;;
  "services list "* | "storage buckets get-iam-policy gs://training-data "*) ;;
  *) echo "ERROR: NOT_FOUND: Requested entity was not found." >&2; exit 1 ;;
esac
"#;

fn readme() -> String {
    fs::read_to_string(root().join("deploy/google/README.md")).unwrap()
}

/// The lines of all blocks with this word after the fence.
fn blocks(fence: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inside = false;
    for line in readme().lines() {
        match line.strip_prefix("```") {
            Some(word) => inside = word == fence,
            None if inside => lines.push(line.to_owned()),
            None => {}
        }
    }
    assert!(!lines.is_empty(), "no block {fence}");
    lines
}

/// Runs them in a shell. With `--dry-run`, the script only prints its plan.
fn run(desk: &Desk, lines: &[String]) -> String {
    let issuer = desk.api.issuer();
    let answers = format!(
        "#!/bin/sh\ncase \"$*\" in\n  *openid-configuration) echo '{{\"issuer\":\"{issuer}\",\"jwks_uri\":\"\"}}' ;;\n  \
         \"get --raw /openid/v1/jwks\") echo '{{\"keys\":[]}}' ;;\n  *) exit 1 ;;\nesac\n"
    );
    desk.install("kubectl", &answers);
    let script =
        lines.join("\n").replace("deploy/google/setup", &root().join("deploy/google/setup").display().to_string());
    let mut command = desk.command("bash");
    let run = finish(command.args(["-euo", "pipefail", "-c", &script]).current_dir(desk.path("out"))).ok();
    run.stdout
}

/// Each command, up to its plan.
#[test]
fn every_command_is_one_that_the_script_takes() {
    let desk = Desk::without_gcloud(World::new());
    desk.install("gcloud", EMPTY);
    let lines: Vec<String> = blocks("sh")
        .into_iter()
        .map(|line| if line.contains("google/setup") { format!("{line} --dry-run") } else { line })
        .collect();
    let commands = lines.iter().filter(|line| line.contains("google/setup")).count();
    let out = run(&desk, &lines);
    assert!(out.contains("- create the pool slurm\n    gcloud iam workload-identity-pools create slurm "), "{out}");
    // Nothing was done, and nothing was written.
    let asked = fs::read_to_string(desk.path("bin/asked")).unwrap();
    let looks = ["describe", "list", "get-iam-policy"];
    assert!(asked.lines().all(|line| line.split(' ').any(|word| looks.contains(&word))), "{asked}");
    let written: Vec<_> = fs::read_dir(desk.path("out")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(written, ["jwks.json"]);
    let done =
        out.matches("Nothing was done because of --dry-run.").count() + out.matches("There is nothing to do").count();
    assert_eq!((commands, done), (8, 8), "{out}");
    assert!(
        out.contains("workloadIdentityPools/slurm-east/subject/system:serviceaccount:tenant-slurm:default"),
        "{out}"
    );
}

#[test]
fn without_a_terminal_or_yes_the_script_refuses_to_run() {
    let desk = Desk::without_gcloud(World::new());
    desk.install("gcloud", EMPTY);
    let line = desk.setup(&[]).failure(2);
    assert!(line.starts_with("setup: there is no terminal for the confirmation; use --yes or --dry-run."), "{line}");
    assert!(!desk.path("bin/asked").exists());
}

/// The module's call names variables and outputs that it has.
#[test]
fn the_modules_example_names_existing_variables_and_outputs() {
    let call: hcl::Body = hcl::parse(&blocks("hcl").join("\n")).unwrap();
    let variables: String = fs::read_to_string(root().join("deploy/google/terraform/variables.tf")).unwrap();
    let outputs: String = fs::read_to_string(root().join("deploy/google/terraform/outputs.tf")).unwrap();
    let module = call.blocks().find(|block| block.identifier() == "module").unwrap();
    for attribute in module.body().attributes().filter(|attribute| attribute.key() != "source") {
        assert!(variables.contains(&format!("variable \"{}\" {{", attribute.key())), "{}", attribute.key());
    }
    for output in call.blocks().filter(|block| block.identifier() == "output") {
        let value = hcl::format::to_string(output.body().attributes().next().unwrap().expr()).unwrap();
        let name = value.strip_prefix("module.gcp_wif.").unwrap();
        assert!(outputs.contains(&format!("output \"{name}\" {{")), "{name}");
    }
}
