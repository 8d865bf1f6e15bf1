//! Defences against users' input (options, variables, text) and against failures in hooks.

use super::{Defence, edit};

const FACE: &str = "src/lib.rs";
const HOST: &str = "src/host.rs";
const NAMES: &str = "core/src/words/names.rs";
const STEP: &str = "core/src/job/lifecycle/step.rs";

pub(super) const DEFENCES: &[Defence] = &[
    Defence {
        name: "checked-emails",
        property: "a service account's name contains only letters, digits and hyphens",
        edits: &[edit(
            "core/src/words/google.rs",
            "label(name) && domain.split('.').all(label) && domain",
            "let _ = (name, label); domain",
        )],
        must_fail: &["attacks::paths_in_names"],
    },
    Defence {
        name: "errors-of-hooks",
        property: "hooks never return an error",
        edits: &[
            edit(FACE, "Ok(Err(error)) => error.to_string(),", "Ok(Err(error)) => return Err(error),"),
            edit(
                FACE,
                "plugin.outcome.lines().iter().for_each(|line| slurm_spank_log(line));\n            Ok(())",
                "plugin.outcome.lines().iter().try_for_each(|line| Err(line.as_str().into()))",
            ),
        ],
        must_fail: &["attacks::failures_provoked"],
    },
    Defence {
        name: "panics-in-hooks",
        property: "hooks catch panics",
        edits: &[edit(
            FACE,
            "match catch_unwind(AssertUnwindSafe(|| work(self))) {",
            "match Ok::<_, ()>(work(self)) {",
        )],
        must_fail: &["failures::node::a_bug_in_every_hook_drains_no_node_and_passes_no_explicit_request"],
    },
    Defence {
        name: "clipped-text",
        property: "untrusted text is clipped",
        edits: &[edit(NAMES, "if length > limit {", "if length > limit.saturating_mul(100_000) {")],
        must_fail: &["attacks::oversized_input"],
    },
    Defence {
        name: "escaped-text",
        property: "control characters in untrusted text are escaped",
        edits: &[edit(NAMES, "(!is_shown(c)).then(", "false.then(")],
        must_fail: &["attacks::escape_sequences"],
    },
    Defence {
        name: "variables-of-root",
        property: "proxy variables in the environment are ignored",
        edits: &[edit("core/src/world/http.rs", ".proxy(proxy)", ".proxy(proxy.or_else(ureq::Proxy::try_from_env))")],
        must_fail: &["attacks::hostile_variables_of_the_daemons"],
    },
    Defence {
        name: "outer-jobs-variables",
        property: "variables of an outer job are removed at submission",
        edits: &[edit(
            "core/src/job/lifecycle.rs",
            "Ok((request, environment::changes(&Environment::new(), false, variable)))",
            "let _ = variable;\n    Ok((request, Vec::new()))",
        )],
        must_fail: &["requests::a_job_submitted_from_inside_a_job_stores_no_token"],
    },
    Defence {
        name: "facts-of-a-step",
        property: "a step's facts come from the prolog's record and not from its environment",
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
        must_fail: &[
            "attacks::forged_account_and_partition",
            "attacks::forged::a_patched_srun_is_who_slurmd_says_it_is",
        ],
    },
    Defence {
        name: "arguments-told",
        property: "the message about an invalid argument in plugstack.conf names the argument",
        edits: &[edit(FACE, "return Err(Failure::of_argument(argument))", "return Err(Failure::internal())")],
        must_fail: &["failures::node::arguments_of_the_plugin"],
    },
    Defence {
        name: "options-of-the-job",
        property: "the record keeps the options of the job's submission",
        edits: &[edit(
            STEP,
            "runtime.as_ref().and_then(|runtime| self.submitted(host, runtime, job))",
            "runtime.as_ref().and_then(|runtime| self.submitted(host, runtime, job)).filter(|_| false)",
        )],
        must_fail: &[
            "refresh::steps::a_step_from_outside_has_what_its_batch_job_asked_for",
            "refresh::steps::a_step_with_an_empty_environment_has_what_its_job_asked_for",
        ],
    },
];
