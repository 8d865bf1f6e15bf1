//! The process that serves.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant as Moment};

use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::journal::Journal;
use super::serve::{Endpoints, Event};
use super::served::Served;
use super::{keep, refresh};
use gcp_wif_core::job::lifecycle::{Node, Site};
use gcp_wif_core::job::processes::Proc;
use gcp_wif_core::job::worker::Worker;
use gcp_wif_core::job::{refresh as due, wake};
use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::words::names::{Identity, JobId};
use gcp_wif_core::words::time::UnixSeconds;
use gcp_wif_core::world::clock::{Clock, SystemClock};
use gcp_wif_core::world::fs::RuntimeDirectory;

/// Seconds after which the agent looks at the clock and at the records when nothing has woken it: the clock may have
/// been set, the machine may have slept, and a hook may have been killed before it could tell.
const LOOK: UnixSeconds = 15;
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);
/// After a program that could not be started.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// How long an agent without a job stays.
const IDLE: Duration = Duration::from_secs(300);
/// A failed refresh is tried again after this long, and after twice as long each further time.
const FIRST_PAUSE: UnixSeconds = 5;
const LONGEST_PAUSE: UnixSeconds = 60;

/// Serves until no job needs it.
pub(super) fn serve(
    config_path: &Path,
    runtime_dir: &Path,
    endpoints: Endpoints,
    journal: Journal,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    let agent = Rc::new(Agent::new(config_path, runtime_dir, endpoints, journal));
    tokio::task::LocalSet::new().block_on(&runtime, agent.run())
}

/// Which credentials, and when the next try is due.
type Pauses = BTreeMap<(JobId, Identity), (UnixSeconds, UnixSeconds)>;

struct Agent {
    config_path: PathBuf,
    runtime_dir: PathBuf,
    journal: RefCell<Journal>,
    /// Why the configuration cannot be used, if that is so.
    trouble: RefCell<Option<String>>,
    endpoints: RefCell<Endpoints>,
    /// What is being refreshed, or failed: the next try, and the pause before it.
    pauses: Rc<RefCell<Pauses>>,
    /// A refresh has ended.
    renewed: Rc<Notify>,
    /// The part of the jitter that is this agent's own.
    jitter: f64,
}

impl Agent {
    fn new(config_path: &Path, runtime_dir: &Path, endpoints: Endpoints, journal: Journal) -> Self {
        Self {
            config_path: config_path.to_owned(),
            runtime_dir: runtime_dir.to_owned(),
            journal: RefCell::new(journal),
            trouble: RefCell::default(),
            endpoints: RefCell::new(endpoints),
            pauses: Rc::default(),
            renewed: Rc::default(),
            jitter: SystemClock.jitter(),
        }
    }

    async fn run(self: Rc<Self>) -> std::io::Result<()> {
        let watcher = self.endpoints.borrow_mut().watcher().end();
        let socket = wake::socket(&self.runtime_dir);
        self.reload().await;
        let listener = listen(&socket)?;
        let mut busy = Moment::now();
        loop {
            // What is due since the one before was killed comes first; that may come soon again.
            let next = self.refresh();
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let mut waiting = vec![stream];
                        // One look serves all who have come by now.
                        while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
                            waiting.push(stream);
                        }
                        self.reload().await;
                        let answer = wake::answer(self.endpoints.borrow().sockets().map(|(port, _)| port));
                        for mut stream in waiting {
                            // It may be gone, and is not waited for.
                            let _ = timeout(PAUSE, stream.write_all(answer.as_bytes())).await;
                        }
                    }
                    Err(_) => tokio::time::sleep(PAUSE).await,
                },
                () = self.renewed.notified() => self.reload().await,
                () = keep::ended(watcher.as_ref()) => {
                    self.log(LogLevel::Warn, "the watcher ended");
                    let error = keep::start_over(&self.config_path, self.endpoints.borrow().sockets());
                    self.log(LogLevel::Error, error);
                    tokio::time::sleep(LONG_PAUSE).await;
                }
                () = tokio::time::sleep(next) => self.reload().await,
            }
            if !self.endpoints.borrow().is_empty() {
                busy = Moment::now();
            } else if busy.elapsed() > IDLE {
                // First out of sight, then away: who comes now starts a new one.
                std::fs::remove_file(&socket)?;
                return Ok(());
            }
        }
    }

    /// Serves what the records say.
    async fn reload(&self) {
        let Some(site) = self.site() else { return };
        let Ok(runtime) = RuntimeDirectory::open(&self.runtime_dir) else { return };
        let mut wanted = BTreeMap::new();
        for job in runtime.jobs() {
            let Some(record) = runtime.peek_record(job).as_deref().and_then(JobRecord::parse) else { continue };
            wanted.extend(
                record.issued.iter().filter_map(|issued| Served::of(&record, issued, &site, &self.config_path)),
            );
        }
        // No borrow may be held over an await of the one thread, but for this one: nobody else sets.
        let mut endpoints = self.endpoints.take();
        let events = endpoints.set(wanted).await;
        self.endpoints.replace(endpoints);
        for (port, event) in events {
            match event {
                Event::Served => self.log(LogLevel::Debug, format_args!("port {port} is served")),
                Event::Ended => self.log(LogLevel::Debug, format_args!("port {port} is served no more")),
                Event::Taken => {
                    self.log(LogLevel::Warn, format_args!("port {port} of 127.0.0.1 is taken by another program"));
                }
            }
        }
    }

    /// The configuration as it is now. What is wrong with it is told when that changes.
    fn site(&self) -> Option<Site> {
        let (site, trouble) = match Site::load(&self.config_path) {
            Ok(site) => (Some(site), None),
            Err(error) => (None, Some(error.to_string())),
        };
        if let Some(site) = &site {
            self.journal.replace(Journal::of(&site.config));
        }
        let before = self.trouble.replace(trouble.clone());
        match trouble {
            Some(trouble) if before.as_ref() != Some(&trouble) => self.log(LogLevel::Error, trouble),
            None if before.is_some() => self.log(LogLevel::Info, "the configuration can be used again"),
            _ => {}
        }
        site
    }

    fn log(&self, level: LogLevel, text: impl Display) {
        self.journal.borrow().write(level, format_args!("gcp-wif: agent: {text}"));
    }

    /// Starts the refresh of what is due. Returns how long there is nothing to do.
    fn refresh(&self) -> Duration {
        let now = SystemClock.now();
        let served = self.endpoints.borrow().served();
        self.pauses.borrow_mut().retain(|(job, _), _| served.iter().any(|served| served.job == *job));
        // A port that is taken may be free soon.
        let mut next = now.saturating_add(if self.endpoints.borrow().is_complete() { LOOK } else { 1 });
        for served in served {
            let key = (served.job, served.identity.clone());
            let paused = self.pauses.borrow().get(&key).map_or(UnixSeconds::MIN, |(until, _)| *until);
            let due = due::due(served.issued_at, served.expires_at, self.jitter).max(paused);
            if due > now {
                next = next.min(due);
                continue;
            }
            let pause = self.pauses.borrow().get(&key).map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
            // Until it is done nobody else begins it.
            self.pauses.borrow_mut().insert(key.clone(), (UnixSeconds::MAX, pause));
            let (config_path, journal) = (self.config_path.clone(), self.journal.borrow().clone());
            let (pauses, renewed) = (Rc::clone(&self.pauses), Rc::clone(&self.renewed));
            tokio::task::spawn_local(async move {
                let (job, identity) = key.clone();
                let work = move || {
                    let processes = Proc::new(config_path.clone());
                    let node = Node { config_path: &config_path, exchanger: &Worker, processes: &processes };
                    refresh::refresh_and_tell(&node, &journal, job, &identity, served.issued_at)
                };
                let done = tokio::task::spawn_blocking(work).await.unwrap_or(false);
                let mut pauses = pauses.borrow_mut();
                if done {
                    pauses.remove(&key);
                } else {
                    pauses.insert(key, (SystemClock.now().saturating_add(pause), pause));
                }
                renewed.notify_one();
            });
        }
        Duration::from_secs(next.saturating_sub(now).unsigned_abs())
    }
}

fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    // The lock is ours, so that a socket here is a dead agent's.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
