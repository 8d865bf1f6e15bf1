//! What holds after each event, whatever went wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use gcp_wif_core::tokens::Token;
use gcp_wif_core::words::names::JobId;

use crate::google::LIFE;
use crate::node::{Tried, World};
use crate::trouble::Troubles;

/// After what keeps a job from a token is over, it has one within this time: the longest pause of the schedule, a look,
/// and an exchange.
const BOUND: Duration = Duration::from_secs(60 + 15 + 25);
/// How long a failure of Google's holds for all jobs of a user (`core/src/plan/kept.rs`), which counts whole seconds.
const FAILURE_HOLDS: Duration = Duration::from_secs(10 - 1);
/// A new token is not asked for before this part of the old one's life is over.
const EARLIEST: Duration = Duration::from_secs(LIFE as u64 * 2 / 5 - 5);
/// Requests of one exchange: four tries of each, or as many as a throttled client has time for.
const REQUESTS: u64 = 12;

/// A job that runs.
#[derive(Debug)]
pub struct Running {
    pub user: u32,
    /// What it was granted, for good.
    pub identity: String,
    /// When something last kept it from a new token, or when it began.
    pub kept_until: Duration,
    /// The token that it has, as its file and its record say.
    pub token: Option<(String, Token)>,
}

#[derive(Default)]
pub struct Promises {
    /// The last exchange of each user and identity.
    last: BTreeMap<String, Tried>,
    seen: usize,
    /// How long a job was without a valid token though nothing kept it from one any more.
    pub longest: Duration,
    pub checks: u64,
}

impl Promises {
    /// Looks who is kept from a token.
    pub fn look(world: &World, troubles: &Troubles, jobs: &mut BTreeMap<JobId, Running>) {
        let now = world.time();
        let kept = jobs.values_mut().filter(|running| troubles.keeps_from_a_token(running.user, world));
        kept.for_each(|running| running.kept_until = now);
    }

    pub fn check(&mut self, world: &World, troubles: &Troubles, jobs: &mut BTreeMap<JobId, Running>) {
        self.checks += 1;
        Self::look(world, troubles, jobs);
        for (job, running) in jobs {
            self.check_job(world, *job, running);
        }
        self.check_exchanges(world, troubles);
    }

    fn check_job(&mut self, world: &World, job: JobId, running: &mut Running) {
        let now = world.time();
        let text = world.file(job, "access_token").unwrap_or_else(|| panic!("{now:?}: job {job} has no access_token"));
        let token = world.google.token(&text).unwrap_or_else(|| panic!("{now:?}: job {job} has {text:?}"));
        let has = (token.identity.as_str(), token.user.as_str());
        assert_eq!(has, (&*running.identity, &*running.user.to_string()), "{now:?}: job {job}");
        let left = token.ends - world.true_time();
        let kept_for = now - running.kept_until;
        if left <= 0 {
            self.longest = self.longest.max(kept_for);
        }
        let status =
            || format!("{}\n{:#?}", world.file(job, "status").unwrap_or_default(), world.journal.lines.borrow());
        assert!(
            kept_for < BOUND || left >= LIFE / 2 - BOUND.as_secs() as i64,
            "{now:?}: job {job} has a token for {left} s, and nothing has kept it from another one for {kept_for:?}\n{}",
            status()
        );
        // What clients are told of it.
        if running.token.as_ref().is_none_or(|(known, _)| *known != text) {
            let record = world.record(job).unwrap_or_else(|| panic!("{now:?}: job {job} has no record"));
            let issued =
                record.issued.into_iter().find(|issued| issued.name == running.identity).expect("it was issued");
            if issued.token.secret().expose() != text {
                // It could not be published, and heals.
                assert!(kept_for < BOUND, "{now:?}: job {job}: file and record differ for {kept_for:?}");
                return;
            }
            running.token = Some((text, issued.token));
        }
        let told = running.token.as_ref().map_or(left, |(_, token)| token.left_of_job(world.moment()));
        assert!((told - left).abs() <= 3, "{now:?}: job {job}: clients are told {told} s of {left} s");
    }

    fn check_exchanges(&mut self, world: &World, troubles: &Troubles) {
        let tried = world.tried.borrow();
        for this in &tried[self.seen..] {
            if let Some(last) = self.last.insert(this.key.clone(), this.clone()) {
                // Where nothing could be kept, each job asks for itself.
                let has_excuse = troubles.excuse.is_some_and(|at| at + BOUND >= last.begun) || troubles.is_disk_full();
                let earliest = match (last.has_failed, last.is_googles) {
                    (false, _) => EARLIEST,
                    (true, true) => FAILURE_HOLDS,
                    (true, false) => Duration::ZERO,
                };
                assert!(
                    has_excuse || this.begun >= last.ended + earliest,
                    "Google is asked too often: {last:?} {this:?}"
                );
            }
        }
        self.seen = tried.len();
        let most = (tried.len() as u64 + troubles.count(&[crate::trouble::Kind::Serving])) * REQUESTS;
        assert!(world.google.calls.get() <= most, "{} calls", world.google.calls.get());
    }
}
