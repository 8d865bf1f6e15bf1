//! The serving process: serves the credentials in the records, and refreshes them when they are due.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcp_wif_core::job::refresh::{Due, Refreshed};
use gcp_wif_core::job::schedule::Schedule;
use gcp_wif_core::job::{obtain, tell, wake};
use gcp_wif_core::plan::metrics;
use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::time::UnixSeconds;
use gcp_wif_core::world::clock::{Clock, SystemClock};
use gcp_wif_core::world::fs::{FileError, RuntimeDirectory};
use gcp_wif_core::world::sys;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{MissedTickBehavior, timeout};

use super::journal::Journal;
use super::keep::{BEAT, Heard, Sockets, Watcher};
use super::program::Known;
use super::requested::Workplace;
use super::serve::{Event, Ports};
use super::served::Served;
use super::{caller, keep, refresh, service, threads};

/// The interval at which the agent checks the clock and the records without being woken: the clock may have been set,
/// the machine suspended, or a hook killed before it could wake the agent.
const LOOK: Duration = Duration::from_secs(15);
/// The pause after a failed accept, and the time limit of a response to a hook.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause after a failed start of a program.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// How long an agent stays without jobs and kept tokens.
const IDLE: Duration = Duration::from_secs(300);
/// How long a serving process without a watcher waits for a restarted service to take over its ports.
const SERVICE: Duration = Duration::from_secs(6);
/// The number of refreshes that run at the same time. It is large enough that a few hanging ones do not delay the
/// others.
const REFRESHES: usize = 32;

/// The initial state of a serving process.
pub(super) struct Beginning {
    pub(super) workplace: Workplace,
    pub(super) sockets: Sockets,
    pub(super) watcher: Watcher,
    /// The files with which the agent does not replace itself.
    pub(super) known: Known,
    /// Whether a service manager runs the agent.
    pub(super) is_service: bool,
}

/// Why a serving process ends.
pub(super) enum End {
    /// No job needs it, or it was asked to end.
    Over,
    /// The site's `command` is a new program.
    Upgrade,
}

/// Serves jobs until none needs the agent.
pub(super) fn serve(beginning: Beginning) -> std::io::Result<End> {
    let Beginning { workplace, sockets, watcher, known, is_service } = beginning;
    // One that cannot be used at this moment is tried again.
    let directory = RuntimeDirectory::existing(&workplace.runtime_dir).map_err(std::io::Error::other)?;
    let Some(directory) = directory else { return Ok(End::Over) };
    sys::share_heap();
    caller::prepare();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let workplace = Rc::new(RefCell::new(workplace));
    let agent = Rc::new(Agent {
        runtime: directory,
        trouble: RefCell::default(),
        unread: RefCell::default(),
        command: RefCell::default(),
        known,
        is_service,
        ports: RefCell::new(Ports::new(sockets, watcher, Rc::clone(&workplace))),
        workplace,
        schedule: RefCell::default(),
        renewed: Rc::default(),
        start: SystemClock.now(),
        refreshes: Arc::new(Semaphore::new(REFRESHES)),
        jitter: SystemClock.jitter(),
    });
    tokio::task::LocalSet::new().block_on(&runtime, agent.run())
}

struct Agent {
    workplace: Rc<RefCell<Workplace>>,
    runtime: RuntimeDirectory,
    /// The current configuration error, if any.
    trouble: RefCell<Option<String>>,
    /// The error, while the records cannot be read.
    unread: RefCell<Option<String>>,
    /// The site's command, if the configuration is valid.
    command: RefCell<Option<PathBuf>>,
    known: Known,
    is_service: bool,
    ports: RefCell<Ports>,
    schedule: RefCell<Schedule>,
    /// Notified when a refresh ends.
    renewed: Rc<Notify>,
    start: UnixSeconds,
    /// Limits the number of concurrent refreshes.
    refreshes: Arc<Semaphore>,
    /// This agent's jitter.
    jitter: f64,
}

impl Agent {
    async fn run(self: Rc<Self>) -> std::io::Result<End> {
        let mut watcher = self.ports.borrow_mut().watcher().end();
        let socket = wake::socket(self.runtime.path());
        self.reload().await;
        let listener = listen(&socket)?;
        let mut busy = Instant::now();
        // When to stop waiting for the service, once the watcher has ended.
        let mut alone_until = None;
        let mut look = Instant::now() + LOOK;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Start due refreshes first: an earlier serving process may have been killed before them, and this one may
            // be killed soon too.
            let next = self.refresh();
            look = look.min(Instant::now() + next).min(alone_until.unwrap_or(look));
            let is_reloaded = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let mut waiting = vec![stream];
                        // One reload serves all hooks that have connected by now.
                        while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
                            waiting.push(stream);
                        }
                        self.reload().await;
                        let answer = wake::answer(self.ports.borrow().sockets().map(|(port, _)| port));
                        for mut stream in waiting {
                            // Do not wait for a hook that may be gone.
                            let _ = timeout(PAUSE, stream.write_all(answer.as_bytes())).await;
                        }
                        true
                    }
                    Err(_) => {
                        tokio::time::sleep(PAUSE).await;
                        false
                    }
                },
                () = self.renewed.notified() => {
                    self.reload().await;
                    true
                }
                _ = beat.tick() => {
                    self.ports.borrow_mut().watcher().beat();
                    if !self.runtime.is_there() {
                        self.log(LogLevel::Warn, "the runtime directory was removed");
                        return Ok(End::Over);
                    }
                    false
                }
                heard = keep::heard(watcher.as_ref()) => match heard {
                    Heard::End => {
                        self.log(LogLevel::Info, "the service manager asks the agent to end");
                        self.leave(&socket).await;
                        return Ok(End::Over);
                    }
                    Heard::Gone => {
                        self.log(LogLevel::Warn, "the watcher ended");
                        let patience = if self.is_service { SERVICE } else { Duration::ZERO };
                        (watcher, alone_until) = (None, Some(Instant::now() + patience));
                        false
                    }
                },
                () = tokio::time::sleep_until(look.into()) => {
                    self.reload().await;
                    true
                }
            };
            if is_reloaded {
                look = Instant::now() + LOOK;
            }
            let is_alone = alone_until.is_some();
            if is_reloaded && (is_alone || !self.is_service) && self.hand_over() {
                self.log(LogLevel::Info, "a service takes over");
                self.leave(&socket).await;
                return Ok(End::Over);
            }
            if alone_until.is_some_and(|end| Instant::now() >= end) {
                self.start_over().await;
            } else if is_reloaded && !is_alone && self.is_old() {
                self.log(LogLevel::Info, "the command is a new program");
                self.leave(&socket).await;
                return Ok(End::Upgrade);
            }
            if self.is_service || !self.ports.borrow().is_empty() || !self.runtime.kept().is_empty() {
                busy = Instant::now();
            } else if busy.elapsed() > IDLE {
                // A hook that finds no socket starts a new agent.
                std::fs::remove_file(&socket)?;
                return Ok(End::Over);
            }
        }
    }

    /// Removes the socket and answers the last requests. A hook that finds no socket starts a new agent, or waits for
    /// the service.
    async fn leave(&self, socket: &Path) {
        let _ = std::fs::remove_file(socket);
        self.close_ports().await;
    }

    async fn close_ports(&self) {
        // Take the ports out, as in `reload`.
        let mut ports = self.ports.take();
        ports.close().await;
        self.ports.replace(ports);
    }

    /// Passes the ports to a service that waits for them. Returns whether there is one.
    fn hand_over(&self) -> bool {
        service::hand_over(self.runtime.path(), self.ports.borrow().sockets())
    }

    /// Answers the last requests and replaces this process with a new agent that has a watcher. Returns only if that
    /// fails.
    async fn start_over(&self) {
        self.close_ports().await;
        let error = keep::start_over(&self.config_path(), self.runtime.path(), self.ports.borrow().sockets());
        self.log(LogLevel::Error, error);
        self.ports.borrow_mut().reopen();
        tokio::time::sleep(LONG_PAUSE).await;
    }

    /// Returns whether the site's command is a new program and no refresh is running.
    fn is_old(&self) -> bool {
        self.refreshes.available_permits() == REFRESHES
            && self.command.borrow().as_ref().is_some_and(|command| self.known.other(command).is_some())
    }

    /// Serves exactly the credentials in the records. A job that is over is no longer served, even while the
    /// configuration is invalid.
    async fn reload(&self) {
        self.look_at_configuration();
        obtain::sweep(&SystemClock, &self.runtime);
        let (wanted, trouble) = match self.look_at_records() {
            Ok(wanted) => (Some(wanted), None),
            Err(error) => (None, Some(format!("no job is added or ended: {error}"))),
        };
        self.tell_trouble(&self.unread, trouble, "the records can be read again");
        // Without descriptors or memory, keep serving what is served.
        let Some(wanted) = wanted else { return };
        self.tell_served(&wanted);
        // A borrow must not be held across an await. Nothing else uses the ports until they are put back.
        let mut ports = self.ports.take();
        let events = ports.set(wanted).await;
        self.ports.replace(ports);
        for (port, event) in events {
            match event {
                Event::Served => self.log(LogLevel::Debug, format_args!("port {port} is served")),
                Event::Ended => self.log(LogLevel::Debug, format_args!("port {port} is no longer served")),
                Event::Taken => {
                    self.log(LogLevel::Warn, format_args!("port {port} of 127.0.0.1 is taken by another program"));
                }
            }
        }
    }

    /// What the records say, by ports.
    fn look_at_records(&self) -> Result<BTreeMap<u16, Served>, FileError> {
        let mut wanted = BTreeMap::new();
        for job in self.runtime.look_for_jobs()? {
            let Some(record) = self.runtime.look_at_record(job)?.as_deref().and_then(JobRecord::parse) else {
                continue;
            };
            refresh::heal_and_tell(&self.config_path(), &self.journal(), &self.runtime, &record);
            wanted.extend(record.issued.iter().filter_map(|issued| Served::of(&record, issued)));
        }
        Ok(wanted)
    }

    fn tell_served(&self, wanted: &BTreeMap<u16, Served>) {
        let jobs: BTreeSet<JobId> = wanted.values().map(|served| served.facts.job).collect();
        let next_expiry = wanted.values().map(|served| served.token.expires_at).min();
        let (jobs, start, version) = (jobs.len(), self.start, env!("CARGO_PKG_VERSION"));
        tell::tell_served(&self.runtime, &metrics::Served { jobs, next_expiry, start, version });
    }

    /// Reads the configuration, and logs each change of its error once.
    fn look_at_configuration(&self) {
        let trouble = match Site::load(&self.config_path()) {
            Ok(site) => {
                self.command.replace(Some(site.config.command));
                let journal = self.journal().with_level(site.config.log_level);
                self.workplace.borrow_mut().journal = journal;
                None
            }
            Err(error) => {
                self.command.replace(None);
                Some(error.to_string())
            }
        };
        self.tell_trouble(&self.trouble, trouble, "the configuration is valid again");
    }

    /// Tells of trouble once for each change, and when it is over.
    fn tell_trouble(&self, known: &RefCell<Option<String>>, trouble: Option<String>, over: &str) {
        let before = known.replace(trouble.clone());
        match trouble {
            Some(trouble) if before.as_ref() != Some(&trouble) => self.log(LogLevel::Error, trouble),
            // Without descriptors it could not be told before.
            None => drop(before.map(|before| self.log(LogLevel::Info, format_args!("{over} ({before})")))),
            Some(_) => {}
        }
    }

    fn config_path(&self) -> PathBuf {
        self.workplace.borrow().config_path.clone()
    }

    fn journal(&self) -> Journal {
        self.workplace.borrow().journal.clone()
    }

    fn log(&self, level: LogLevel, text: impl Display) {
        self.journal().write(level, format_args!("gcp-wif: agent: {text}"));
    }

    /// Starts refreshes that are due. Returns the time until the next one.
    fn refresh(self: &Rc<Self>) -> Duration {
        let now = SystemClock.moment();
        let served = self.ports.borrow().served(|served| (served.due(), served.token.due(now, self.jitter)));
        // If a port is taken by another program, check again soon.
        let longest = if self.ports.borrow().is_complete() { LOOK } else { Duration::from_secs(1) };
        let (begun, next) = self.schedule.borrow_mut().begin(served, now, longest);
        for due in begun {
            let agent = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let how = agent.refresh_one(&due).await;
                agent.schedule.borrow_mut().ended(due, how.as_ref(), SystemClock.moment());
                if agent.refreshes.available_permits() == REFRESHES {
                    // Return the memory that the exchanges have used to the system.
                    sys::trim_heap();
                }
                agent.renewed.notify_one();
            });
        }
        next
    }

    /// Runs a refresh in a thread. Returns the pause before the next attempt, or `None` after a failure, after which
    /// the pause grows.
    async fn refresh_one(&self, due: &Due) -> Option<Result<Refreshed, Failure>> {
        let _place = self.refreshes.acquire().await;
        let (config_path, runtime_dir) = (self.config_path(), self.runtime.path().to_owned());
        let (journal, work_due) = (self.journal(), due.clone());
        let work = move || refresh::refresh_and_tell(&config_path, &runtime_dir, &journal, &work_due);
        match threads::run(work).await {
            Ok(how) => Some(how),
            Err(unfinished) => {
                self.log(LogLevel::Error, format_args!("job {} is not refreshed: {unfinished}", due.job));
                None
            }
        }
    }
}

fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    // This process holds the agent's lock, so an existing socket is a dead agent's.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
