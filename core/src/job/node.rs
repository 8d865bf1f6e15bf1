//! The interfaces of the job lifecycle (Slurm, Google, the node's processes), and the outcome of a step.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exchange::Purpose;
use crate::job::processes::Processes;
use crate::plan::environment::Change;
use crate::plan::report::Failure;
use crate::policy::facts::JobFacts;
use crate::policy::grant::Grant;
use crate::policy::request::Options;
use crate::policy::site::Site;
use crate::tokens::Token;
use crate::words::names::JobId;
use crate::world::clock::Clock;

/// A log for administrators: slurmd's or the agent's.
pub trait Log {
    /// Writes a line.
    fn log(&self, line: &str);
}

/// Slurm, as a hook sees it.
pub trait Host: Log {
    /// Returns the options of the step or job, including inherited ones.
    fn options(&self) -> Options;
    /// Returns the options of the job's submission, from the environment.
    fn inherited_options(&self) -> Options;
    /// Returns a variable of the job's environment. A value that is not UTF-8 counts as the user's.
    fn variable(&self, name: &str) -> Option<String>;
    /// Changes the job's environment.
    fn change(&self, change: &Change);
    /// Returns all variables of the job's environment.
    fn environment(&self) -> Vec<(String, String)>;
    /// Returns whether plugstack.conf names pyxis before this plugin.
    fn pyxis_is_earlier(&self) -> bool;
}

/// The job of a hook.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The job ID.
    pub id: JobId,
    /// The ID of its user.
    pub uid: u32,
    /// The ID of its primary group.
    pub gid: u32,
    /// Looks up the IDs of all groups of its processes.
    pub groups: &'a dyn Fn() -> Result<Vec<u32>, Failure>,
    /// Looks up what Slurm and the user database know of it. Called only for a job that needs it.
    pub facts: &'a dyn Fn() -> Result<JobFacts, Failure>,
}

/// Exchanges subject tokens.
pub trait Exchanger {
    /// Reads the subject token and exchanges it.
    ///
    /// # Errors
    /// The failure, as it is shown to the user.
    fn exchange(&self, request: TokenRequest<'_>, limits: Limits) -> Result<Exchanged, Failure>;
}

/// A request for a token.
#[derive(Debug, Clone, Copy)]
pub struct TokenRequest<'a> {
    /// The node's configurations.
    pub site: &'a Site,
    /// The grant that allows the token.
    pub grant: &'a Grant,
    /// The kind of token.
    pub purpose: Purpose<'a>,
    /// The job, which appears in Google's audit log.
    pub facts: &'a JobFacts,
}

/// The time limits of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The limit of the whole exchange.
    pub budget: Duration,
    /// The limit of the wait for an absent subject token, as a part of the budget.
    pub patience: Duration,
}

/// The result of an exchange.
#[derive(Debug)]
pub struct Exchanged {
    /// The name of the identity in the job: the email, or the federated principal's subject.
    pub name: String,
    /// The token.
    pub token: Token,
}

/// A node with its configuration and its interfaces.
pub struct Node<'a> {
    /// The path of the site configuration.
    pub config_path: &'a Path,
    /// The default runtime directory, which has links to the others ([`crate::job::places`]).
    pub default_dir: &'a Path,
    /// Exchanges subject tokens.
    pub exchanger: &'a dyn Exchanger,
    /// The node's clocks.
    pub clock: &'a dyn Clock,
    /// The node's processes.
    pub processes: &'a dyn Processes,
}

/// The outcome of a step's start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The step has no credentials, and none were requested.
    #[default]
    None,
    /// The step has credentials.
    Issued {
        /// The step's enroot configuration, to be removed at its end.
        directory: StepDirectory,
        /// Warnings for the user.
        warnings: Vec<Failure>,
    },
    /// The step has no credentials because of a failure.
    Failed {
        /// What failed.
        failure: Failure,
        /// Whether the user requested credentials, so that the step must not run.
        explicit: bool,
    },
}

impl Outcome {
    /// Returns the messages for the user: one for a failure, or one for each warning.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Issued { warnings, .. } => warnings.iter().map(ToString::to_string).collect(),
            Self::Failed { failure, explicit: true } => vec![failure.to_string()],
            Self::Failed { failure, explicit: false } => vec![format!("{failure}; the job runs without credentials")],
        }
    }

    /// Returns whether the step's tasks must exit before the user's command runs.
    pub fn ends_tasks(&self) -> bool {
        matches!(self, Self::Failed { explicit: true, .. })
    }
}

/// The location of a step's enroot configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepDirectory {
    pub(super) runtime_dir: PathBuf,
    pub(super) job: JobId,
    pub(super) step: String,
}
