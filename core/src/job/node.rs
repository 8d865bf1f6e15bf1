//! What the job's life works with: Slurm as a hook sees it, Google, the node's processes; and what becomes of a step.
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

/// A log for administrators: slurmd's, or the agent's.
pub trait Log {
    /// Writes a line.
    fn log(&self, line: &str);
}

/// Slurm, as a hook sees it.
pub trait Host: Log {
    /// The options of the step or job, whether typed or inherited.
    fn options(&self) -> Options;
    /// Those that the job was submitted with, by its environment.
    fn inherited_options(&self) -> Options;
    /// A variable of the job's environment. What is not UTF-8 counts as the user's own.
    fn variable(&self, name: &str) -> Option<String>;
    /// Changes the job's environment.
    fn change(&self, change: &Change);
    /// All of the job's environment.
    fn environment(&self) -> Vec<(String, String)>;
    /// Whether plugstack.conf names pyxis before this plugin.
    fn pyxis_is_earlier(&self) -> bool;
}

/// The job that a hook is about.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Its number.
    pub id: JobId,
    /// Its user's number.
    pub uid: u32,
    /// The number of its primary group.
    pub gid: u32,
    /// Those of all groups of its processes.
    pub groups: &'a dyn Fn() -> Result<Vec<u32>, Failure>,
    /// All that Slurm and the user database know of it. Looked up only for a job that wants credentials.
    pub facts: &'a dyn Fn() -> Result<JobFacts, Failure>,
}

/// Gets tokens for a grant.
pub trait Exchanger {
    /// Reads the subject token and exchanges it.
    ///
    /// # Errors
    /// The failure, ready to be told.
    fn exchange(&self, request: TokenRequest<'_>, limits: Limits) -> Result<Exchanged, Failure>;
}

/// A token that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct TokenRequest<'a> {
    /// What the node is told of its site and of Google.
    pub site: &'a Site,
    /// The permission to have it.
    pub grant: &'a Grant,
    /// What it is for.
    pub purpose: Purpose<'a>,
    /// The job, which Google's audit log names.
    pub facts: &'a JobFacts,
}

/// How long an exchange may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All of it.
    pub budget: Duration,
    /// As a part of that, the wait for a subject token that is not there.
    pub patience: Duration,
}

/// What an exchange brings.
#[derive(Debug)]
pub struct Exchanged {
    /// How the identity is named to the job: the email, or the federated principal's subject.
    pub name: String,
    /// The token.
    pub token: Token,
}

/// A node: where its configuration is, and what it works with.
pub struct Node<'a> {
    /// The site configuration's path.
    pub config_path: &'a Path,
    /// The runtime directory of sites that configure none. It knows the others: [`crate::job::places`].
    pub default_dir: &'a Path,
    /// Gets tokens.
    pub exchanger: &'a dyn Exchanger,
    /// The node's clocks.
    pub clock: &'a dyn Clock,
    /// The node's processes.
    pub processes: &'a dyn Processes,
}

/// What became of a step's request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The step has no credentials, and nobody asked for them.
    #[default]
    None,
    /// It has them.
    Issued {
        /// The step's own directory, which goes with it.
        directory: StepDirectory,
        /// What the user should know besides.
        warnings: Vec<Failure>,
    },
    /// It has none, and that is a failure.
    Failed {
        /// What failed.
        failure: Failure,
        /// Whether the user asked, so that the step must not run.
        explicit: bool,
    },
}

impl Outcome {
    /// What the user is told: one line for a failure, one for each warning.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::None => Vec::new(),
            Self::Issued { warnings, .. } => warnings.iter().map(ToString::to_string).collect(),
            Self::Failed { failure, explicit: true } => vec![failure.to_string()],
            Self::Failed { failure, explicit: false } => vec![format!("{failure}; the job runs without credentials")],
        }
    }

    /// Whether the step's tasks must end before the user's command runs.
    pub fn ends_tasks(&self) -> bool {
        matches!(self, Self::Failed { explicit: true, .. })
    }
}

/// A step's enroot configuration in its job's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepDirectory {
    pub(super) runtime_dir: PathBuf,
    pub(super) job: JobId,
    pub(super) step: String,
}
