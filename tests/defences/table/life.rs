//! Defences in the later life of a credential: refreshes, runs, clocks, runtime directories.

use super::{Defence, edit};

const ISSUANCE: &str = "core/src/job/issuance.rs";
const REFRESH: &str = "core/src/job/refresh.rs";
const REQUESTED: &str = "core/src/job/requested.rs";
const RUN: &str = "command/src/agent/run.rs";

pub(super) const DEFENCES: &[Defence] = &[
    Defence {
        name: "grant-repeated",
        property: "a refresh repeats the grant and makes no new decision",
        edits: &[edit(
            REFRESH,
            "let (grant, facts) = (&issued.grant, &record.facts);",
            "let facts = &record.facts;\n    \
             let decided = Site::load(node.config_path).ok().and_then(|site| Grant::decide(&site, facts, None).ok());\n    \
             let grant = decided.as_ref().unwrap_or(&issued.grant);",
        )],
        must_fail: &[
            "refresh::identity::a_job_that_asked_for_the_sites_default_keeps_it_where_its_rule_has_another",
            "refresh::identity::a_site_that_changes_its_service_account_does_not_change_running_jobs",
        ],
    },
    Defence {
        name: "rules-of-a-refresh",
        property: "each refresh checks the grant against the rules",
        edits: &[edit(REFRESH, "grant.still_holds(&site, facts)?;", "let _ = (grant, facts);")],
        must_fail: &[
            "refresh::identity::rules_that_are_written_later_end_a_jobs_refresh_and_do_not_change_its_identity",
        ],
    },
    Defence {
        name: "rules-of-open-id-tokens",
        property: "each request for an OpenID token checks the grant against the rules",
        edits: &[
            edit(REQUESTED, "if matches!(self.purpose, Purpose::IdToken(_)) {", "if false {"),
            edit(
                REQUESTED,
                "if let Err(denial) = self.grant.still_holds(&site, self.facts) {",
                "if let Err(denial) = self.grant.still_holds(&site, self.facts).or(Ok::<_, crate::policy::rules::Denial>(())) {",
            ),
        ],
        must_fail: &["refresh::refused::a_user_whom_the_rules_no_longer_know_gets_no_more_open_id_tokens"],
    },
    Defence {
        name: "runs-apart",
        property: "the result of an exchange is used only for the run that requested it",
        edits: &[edit(ISSUANCE, "record.filter(|record| record.run == self.run)", "record.filter(|_| true)")],
        must_fail: &["refresh::slow::a_refresh_of_a_jobs_earlier_run_changes_nothing_of_the_later_one"],
    },
    Defence {
        name: "jobs-that-are-over",
        property: "nothing is written for a job without a record",
        edits: &[edit(
            ISSUANCE,
            "self.runtime.lock_existing(self.facts.job, LOCK)?.ok_or_else(|| self.over())?",
            "self.runtime.lock(self.facts.job, LOCK)?",
        )],
        must_fail: &["refresh::slow::a_refresh_that_ends_after_its_job_leaves_nothing"],
    },
    Defence {
        name: "no-exchange-under-a-lock",
        property: "no process holds a job's lock during an exchange",
        edits: &[edit(
            REFRESH,
            "let begun = issuance.begin(&record, grant);",
            "let begun = issuance.begin(&record, grant);\n    \
             let _held = runtime.lock_existing(due.job, Duration::from_secs(5));",
        )],
        must_fail: &["refresh::slow::a_step_begins_while_google_hangs_for_a_refresh"],
    },
    Defence {
        name: "healing",
        property: "files that a kill or a full disk left incomplete are published again",
        edits: &[
            edit(
                ISSUANCE,
                "fn heal(&self, record: &JobRecord) -> Result<(), Failure> {\n        if is_whole(self.runtime, record) {",
                "fn heal(&self, record: &JobRecord) -> Result<(), Failure> {\n        if record.run == self.run {",
            ),
            edit(
                ISSUANCE,
                "fn heal_if_idle(&self, record: &JobRecord) -> Result<(), Failure> {\n        if is_whole(self.runtime, record) {",
                "fn heal_if_idle(&self, record: &JobRecord) -> Result<(), Failure> {\n        if record.run == self.run {",
            ),
        ],
        must_fail: &["refresh::pulls::a_token_that_could_not_be_published_is_published_by_the_next_look"],
    },
    Defence {
        name: "status-of-failures",
        property: "the status file reports each failure",
        edits: &[edit(ISSUANCE, "self.tell_status(identity, begun.token, failure);", "let _ = (identity, failure);")],
        must_fail: &[
            "refresh::refused::a_refresh_that_the_rules_refuse_is_in_status_and_log",
            "refresh::refused::a_refresh_that_the_configuration_prevents_is_in_status_and_log",
        ],
    },
    Defence {
        name: "clocks",
        property: "a token that was issued before the clock was set is due at once",
        edits: &[edit(
            "core/src/tokens.rs",
            "by_day.abs_diff(by_machine) > CLOCK_SLEW",
            "by_day.abs_diff(by_machine) > u64::MAX / 2 + CLOCK_SLEW",
        )],
        must_fail: &[
            "refresh::clock::a_token_from_the_future_is_renewed_soon",
            "refresh::clock::a_step_does_not_begin_with_a_token_from_the_future",
        ],
    },
    Defence {
        name: "other-directories",
        property: "the runtime directories of earlier configurations are remembered",
        edits: &[edit(
            "core/src/job/places.rs",
            "paths.extend(fs::links(&default_dir.join(ELSEWHERE)).into_iter().map(|(_, target)| target));",
            "",
        )],
        must_fail: &["agent::moved::nothing_of_a_job_stays_in_the_directory_that_it_began_with"],
    },
    Defence {
        name: "served-by-records",
        property: "a handle becomes invalid with its job, even while the configuration is invalid",
        edits: &[edit(
            RUN,
            "self.look_at_configuration();\n        obtain::sweep",
            "self.look_at_configuration();\n        if self.trouble.borrow().is_some() {\n            return;\n        }\n        obtain::sweep",
        )],
        must_fail: &[
            "refresh::refused::the_handle_dies_with_the_job_though_the_credential_configuration_is_gone",
            "refresh::refused::the_handle_dies_with_the_job_though_the_site_configuration_is_gone",
        ],
    },
    Defence {
        name: "search-for-secrets",
        property: "each test searches the agents' logs for secrets",
        edits: &[edit("tests/cluster/health.rs", "files.extend(self.nodes().iter().flat_map(logs_of_agents));", "")],
        must_fail: &["search::a_token_or_a_handle_in_a_log_is_found"],
    },
];
