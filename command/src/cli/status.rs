//! `gcp-wif status`: shows this node's jobs with credentials, and the agents that refresh them.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};

use super::plugstack::Plugstack;
use super::running::Running;
use super::{Screen, Status};
use gcp_wif_core::job::places;
use gcp_wif_core::job::processes::{Proc, Processes};
use gcp_wif_core::plan::environment::{ACCESS_TOKEN_FILE, STATUS_FILE};
use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::policy::config::{Config, DEFAULT_RUNTIME_DIR};
use gcp_wif_core::words::names::{JobId, clip};
use gcp_wif_core::words::time::{UnixSeconds, from_rfc3339, rfc3339};
use gcp_wif_core::world::clock::{Clock, SystemClock};
use gcp_wif_core::world::fs::{RuntimeDirectory, read_limited};
use gcp_wif_core::world::proc::ProcFs;
use gcp_wif_core::world::sys;

/// The size limit of a status file, in bytes.
const LONGEST: u64 = 64 << 10;
const HEADS: [&str; 6] = ["JOB", "USER", "IDENTITY", "EXPIRES", "REFRESHED", "STATE"];

/// Show this node's jobs with credentials: identity, expiry, last refresh, failures
///
/// As root: all jobs, and the agents that serve them. As a user: your own jobs that have a process on this node.
/// Prints no token.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The site configuration [default: the one that plugstack.conf names, or /etc/slurm/gcp-wif.json]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments, json: bool, screen: &mut Screen<'_>) -> Status {
    let plugstack = Plugstack::of_node().ok();
    // If the configuration is invalid, look in the default runtime directory.
    let config = Config::load(&super::config_path(arguments.config, plugstack.as_ref())).ok();
    let configured = config.map_or_else(|| PathBuf::from(DEFAULT_RUNTIME_DIR), |config| config.runtime_dir);
    let (proc, now) = (ProcFs::default(), SystemClock.now());
    let is_root = rustix::process::geteuid().is_root();
    let (agents, rows) = if is_root {
        let used = places::used(Path::new(DEFAULT_RUNTIME_DIR), Some(&configured));
        let mut directories: Vec<PathBuf> = used.iter().map(|runtime| runtime.path().to_owned()).collect();
        if !directories.contains(&configured) {
            directories.push(configured);
        }
        let agents = directories.into_iter().map(|path| (Running::of(&path, &proc), path)).collect();
        (agents, used.iter().flat_map(|runtime| all(runtime, now)).collect())
    } else {
        (Vec::new(), own(&proc, &configured.join("jobs"), now))
    };
    if json {
        screen.json(&json!({
            "agents": agents.iter().map(|(agent, path)| agent_json(agent.as_ref(), path)).collect::<Vec<_>>(),
            "jobs": rows.iter().map(Row::json).collect::<Vec<_>>(),
        }));
        return Status::Success;
    }
    for (agent, path) in &agents {
        screen.line(&agent_line(agent.as_ref(), path));
    }
    if rows.is_empty() {
        screen.line(if is_root {
            "no job on this node has credentials"
        } else {
            "none of your jobs with credentials has a process on this node; squeue --me shows where your jobs run"
        });
    } else {
        table(&rows, screen);
    }
    Status::Success
}

/// A row of the table: one identity of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    job: JobId,
    user: String,
    identity: String,
    expires: Option<UnixSeconds>,
    refreshed: Option<UnixSeconds>,
    state: &'static str,
    failure: Option<String>,
    directory: PathBuf,
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let time = |seconds: Option<UnixSeconds>| seconds.map_or_else(|| "-".to_owned(), rfc3339);
        let state = self.failure.as_ref().map_or_else(|| self.state.to_owned(), |why| format!("{}: {why}", self.state));
        let (identity, user) = (clip(&self.identity, 130), clip(&self.user, 40));
        [self.job.to_string(), user, identity, time(self.expires), time(self.refreshed), state]
    }

    fn json(&self) -> Value {
        json!({
            "job": self.job,
            "user": self.user,
            "identity": self.identity,
            "expires": self.expires.map(rfc3339),
            "refreshed": self.refreshed.map(rfc3339),
            "state": self.state,
            "failure": self.failure,
            "directory": self.directory,
        })
    }
}

/// Reads a status file. Returns identity, expiry, state and failure.
fn state(directory: &Path, now: UnixSeconds) -> Option<(String, Option<UnixSeconds>, &'static str, Option<String>)> {
    let text = String::from_utf8(read_limited(&directory.join(STATUS_FILE), LONGEST).ok()?).ok()?;
    let told = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let (expires, failure) = (told("expiry").and_then(from_rfc3339), told("failure"));
    let failure = failure.map(|why| clip(why.strip_prefix("gcp-wif: ").unwrap_or(why), 400));
    let state = match (expires.is_some_and(|end| end <= now), told("state")) {
        (true, _) => "expired",
        (false, Some("failing")) => "failing",
        (false, _) => "fresh",
    };
    Some((told("identity")?.to_owned(), expires, state, failure))
}

/// Returns rows for all jobs in a runtime directory.
fn all(runtime: &RuntimeDirectory, now: UnixSeconds) -> Vec<Row> {
    let processes = Proc::new(PathBuf::new());
    let mut rows = Vec::new();
    for job in runtime.jobs() {
        let Some(record) = runtime.peek_record(job).as_deref().and_then(JobRecord::parse) else { continue };
        let user = record.facts.user.clone().unwrap_or_else(|| record.facts.uid.to_string());
        for issued in &record.issued {
            let directory = runtime.path_of(&issued.place);
            let (_, _, state, failure) = state(&directory, now).unwrap_or_default();
            let expires = issued.token.expires_at;
            rows.push(Row {
                job,
                user: user.clone(),
                identity: issued.name.clone(),
                expires: Some(expires),
                refreshed: Some(issued.token.issued_at),
                // Without a status file, the job's files are not yet published, or have been removed.
                state: if state.is_empty() { "not published" } else { state },
                failure,
                directory,
            });
        }
        if record.issued.is_empty() && record.worker.is_some_and(|worker| processes.runs(worker)) {
            let directory = runtime.path_of_job(job);
            let (identity, state) = ("-".to_owned(), "asking Google");
            rows.push(Row { job, user, identity, expires: None, refreshed: None, state, failure: None, directory });
        }
    }
    rows
}

/// Returns rows for the jobs of this user's processes on this node. Users cannot list the jobs' directory.
fn own(proc: &ProcFs, jobs: &Path, now: UnixSeconds) -> Vec<Row> {
    let me = rustix::process::geteuid().as_raw();
    let user = sys::user(me).map_or_else(|| me.to_string(), |user| user.name);
    let mut directories = BTreeSet::new();
    for pid in proc.pids().into_iter().filter(|pid| proc.owner(*pid) == Some(me)) {
        let environment = proc.environment(pid).unwrap_or_default();
        let text = |name: &str| {
            let entry = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(name.as_bytes()))?;
            String::from_utf8(entry.to_vec()).ok()
        };
        let by_number = text("SLURM_JOB_ID=").and_then(|job| Some(jobs.join(job.parse::<u32>().ok()?.to_string())));
        // The job can be in the runtime directory of an earlier configuration.
        let by_path = text("GCP_WIF_ACCESS_TOKEN_FILE=").and_then(|file| Some(Path::new(&file).parent()?.to_owned()));
        directories.extend(by_number.into_iter().chain(by_path));
    }
    let below: Vec<PathBuf> = directories.iter().flat_map(fs::read_dir).flatten().flatten().map(|e| e.path()).collect();
    directories.extend(below);
    directories.into_iter().filter_map(|directory| row(directory, &user, now)).collect()
}

fn row(directory: PathBuf, user: &str, now: UnixSeconds) -> Option<Row> {
    let job = directory.ancestors().find_map(|part| part.file_name()?.to_str()?.parse().ok().map(JobId))?;
    let (identity, expires, state, failure) = state(&directory, now)?;
    let written = fs::metadata(directory.join(ACCESS_TOKEN_FILE)).and_then(|file| file.modified()).ok();
    let refreshed =
        written.and_then(|time| UnixSeconds::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok());
    Some(Row { job, user: user.to_owned(), identity, expires, refreshed, state, failure, directory })
}

fn agent_line(agent: Option<&Running>, path: &Path) -> String {
    let path = path.display();
    match agent {
        None => format!("{path}: no agent runs"),
        Some(agent) => {
            let version = agent.version().unwrap_or_else(|| "of an unknown version".to_owned());
            let since = agent.since.map(rfc3339).unwrap_or_default();
            format!("{path}: the agent runs since {since}, gcp-wif {version}, process {}", agent.pids())
        }
    }
}

fn agent_json(agent: Option<&Running>, path: &Path) -> Value {
    json!({
        "runtime_dir": path,
        "running": agent.is_some(),
        "since": agent.and_then(|agent| agent.since).map(rfc3339),
        "version": agent.and_then(Running::version),
    })
}

fn table(rows: &[Row], screen: &mut Screen<'_>) {
    let cells: Vec<[String; 6]> = rows.iter().map(Row::cells).collect();
    let heads = HEADS.map(str::to_owned);
    let longest = |column: usize| {
        let all = cells.iter().chain([&heads]).filter_map(|row| row.get(column));
        all.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEADS.len()).map(longest).collect();
    let padded = |row: &[String]| {
        let columns: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        columns.join("  ").trim_end().to_owned()
    };
    screen.line(&screen.styled(Style::new().bold(), &padded(&heads)));
    for (row, cells) in rows.iter().zip(&cells) {
        let line = padded(cells);
        let wrong = AnsiColor::Red.on_default();
        screen.line(&if row.state == "fresh" { line } else { screen.styled(wrong, &line) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_content() {
        let row = |job, user: &str, failure: Option<&str>| Row {
            job: JobId(job),
            user: user.to_owned(),
            identity: "a@p.iam.gserviceaccount.com".to_owned(),
            expires: Some(3600),
            refreshed: None,
            state: if failure.is_some() { "failing" } else { "fresh" },
            failure: failure.map(str::to_owned),
            directory: PathBuf::from("/run/gcp-wif/jobs/7"),
        };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen { out: &mut out, err: &mut err, colours: false };
        table(&[row(7, "alice", None), row(12345, "bo", Some("token exchange: no"))], &mut screen);
        let expected = [
            "JOB    USER   IDENTITY                     EXPIRES               REFRESHED  STATE",
            "7      alice  a@p.iam.gserviceaccount.com  1970-01-01T01:00:00Z  -          fresh",
            "12345  bo     a@p.iam.gserviceaccount.com  1970-01-01T01:00:00Z  -          failing: token exchange: no",
        ];
        assert_eq!(String::from_utf8(out).unwrap().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_row_is_one_line_whatever_is_in_it() {
        let hostile = "a\n\u{1b}[2J\u{9b}\u{202e}b";
        let directory = gcp_wif_core::testing::directory();
        fs::write(directory.join("status"), "identity=a\u{1b}\u{85}\nfailure=b\u{9b}\u{202e}\r\n").unwrap();
        let (identity, expires, state, failure) = state(&directory, 0).unwrap();
        let (user, job) = (hostile.to_owned(), JobId(7));
        let row = Row { job, user, identity, expires, refreshed: None, state, failure, directory: hostile.into() };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen { out: &mut out, err: &mut err, colours: false };
        table(std::slice::from_ref(&row), &mut screen);
        screen.json(&row.json());
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 3, "{text:?}");
        for line in text.lines() {
            assert_eq!(line, clip(line, usize::MAX));
        }
        assert_eq!(serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap(), row.json());
    }

    #[test]
    fn a_status_file_shows_failure_and_expiry() {
        let directory = gcp_wif_core::testing::directory();
        assert!(state(&directory, 0).is_none());
        let text =
            "state=failing\nidentity=a\nexpiry=1970-01-01T01:00:00Z\nadc=file\nfailure=gcp-wif: token exchange: no\n";
        fs::write(directory.join("status"), text).unwrap();
        let told = |state| Some(("a".to_owned(), Some(3600), state, Some("token exchange: no".to_owned())));
        assert_eq!((state(&directory, 3599), state(&directory, 3600)), (told("failing"), told("expired")));
    }
}
