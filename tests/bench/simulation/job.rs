//! Jobs that make exchanges with the plugin's own code, on a simulated clock.

use std::cell::Cell;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gcp_wif_core::exchange::credential_configuration::{CredentialConfiguration, SubjectTokenFormat};
use gcp_wif_core::exchange::run;
use gcp_wif_core::exchange::subject_token::SubjectToken;
use gcp_wif_core::exchange::{Exchange, Wanted};
use gcp_wif_core::words::google::{Identity, Scope};
use gcp_wif_core::words::time::UnixSeconds;
use gcp_wif_core::world::clock::Clock;
use gcp_wif_core::world::http::{Request, Response, Transport, TransportError};

use super::google::{self, IAM_QUOTA, Kept, Quota, STS_QUOTA};
use super::time::Actor;

/// The duration of a request to Google.
const REQUEST: Duration = Duration::from_millis(60);
/// How long a failure at Google applies to other jobs (`core/src/plan/kept.rs`).
const FAILURE_HOLDS: Duration = Duration::from_secs(10);
/// When it begins.
const BEGIN: UnixSeconds = 1_800_000_000;

/// What the jobs share.
pub struct World {
    /// Jobs of each node.
    pub jobs_of_node: usize,
    pub budget: Duration,
    pub seed: u64,
    /// One quota for each STS endpoint that the nodes use.
    sts: Vec<Quota>,
    iam: Quota,
    nodes: Vec<Kind>,
    pub calls: Vec<Call>,
    pub outcomes: Vec<Outcome>,
}

impl World {
    pub fn new(kept: Kept, endpoints: usize, nodes: usize, jobs_of_node: usize, budget: Duration, seed: u64) -> Self {
        Self {
            jobs_of_node,
            budget,
            seed,
            sts: vec![Quota::new(kept, STS_QUOTA); endpoints],
            iam: Quota::new(kept, IAM_QUOTA),
            nodes: vec![Kind::Cold; nodes],
            calls: Vec::new(),
            outcomes: Vec::new(),
        }
    }
}

/// What a node keeps for the user.
#[derive(Clone, Debug)]
enum Kind {
    Cold,
    /// One job makes the exchange, and these wait.
    UnderWay(Vec<usize>),
    /// An exchange failed then.
    Failed(Duration),
    Kept,
}

/// A request that reached Google.
pub struct Call {
    pub time: Duration,
    pub is_sts: bool,
    pub is_refused: bool,
}

/// The result of a job.
pub struct Outcome {
    pub delay: Duration,
    pub has_failed: bool,
}

/// A job, from its prolog to its credentials.
pub fn act(actor: &Actor<World>) {
    let begun = actor.now();
    let node = actor.with(|world, _| actor.number / world.jobs_of_node);
    let has_failed = !obtain(actor, node);
    let delay = actor.now() - begun;
    actor.with(|world, _| world.outcomes.push(Outcome { delay, has_failed }));
}

/// MODEL: how the jobs of a node share tokens. `core/src/job/obtain.rs` does this with files, locks and the node's own
/// clock, and could replace this model if it could run on a simulated clock. A job looks for a kept token, or for a
/// failure that still applies. Otherwise it makes an exchange. If another job makes one, it looks again afterwards.
fn obtain(actor: &Actor<World>, node: usize) -> bool {
    loop {
        match actor.with(|world, now| look(&mut world.nodes[node], actor.number, now)) {
            Looked::Known(succeeds) => return succeeds,
            Looked::Busy => actor.wait_to_be_woken(),
            Looked::Ask => break,
        }
    }
    let succeeds = exchange(actor, node);
    let waiting = actor.with(|world, now| {
        let result = if succeeds { Kind::Kept } else { Kind::Failed(now) };
        match std::mem::replace(&mut world.nodes[node], result) {
            Kind::UnderWay(waiting) => waiting,
            Kind::Cold | Kind::Failed(_) | Kind::Kept => Vec::new(),
        }
    });
    actor.wake(waiting);
    succeeds
}

/// The result of a look.
enum Looked {
    Known(bool),
    Busy,
    Ask,
}

fn look(kind: &mut Kind, job: usize, now: Duration) -> Looked {
    match kind {
        Kind::Kept => Looked::Known(true),
        Kind::Failed(at) if now < *at + FAILURE_HOLDS => Looked::Known(false),
        Kind::UnderWay(waiting) => {
            waiting.push(job);
            Looked::Busy
        }
        Kind::Cold | Kind::Failed(_) => {
            *kind = Kind::UnderWay(Vec::new());
            Looked::Ask
        }
    }
}

/// The plugin's own exchange, with its retries and pauses.
fn exchange(actor: &Actor<World>, node: usize) -> bool {
    let (budget, seed) = actor.with(|world, _| (world.budget, world.seed));
    let random = Cell::new(Random::new(seed ^ actor.number as u64));
    let simulated = Simulated { actor, node, random };
    let identity = &Inputs::get().identity;
    let wanted = Wanted { identity, scopes: &Inputs::get().scopes, lifetime: None };
    let reason = format!("slurm job {} of user alice", actor.number);
    let mut exchange = Exchange::new(&Inputs::get().configuration, &Inputs::get().token, wanted, reason);
    run::run(&mut exchange, &simulated, &simulated, budget).is_ok()
}

/// Clock and network of one job.
struct Simulated<'a> {
    actor: &'a Actor<World>,
    node: usize,
    random: Cell<Random>,
}

impl Clock for Simulated<'_> {
    fn now(&self) -> UnixSeconds {
        BEGIN + self.actor.now().as_secs() as UnixSeconds
    }

    fn elapsed(&self) -> Duration {
        self.actor.now()
    }

    fn sleep(&self, pause: Duration) {
        self.actor.wait(pause);
    }

    fn jitter(&self) -> f64 {
        let mut random = self.random.get();
        let value = random.next();
        self.random.set(random);
        value
    }
}

impl Transport for Simulated<'_> {
    fn send(&self, request: &Request, limit: Duration) -> Result<Response, TransportError> {
        let is_sts = request.endpoint.as_str().contains("sts.");
        // All requests take equally long to arrive, so the order at Google is the order here.
        let response = self.actor.with(|world, now| {
            let (quota, right, service) = if is_sts {
                let endpoint = self.node % world.sts.len();
                (&mut world.sts[endpoint], google::federated as fn() -> Response, "sts.googleapis.com")
            } else {
                (&mut world.iam, google::access_token as fn() -> Response, "iamcredentials.googleapis.com")
            };
            let is_refused = !quota.take(now);
            world.calls.push(Call { time: now, is_sts, is_refused });
            if is_refused { google::throttled(service) } else { right() }
        });
        self.actor.wait(REQUEST.min(limit));
        if limit < REQUEST { Err(TransportError::Timeout) } else { Ok(response) }
    }
}

/// The start of every exchange.
struct Inputs {
    configuration: CredentialConfiguration,
    token: SubjectToken,
    identity: Identity,
    scopes: Vec<Scope>,
}

impl Inputs {
    fn get() -> &'static Self {
        static INPUTS: LazyLock<Inputs> = LazyLock::new(Inputs::make);
        &INPUTS
    }

    fn make() -> Self {
        let configuration = serde_json::json!({
            "type": "external_account",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "token_url": "https://sts.googleapis.com/v1/token",
            "credential_source": {"file": "/t"},
            "service_account_impersonation_url": "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/job-runner@demo-project.iam.gserviceaccount.com:generateAccessToken",
        });
        let configuration =
            CredentialConfiguration::parse(configuration.to_string().as_bytes()).expect("a configuration");
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let jwt = format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(r#"{"sub":"s"}"#), part("signature"));
        let token = SubjectToken::parse(jwt.as_bytes(), &SubjectTokenFormat::Text).expect("a subject token");
        let account = configuration.impersonation.as_ref().expect("a service account").service_account.clone();
        let (identity, scopes) = (Identity::ServiceAccount(account), vec![Scope::cloud_platform()]);
        Self { configuration, token, identity, scopes }
    }
}

/// Pseudo-random numbers: splitmix64.
#[derive(Clone, Copy)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    /// From 0 to 1, without 1.
    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}
