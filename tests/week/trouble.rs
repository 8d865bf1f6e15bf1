//! What goes wrong in a week, and whom it keeps from a token while it lasts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::google::{FAULTS, Fault, LIFE};
use crate::node::{OTHER, SITE, World};

/// The users, by their numbers.
pub const USERS: [u32; 3] = [61_001, 61_002, 61_003];

/// What can go wrong. Of each kind there is one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Google,
    Subject,
    Disk,
    Configuration,
    /// A rule that no longer grants a user anything.
    Denial,
    /// A new default identity, which is for new jobs.
    Default,
    /// Both processes of the agent.
    Agent,
    /// The serving process alone, at once or in the middle of its next requests.
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

#[derive(Default)]
pub struct Troubles {
    /// What goes on, and what else there is to know of it.
    active: BTreeMap<Kind, u32>,
    pub counts: BTreeMap<Kind, u64>,
    /// When something happened last that is a reason to ask Google for another token: a clock that was set, or a disk on
    /// which nothing could be kept.
    pub excuse: Option<Duration>,
    /// When something was over last.
    pub over: Option<Duration>,
}

impl Troubles {
    pub fn count(&self, kinds: &[Kind]) -> u64 {
        kinds.iter().filter_map(|kind| self.counts.get(kind)).sum()
    }

    pub fn is_disk_full(&self) -> bool {
        self.active.contains_key(&Kind::Disk)
    }

    /// Whether something keeps a user's jobs from new tokens now.
    pub fn keeps_from_a_token(&self, user: u32, world: &World) -> bool {
        let has = |kind: &Kind| self.active.contains_key(kind);
        [Kind::Google, Kind::Subject, Kind::Disk, Kind::Configuration].iter().any(has)
            || self.active.get(&Kind::Denial).is_some_and(|index| USERS[*index as usize] == user)
            || !world.processes.has_agent.get()
    }

    /// Something goes wrong. Brings what, and how long it lasts; none if it is over at once.
    pub fn begin(&mut self, world: &World) -> (Kind, Option<Duration>) {
        let (kind, detail, lasts) = {
            let mut random = world.random.borrow_mut();
            // From ten seconds to two hours, more often short.
            let lasts = Duration::from_secs_f64(10.0 * 720.0_f64.powf(random.f64()));
            (KINDS[random.usize(..KINDS.len())], random.u32(..), lasts)
        };
        if self.active.contains_key(&kind) {
            return (kind, None);
        }
        *self.counts.entry(kind).or_default() += 1;
        let lasts = match kind {
            Kind::Google => {
                let leg = [None, Some(true), Some(false)][detail as usize % 3];
                let fault = FAULTS[detail as usize / 3 % FAULTS.len()];
                // STS tells how long a token lives, and not when it ends.
                let leg = if fault == Fault::Ended { Some(false) } else { leg };
                world.google.fault.set(Some((fault, leg)));
                Some(lasts)
            }
            Kind::Subject => {
                match detail % 3 {
                    0 => drop(std::fs::remove_file(world.at("token"))),
                    1 => world.put("token", world.subject_token(-60).as_bytes()),
                    _ => world.put("token", b"half of a tok"),
                }
                Some(lasts)
            }
            Kind::Disk => {
                world.fill_the_disk();
                Some(lasts / 3)
            }
            Kind::Configuration => Some(lasts),
            Kind::Denial | Kind::Default => Some(lasts),
            Kind::Agent => {
                world.kill_agent(false);
                // A service manager brings it back, or the next hook.
                Some(if detail % 2 == 0 { Duration::from_secs(3) } else { lasts })
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
                let set = [0, 7200, -7200, i64::from(detail % 14_400) - 7200][detail as usize % 4];
                world.set.set(set);
                None
            }
            Kind::Slurmd => {
                world.processes.slurmd.set(world.processes.slurmd.get() + 1);
                None
            }
        };
        if matches!(kind, Kind::Clock | Kind::Disk) {
            self.excuse = Some(world.time());
        }
        if lasts.is_some() {
            self.active.insert(kind, detail % 3);
        }
        self.configure(world, detail);
        world.let_the_agent_find_out();
        (kind, lasts)
    }

    /// It is over.
    pub fn end(&mut self, kind: Kind, world: &World) {
        self.active.remove(&kind);
        self.over = Some(world.time());
        match kind {
            Kind::Google => world.google.fault.set(None),
            Kind::Subject => world.put("token", world.subject_token(LIFE).as_bytes()),
            Kind::Disk => {
                world.empty_the_disk();
                self.excuse = Some(world.time());
            }
            Kind::Agent if !world.processes.has_agent.get() => world.kill_agent(true),
            _ => {}
        }
        self.configure(world, 0);
        world.let_the_agent_find_out();
    }

    /// The kubelet replaces the subject token long before it ends.
    pub fn rotate(&self, world: &World) {
        if !self.active.contains_key(&Kind::Subject) {
            world.put("token", world.subject_token(LIFE).as_bytes());
        }
    }

    /// Writes the site configuration as it is to be now.
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
