//! Defences of the exchange: against answers from Google or a server in its place, and for the requests to Google.

use super::{Defence, edit};

const HTTP: &str = "core/src/world/http.rs";
const OBTAIN: &str = "core/src/job/obtain.rs";
const TOKENS: &str = "core/src/tokens.rs";

pub(super) const DEFENCES: &[Defence] = &[
    Defence {
        name: "redirects",
        property: "redirects are not followed",
        edits: &[edit(HTTP, ".max_redirects(0)", ".max_redirects(5)")],
        must_fail: &["attacks::answers::a_redirect_takes_no_token_elsewhere"],
    },
    Defence {
        name: "long-answers",
        property: "an answer has a size limit of 64 KiB",
        edits: &[edit(
            HTTP,
            "limit(LONGEST_BODY).read_to_vec().map_err(transport_error)?;\n        Ok(Response {",
            "limit(u64::MAX).read_to_vec().map_err(transport_error)?;\n        Ok(Response {",
        )],
        must_fail: &["attacks::answers::an_answer_without_end_or_haste_is_given_up"],
    },
    Defence {
        name: "slow-answers",
        property: "an answer has a time limit",
        edits: &[edit(
            HTTP,
            ".timeout_global(Some(limit))\n            .build()\n            .header(\"Content-Type\"",
            ".build()\n            .header(\"Content-Type\"",
        )],
        must_fail: &["attacks::answers::an_answer_without_end_or_haste_is_given_up"],
    },
    Defence {
        name: "tokens-of-an-answer",
        property: "a token in an answer must be visible ASCII",
        edits: &[edit("core/src/exchange.rs", "|| !text.bytes().all(|b| b.is_ascii_graphic())", "")],
        must_fail: &["attacks::answers::a_token_that_cannot_be_one_is_not_taken"],
    },
    Defence {
        name: "repeated-tokens",
        property: "a token that an answer repeats is removed from messages",
        edits: &[edit("core/src/exchange/refusal.rs", "body.replace(sent.expose(), REPEATED)", "body")],
        must_fail: &["attacks::answers::a_token_that_an_error_repeats_is_told_to_nobody"],
    },
    Defence {
        name: "one-exchange",
        property: "all jobs and steps of a user share a kept token",
        edits: &[
            edit(OBTAIN, "kept.token(will_do)", "kept.token(|token| will_do(token) && false)"),
            edit(
                "core/src/job/issuance.rs",
                "issued.filter(|issued| issued.token.is_fresh(self.node.clock.moment()))",
                "issued.filter(|_| false)",
            ),
        ],
        must_fail: &[
            "jobs::many_steps_at_once_make_one_exchange",
            "kept::jobs_of_one_user_that_start_at_once_make_one_exchange",
        ],
    },
    Defence {
        name: "users-apart",
        property: "users do not share kept tokens",
        edits: &[edit(TOKENS, "        Self {\n            uid,", "        Self {\n            uid: uid & 0,")],
        must_fail: &["kept::two_users_never_hold_the_same_token"],
    },
    Defence {
        name: "identities-apart",
        property: "identities do not share kept tokens",
        edits: &[edit(TOKENS, "identity: grant.identity().clone(),", "identity: Identity::Federated,")],
        must_fail: &["attacks::two_identities_at_once", "kept::identities_of_one_user_keep_apart"],
    },
    Defence {
        name: "workers-ended",
        property: "the epilog kills a running exchange",
        edits: &[edit("core/src/job/lifecycle.rs", "self.processes.end(worker);", "let _ = worker;")],
        must_fail: &["kills::a_job_cancelled_before_its_first_step_ends_its_worker"],
    },
    Defence {
        name: "deadline-of-an-exchange",
        property: "the wait for another process's exchange has a deadline",
        edits: &[edit(OBTAIN, "if Instant::now() >= end {", "if false && Instant::now() >= end {")],
        must_fail: &["kills::a_prolog_worker_that_is_stopped_causes_one_line_and_drains_no_node"],
    },
];
