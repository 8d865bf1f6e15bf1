//! Runs refreshes and writes their lines to the agent's log.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::path::Path;

use gcp_wif_core::job::node::{Log, Node};
use gcp_wif_core::job::processes::Proc;
use gcp_wif_core::job::refresh::{Due, Refreshed, heal, refresh};
use gcp_wif_core::job::worker::Direct;
use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::plan::report::{Blame, Failure};
use gcp_wif_core::policy::config::{DEFAULT_RUNTIME_DIR, LogLevel};
use gcp_wif_core::world::clock::SystemClock;
use gcp_wif_core::world::fs::RuntimeDirectory;

use super::journal::Journal;

/// The exchanger of all threads, which resume each other's TLS sessions.
static GOOGLE: Direct = Direct::new();

/// Runs a refresh and logs its result.
///
/// # Errors
/// The failure, which is also in the log.
pub(super) fn refresh_and_tell(
    config_path: &Path,
    runtime_dir: &Path,
    journal: &Journal,
    due: &Due,
) -> Result<Refreshed, Failure> {
    with_node(config_path, journal, |node, log| refresh(node, log, runtime_dir, due))
}

/// Publishes a job's files again if they are incomplete, and logs a failure.
pub(super) fn heal_and_tell(config_path: &Path, journal: &Journal, runtime: &RuntimeDirectory, record: &JobRecord) {
    let job = record.facts.job;
    let result = with_node(config_path, journal, |node, log| heal(node, log, runtime, record));
    if let Err(failure) = result {
        journal.write(level(&failure), format_args!("{failure} (job {job})"));
    }
}

pub(super) fn with_node<T>(
    config_path: &Path,
    journal: &Journal,
    work: impl FnOnce(&Node<'_>, &dyn Log) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let processes = Proc::new(config_path.to_owned());
    let default_dir = Path::new(DEFAULT_RUNTIME_DIR);
    let node = Node { config_path, default_dir, exchanger: &GOOGLE, clock: &SystemClock, processes: &processes };
    let lines = Lines::default();
    let result = work(&node, &lines);
    let level = result.as_ref().err().map_or(LogLevel::Info, level);
    for line in lines.0.take() {
        journal.write(level, line);
    }
    result
}

/// Returns the log level for a failure. A temporary failure of Google's is only a warning, because the next attempt may
/// succeed.
fn level(failure: &Failure) -> LogLevel {
    match failure.blame {
        Blame::Google { is_final: false } => LogLevel::Warn,
        Blame::Google { is_final: true } | Blame::Site | Blame::User => LogLevel::Error,
    }
}

/// Collects lines until the work is done, because its result determines their level.
#[derive(Default)]
struct Lines(RefCell<Vec<String>>);

impl Log for Lines {
    fn log(&self, line: &str) {
        self.0.borrow_mut().push(line.to_owned());
    }
}
