//! The injected faults, and the users who cannot get a new token during each.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::google::{self, LIFETIME};
use crate::node::{OTHER, SITE, World};

/// The user IDs.
pub const USERS: [u32; 3] = [61_001, 61_002, 61_003];

/// The kind of a fault. At most one fault of each kind is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Google,
    Subject,
    Disk,
    Configuration,
    /// No rule grants one of the users anything.
    Denial,
    /// The rules have another default identity, which only new jobs get.
    Default,
    /// Both processes of the agent are killed.
    Agent,
    /// The agent's serving process is killed, at once or during one of its next requests.
    Serving,
    Clock,
    Slurmd,
}

const KINDS: [Kind; 10] = [
    Kind::Google,
    Kind::Subject,
    Kind::Disk,
    Kind::Configuration,
    Kind::Denial,
    Kind::Default,
    Kind::Agent,
    Kind::Serving,
    Kind::Clock,
    Kind::Slurmd,
];

/// The active faults.
#[derive(Default)]
pub struct Faults {
    /// The kind of each active fault, and a random number that selects a variant.
    active: BTreeMap<Kind, u32>,
    pub counts: BTreeMap<Kind, u64>,
    /// The last time at which a clock was set or a disk was full. Both can cause additional exchanges.
    pub extra_exchange: Option<Duration>,
    /// The time at which the last fault ended.
    pub last_end: Option<Duration>,
}

impl Faults {
    pub fn count(&self, kinds: &[Kind]) -> u64 {
        kinds.iter().filter_map(|kind| self.counts.get(kind)).sum()
    }

    pub fn is_disk_full(&self) -> bool {
        self.active.contains_key(&Kind::Disk)
    }

    /// Returns whether a fault prevents new tokens for a user's jobs.
    pub fn prevents_token(&self, user: u32, world: &World) -> bool {
        let has = |kind: &Kind| self.active.contains_key(kind);
        [Kind::Google, Kind::Subject, Kind::Disk, Kind::Configuration].iter().any(has)
            || self.active.get(&Kind::Denial).is_some_and(|index| USERS[*index as usize] == user)
            || !world.processes.has_agent.get()
    }

    /// Injects a random fault. Returns its kind, and its duration, or `None` if it has no duration.
    pub fn inject(&mut self, world: &World) -> (Kind, Option<Duration>) {
        let (kind, detail, duration) = {
            let mut random = world.random.borrow_mut();
            // From ten seconds to two hours, short durations more often.
            let duration = Duration::from_secs_f64(10.0 * 720.0_f64.powf(random.f64()));
            (KINDS[random.usize(..KINDS.len())], random.u32(..), duration)
        };
        if self.active.contains_key(&kind) {
            return (kind, None);
        }
        *self.counts.entry(kind).or_default() += 1;
        let duration = match kind {
            Kind::Google => {
                let leg = [None, Some(true), Some(false)][detail as usize % 3];
                let fault = google::FAULTS[detail as usize / 3 % google::FAULTS.len()];
                // Only IAM Credentials returns an expiry time. STS returns a lifetime.
                let leg = if fault == google::Fault::Expired { Some(false) } else { leg };
                world.google.fault.set(Some((fault, leg)));
                Some(duration)
            }
            Kind::Subject => {
                match detail % 3 {
                    0 => drop(std::fs::remove_file(world.at("token"))),
                    1 => world.put("token", world.subject_token(-60).as_bytes()),
                    _ => world.put("token", b"half of a tok"),
                }
                Some(duration)
            }
            Kind::Disk => {
                world.fill_the_disk();
                Some(duration / 3)
            }
            Kind::Configuration => Some(duration),
            Kind::Denial | Kind::Default => Some(duration),
            Kind::Agent => {
                world.kill_agent(false);
                // A service manager restarts it after three seconds, or the next hook starts it.
                Some(if detail % 2 == 0 { Duration::from_secs(3) } else { duration })
            }
            Kind::Serving => {
                if detail % 2 == 0 {
                    world.kill_agent(true);
                } else {
                    world.kill_in.set(Some(detail % 5));
                }
                None
            }
            Kind::Clock => {
                let error = [0, 7200, -7200, i64::from(detail % 14_400) - 7200][detail as usize % 4];
                world.clock_error.set(error);
                None
            }
            Kind::Slurmd => {
                world.processes.slurmd.set(world.processes.slurmd.get() + 1);
                None
            }
        };
        if matches!(kind, Kind::Clock | Kind::Disk) {
            self.extra_exchange = Some(world.time());
        }
        if duration.is_some() {
            self.active.insert(kind, detail % 3);
        }
        self.configure(world, detail);
        world.schedule_look();
        (kind, duration)
    }

    /// Ends a fault.
    pub fn end(&mut self, kind: Kind, world: &World) {
        self.active.remove(&kind);
        self.last_end = Some(world.time());
        match kind {
            Kind::Google => world.google.fault.set(None),
            Kind::Subject => world.put("token", world.subject_token(LIFETIME).as_bytes()),
            Kind::Disk => {
                world.empty_the_disk();
                self.extra_exchange = Some(world.time());
            }
            Kind::Agent if !world.processes.has_agent.get() => world.kill_agent(true),
            _ => {}
        }
        self.configure(world, 0);
        world.schedule_look();
    }

    /// Replaces the subject token before it expires, as the kubelet does.
    pub fn rotate(&self, world: &World) {
        if !self.active.contains_key(&Kind::Subject) {
            world.put("token", world.subject_token(LIFETIME).as_bytes());
        }
    }

    /// Writes the site configuration for the active faults.
    fn configure(&self, world: &World, detail: u32) {
        let denied = self.active.get(&Kind::Denial).map(|index| USERS[*index as usize]);
        let default = if self.active.contains_key(&Kind::Default) { OTHER } else { SITE };
        let rule =
            |user: &u32| json!({"users": [user.to_string()], "service_account": default, "allow": [SITE, OTHER]});
        let granted = USERS.iter().filter(|user| Some(**user) != denied);
        let rules: Value = granted.map(rule).collect();
        if self.active.contains_key(&Kind::Configuration) {
            if detail.is_multiple_of(2) {
                world.put("site.json", b"{\"rules\": [");
            } else {
                let _ = std::fs::remove_file(world.at("site.json"));
            }
        } else {
            world.configure(&rules);
        }
    }
}
