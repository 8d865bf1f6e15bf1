//! Refreshes as the agent does them: with lines in its log.
#![forbid(unsafe_code)]

use std::cell::RefCell;

use gcp_wif_core::job::lifecycle::{Host, Node};
use gcp_wif_core::job::refresh::refresh;
use gcp_wif_core::plan::environment::Change;
use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::policy::request::Options;
use gcp_wif_core::words::names::{Identity, JobId};
use gcp_wif_core::words::time::UnixSeconds;

use super::journal::Journal;

/// [`refresh`], with a line in the journal. Whether it succeeded.
pub(super) fn refresh_and_tell(
    node: &Node<'_>,
    journal: &Journal,
    job: JobId,
    identity: &Identity,
    issued_at: UnixSeconds,
) -> bool {
    let log = Log::default();
    let result = refresh(node, &log, job, identity, issued_at);
    let level = if result.is_ok() { LogLevel::Info } else { LogLevel::Error };
    let lines = log.0.take();
    if let (true, Err(failure)) = (lines.is_empty(), &result) {
        journal.write(level, format_args!("{failure} (job {job})"));
    }
    for line in lines {
        journal.write(level, line);
    }
    result.is_ok()
}

/// The agent has a log and no job's environment. How much its lines matter is known when the work is done.
#[derive(Default)]
struct Log(RefCell<Vec<String>>);

impl Host for Log {
    fn options(&self) -> Options {
        Options::default()
    }

    fn inherited_options(&self) -> Options {
        Options::default()
    }

    fn variable(&self, _: &str) -> Option<String> {
        None
    }

    fn change(&self, _: &Change) {}

    fn environment(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn log(&self, line: &str) {
        self.0.borrow_mut().push(line.to_owned());
    }

    fn pyxis_is_earlier(&self) -> bool {
        false
    }
}
