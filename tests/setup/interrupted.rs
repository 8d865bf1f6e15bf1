//! Killed at a step, before or after what the step does, and run again.

use crate::desk::{Desk, golden};
use crate::whole::ALL;

/// Kills the script at the step of this number; what only looks is no step.
const GCLOUD: &str = r#"#!/bin/bash
real=$(PATH=${PATH#*:} command -v gcloud)
case " $* " in *" describe "* | *" list "* | *" get-iam-policy "*) exec "$real" "$@" ;; esac
echo >>"$STEPS"
(($(wc -l <"$STEPS") == STEP)) || exec "$real" "$@"
[[ $WHEN == before ]] || "$real" "$@"
kill -KILL $PPID
"#;

/// Steps of a whole run, gcloud's writing of the credential configuration included.
const STEPS: usize = 11;

fn killed_at(step: usize, when: &str) -> Option<()> {
    let desk = Desk::new()?;
    desk.install("gcloud", GCLOUD);
    let issuer = format!("--issuer={}", desk.api.issuer());
    let output = format!("--output={}", desk.path("out").display());
    let mut command = desk.command("deploy/google/setup");
    command.args(["--project=my-project", &issuer, &output]).args(ALL);
    command.env("STEPS", desk.path("steps")).env("STEP", step.to_string()).env("WHEN", when);
    let run = crate::desk::finish(&mut command);
    assert_eq!(run.status, None, "step {step}: {}\n{}", run.stdout, run.stderr);
    std::fs::remove_file(desk.path("bin/gcloud")).unwrap();
    desk.setup(&ALL).ok();
    golden("whole.json", &desk.api.dump());
    golden("credential-configuration.json", &desk.written("credential-configuration.json"));
    Some(())
}

#[test]
fn killed_and_run_again() {
    let all = std::env::var_os("GCP_WIF_SETUP_SWEEP").is_some();
    for step in 1..=STEPS {
        for when in ["before", "after"] {
            // In the middle of the roles, with a half of everything.
            if (all || (step, when) == (7, "after")) && killed_at(step, when).is_none() {
                return;
            }
        }
    }
}
