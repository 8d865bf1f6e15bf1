//! What users hand in: options, variables, text; and what a failure may cost.

use super::{Defence, edit};

const FACE: &str = "src/lib.rs";
const HOST: &str = "src/host.rs";
const NAMES: &str = "core/src/words/names.rs";
const STEP: &str = "core/src/job/lifecycle/step.rs";

pub(super) const DEFENCES: &[Defence] = &[
    Defence {
        name: "checked-emails",
        without: "the name of a service account has letters, digits and hyphens only",
        edits: &[edit(
            "core/src/words/google.rs",
            "label(name) && domain.split('.').all(label) && domain",
            "let _ = (name, label); domain",
        )],
        red: &["attacks::paths_in_names"],
    },
    Defence {
        name: "errors-of-hooks",
        without: "no hook returns an error",
        edits: &[
            edit(FACE, "Ok(Err(error)) => error.to_string(),", "Ok(Err(error)) => return Err(error),"),
            edit(
                FACE,
                "plugin.outcome.lines().iter().for_each(|line| slurm_spank_log(line));\n            Ok(())",
                "plugin.outcome.lines().iter().try_for_each(|line| Err(line.as_str().into()))",
            ),
        ],
        red: &["attacks::failures_provoked"],
    },
    Defence {
        name: "panics-in-hooks",
        without: "no hook lets a panic out",
        edits: &[edit(
            FACE,
            "match catch_unwind(AssertUnwindSafe(|| work(self))) {",
            "match Ok::<_, ()>(work(self)) {",
        )],
        red: &["failures::node::a_bug_in_every_hook_drains_no_node_and_passes_no_explicit_request"],
    },
    Defence {
        name: "clipped-text",
        without: "foreign text is clipped",
        edits: &[edit(NAMES, "if length > limit {", "if length > limit.saturating_mul(100_000) {")],
        red: &["attacks::oversized_input", "attacks::forged::a_value_of_a_mebibyte_costs_its_own_step_at_most"],
    },
    Defence {
        name: "escaped-text",
        without: "control characters in foreign text are escaped",
        edits: &[edit(NAMES, "(!is_shown(c)).then(", "false.then(")],
        red: &["attacks::escape_sequences"],
    },
    Defence {
        name: "variables-of-root",
        without: "no proxy variable of the environment is read",
        edits: &[edit("core/src/world/http.rs", ".proxy(proxy)", ".proxy(proxy.or_else(ureq::Proxy::try_from_env))")],
        red: &["attacks::hostile_variables_of_the_daemons"],
    },
    Defence {
        name: "outer-jobs-variables",
        without: "an outer job's variables are taken out at submission",
        edits: &[edit(
            "core/src/job/lifecycle.rs",
            "Ok((request, environment::changes(&Environment::new(), false, variable)))",
            "let _ = variable;\n    Ok((request, Vec::new()))",
        )],
        red: &["requests::a_job_submitted_from_inside_a_job_stores_no_token"],
    },
    Defence {
        name: "facts-of-the-prolog",
        without: "account and partition are slurmd's own words in the prolog's environment",
        edits: &[edit(
            HOST,
            "let variable = |name: &str| env::var(name).ok()",
            "let variable = |name: &str| env::var(format!(\"SPANK_{name}\")).or_else(|_| env::var(name)).ok()",
        )],
        red: &["attacks::forged_account_and_partition"],
    },
    Defence {
        name: "facts-of-a-step",
        without: "a step has the facts of the prolog, and none of its own environment",
        edits: &[
            edit(
                HOST,
                "groups, placement: None })",
                "groups, placement: Some(Placement { account: spank.getenv_lossy(\"SLURM_JOB_ACCOUNT\").ok().flatten(), \
                 partition: spank.getenv_lossy(\"SLURM_JOB_PARTITION\").ok().flatten() }) })",
            ),
            edit(
                STEP,
                "|record: &JobRecord| (record.facts.uid, record.facts.job) == (job.uid, job.id);",
                "|_: &JobRecord| false;",
            ),
        ],
        red: &["attacks::forged::a_patched_srun_is_who_slurmd_says_it_is"],
    },
    Defence {
        name: "arguments-told",
        without: "a wrong argument in plugstack.conf is told as it is",
        edits: &[edit(FACE, "return Err(Failure::of_argument(argument))", "return Err(Failure::internal())")],
        red: &["failures::node::arguments_of_the_plugin"],
    },
    Defence {
        name: "options-of-the-job",
        without: "the record keeps the options that the job was submitted with",
        edits: &[edit(
            STEP,
            "runtime.as_ref().and_then(|runtime| self.submitted(host, runtime, job))",
            "runtime.as_ref().and_then(|runtime| self.submitted(host, runtime, job)).filter(|_| false)",
        )],
        red: &[
            "refresh::steps::a_step_from_outside_has_what_its_batch_job_asked_for",
            "refresh::steps::a_step_with_an_empty_environment_has_what_its_job_asked_for",
        ],
    },
];
