//! The invariants, which are checked after each event.

use std::collections::BTreeMap;
use std::time::Duration;

use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::names::JobId;

use crate::faults::{Faults, Kind};
use crate::google::LIFETIME;
use crate::node::{Attempt, World};

/// The time within which a job has a new token after the end of a fault: the longest pause of the schedule, a look, and
/// an exchange.
const BOUND: Duration = Duration::from_secs(60 + 15 + 25);
/// How long a failure at Google is kept for all jobs of a user (`core/src/plan/kept.rs`). Rounded down, because times
/// are whole seconds.
const FAILURE_KEPT: Duration = Duration::from_secs(10 - 1);
/// The minimum age of a token at its refresh.
const EARLIEST: Duration = Duration::from_secs(LIFETIME as u64 * 2 / 5 - 5);
/// The maximum number of requests of an exchange: four attempts for each of two requests, or as many as a throttled
/// client has time for.
const REQUESTS: u64 = 12;

/// A running job.
#[derive(Debug)]
pub struct Running {
    pub user: u32,
    /// The granted identity. It never changes.
    pub identity: String,
    /// The end of the last fault that prevented a new token, or the start of the job.
    pub prevented_until: Duration,
    /// The current token, from the job's file and its record.
    pub token: Option<(String, Token)>,
}

/// The state of the checks.
#[derive(Default)]
pub struct Invariants {
    /// The last exchange of each user and identity.
    last: BTreeMap<String, Attempt>,
    seen: usize,
    /// The longest time that a job had no valid token after the end of a fault.
    pub longest: Duration,
    pub checks: u64,
}

impl Invariants {
    /// Notes the jobs for which a fault prevents a new token now.
    pub fn note_faults(world: &World, faults: &Faults, jobs: &mut BTreeMap<JobId, Running>) {
        let now = world.time();
        let prevented = jobs.values_mut().filter(|running| faults.prevents_token(running.user, world));
        prevented.for_each(|running| running.prevented_until = now);
    }

    pub fn check(&mut self, world: &World, faults: &Faults, jobs: &mut BTreeMap<JobId, Running>) {
        self.checks += 1;
        Self::note_faults(world, faults, jobs);
        for (job, running) in jobs {
            self.check_job(world, *job, running);
        }
        self.check_exchanges(world, faults);
    }

    fn check_job(&mut self, world: &World, job: JobId, running: &mut Running) {
        let now = world.time();
        let text = world.file(job, "access_token").unwrap_or_else(|| panic!("{now:?}: job {job} has no access_token"));
        let token =
            world.google.token(&text).unwrap_or_else(|| panic!("{now:?}: job {job} has an unknown token {text:?}"));
        let has = (token.identity.as_str(), token.user.as_str());
        assert_eq!(has, (&*running.identity, &*running.user.to_string()), "{now:?}: job {job}");
        let left = token.expires - world.true_time();
        let since_fault = now - running.prevented_until;
        if left <= 0 {
            self.longest = self.longest.max(since_fault);
        }
        let status =
            || format!("{}\n{:#?}", world.file(job, "status").unwrap_or_default(), world.journal.lines.borrow());
        assert!(
            since_fault < BOUND || left >= LIFETIME / 2 - BOUND.as_secs() as i64,
            "{now:?}: job {job}: {left} s left of the token, and no fault for {since_fault:?}\n{}",
            status()
        );
        // Check the lifetime that clients are told.
        if running.token.as_ref().is_none_or(|(known, _)| *known != text) {
            let record = world.record(job).unwrap_or_else(|| panic!("{now:?}: job {job} has no record"));
            let issued = record
                .issued
                .into_iter()
                .find(|issued| issued.name == running.identity)
                .expect("the record has the identity");
            if issued.token.secret().expose() != text {
                // The token could not be published. The agent heals the file.
                assert!(since_fault < BOUND, "{now:?}: job {job}: file and record differ for {since_fault:?}");
                return;
            }
            running.token = Some((text, issued.token));
        }
        let told = running.token.as_ref().map_or(left, |(_, token)| token.left_of_job(world.moment()));
        assert!((told - left).abs() <= 3, "{now:?}: job {job}: clients are told {told} s of {left} s");
    }

    fn check_exchanges(&mut self, world: &World, faults: &Faults) {
        let attempts = world.attempts.borrow();
        for this in &attempts[self.seen..] {
            if let Some(last) = self.last.insert(this.key.clone(), this.clone()) {
                // With a full disk, no token can be kept, and each job does its own exchange.
                let is_excused =
                    faults.extra_exchange.is_some_and(|at| at + BOUND >= last.started) || faults.is_disk_full();
                let earliest = match (last.has_failed, last.is_googles) {
                    (false, _) => EARLIEST,
                    (true, true) => FAILURE_KEPT,
                    (true, false) => Duration::ZERO,
                };
                assert!(
                    is_excused || this.started >= last.ended + earliest,
                    "an exchange is too early: {last:?} {this:?}"
                );
            }
        }
        self.seen = attempts.len();
        let most = (attempts.len() as u64 + faults.count(&[Kind::Serving])) * REQUESTS;
        assert!(world.google.calls.get() <= most, "{} requests to Google", world.google.calls.get());
    }
}
