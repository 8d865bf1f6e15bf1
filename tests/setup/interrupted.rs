//! The script is killed at a step, before or after the step's effect, and runs again.

use crate::desk::{Desk, golden};
use crate::whole::ALL;

/// Kills the script at the step with this number. Commands that only read are not steps.
const GCLOUD: &str = r#"#!/bin/bash
real=$(PATH=${PATH#*:} command -v gcloud)
case " $* " in *" describe "* | *" list "* | *" get-iam-policy "*) exec "$real" "$@" ;; esac
echo >>"$STEPS"
(($(wc -l <"$STEPS") == STEP)) || exec "$real" "$@"
[[ $WHEN == before ]] || "$real" "$@"
kill -KILL $PPID
"#;

/// Steps of a whole run, gcloud's writing of the credential configuration included.
const STEPS: usize = 10;

/// Runs the script until it is killed at a step.
pub fn kill_at(desk: &Desk, step: usize, when: &str) {
    desk.install("gcloud", GCLOUD);
    let issuer = format!("--issuer={}", desk.api.issuer());
    let output = format!("--output={}", desk.path("out").display());
    let mut command = desk.command("deploy/google/setup");
    command.args(["--project=my-project", &issuer, &output]).args(ALL);
    command.env("STEPS", desk.path("steps")).env("STEP", step.to_string()).env("WHEN", when);
    let run = crate::desk::finish(&mut command);
    assert_eq!(run.status, None, "step {step}: {}\n{}", run.stdout, run.stderr);
    std::fs::remove_file(desk.path("bin/gcloud")).unwrap();
}

/// Kills the script at each step. Without `GCP_WIF_SETUP_SWEEP`, only `whole.rs` kills it, at one step.
#[test]
fn killed_and_run_again() {
    if std::env::var_os("GCP_WIF_SETUP_SWEEP").is_none() {
        return;
    }
    for (step, when) in (1..=STEPS).flat_map(|step| [(step, "before"), (step, "after")]) {
        let Some(desk) = Desk::new() else { return };
        kill_at(&desk, step, when);
        desk.setup(&ALL).ok();
        golden("whole.json", &desk.api.dump());
        golden("credential-configuration.json", &desk.written("credential-configuration.json"));
    }
}
