//! The serving process: serves what the records say, and refreshes what is due.
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
use gcp_wif_core::job::{obtain, tell, wake};
use gcp_wif_core::plan::metrics;
use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::words::time::UnixSeconds;
use gcp_wif_core::world::clock::{Clock, SystemClock};
use gcp_wif_core::world::fs::RuntimeDirectory;
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
use super::{keep, refresh, service, threads};

/// After this long the agent looks at the clock and at the records when nothing has woken it: the clock may have
/// been set, the machine may have slept, and a hook may have been killed before it could tell.
const LOOK: Duration = Duration::from_secs(15);
/// The pause after a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);
/// The pause after a program that could not be started.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// How long an agent stays without a job, once no token is kept any more.
const IDLE: Duration = Duration::from_secs(300);
/// A failed refresh is tried again after this long, and after twice as long each further time.
const FIRST_PAUSE: UnixSeconds = 5;
const LONGEST_PAUSE: UnixSeconds = 60;
/// The pause while another process gets a token for the same identity.
const BUSY_PAUSE: UnixSeconds = 1;
/// How long a serving process that has lost its watcher waits for the service to come back, which takes its ports.
const SERVICE: Duration = Duration::from_secs(6);
/// How many refreshes run at once: so many that some that hang do not hold up the others.
const REFRESHES: usize = 32;

/// What a serving process begins with.
pub(super) struct Beginning {
    pub(super) workplace: Workplace,
    pub(super) sockets: Sockets,
    pub(super) watcher: Watcher,
    /// The files that it does not start over for.
    pub(super) known: Known,
    /// Whether a service manager keeps it.
    pub(super) is_service: bool,
}

/// Why a serving process ends.
pub(super) enum End {
    /// No job needs it, or it was told to.
    Over,
    /// The site's `command` is another program by now.
    Upgrade,
}

/// Serves until no job needs it.
pub(super) fn serve(beginning: Beginning) -> std::io::Result<End> {
    let Beginning { workplace, sockets, watcher, known, is_service } = beginning;
    let Some(directory) = RuntimeDirectory::existing(&workplace.runtime_dir) else { return Ok(End::Over) };
    sys::share_heap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let workplace = Rc::new(RefCell::new(workplace));
    let agent = Rc::new(Agent {
        runtime: directory,
        trouble: RefCell::default(),
        command: RefCell::default(),
        known,
        is_service,
        ports: RefCell::new(Ports::new(sockets, watcher, Rc::clone(&workplace))),
        workplace,
        pauses: Rc::default(),
        renewed: Rc::default(),
        start: SystemClock.now(),
        refreshes: Arc::new(Semaphore::new(REFRESHES)),
        jitter: SystemClock.jitter(),
    });
    tokio::task::LocalSet::new().block_on(&runtime, agent.run())
}

/// What failed, or is under way: the next try, and the pause before it.
type Pauses = BTreeMap<Due, (UnixSeconds, UnixSeconds)>;

struct Agent {
    workplace: Rc<RefCell<Workplace>>,
    runtime: RuntimeDirectory,
    /// Why the configuration cannot be used, if that is so.
    trouble: RefCell<Option<String>>,
    /// The site's command, if the configuration can be used.
    command: RefCell<Option<PathBuf>>,
    known: Known,
    is_service: bool,
    ports: RefCell<Ports>,
    pauses: Rc<RefCell<Pauses>>,
    /// A refresh has ended.
    renewed: Rc<Notify>,
    start: UnixSeconds,
    /// Limits how many refreshes run at once.
    refreshes: Arc<Semaphore>,
    /// The part of the jitter that is this agent's own.
    jitter: f64,
}

impl Agent {
    async fn run(self: Rc<Self>) -> std::io::Result<End> {
        let mut watcher = self.ports.borrow_mut().watcher().end();
        let socket = wake::socket(self.runtime.path());
        self.reload().await;
        let listener = listen(&socket)?;
        let mut busy = Instant::now();
        // How long the service is waited for, once the watcher has ended.
        let mut alone_until = None;
        let mut look = Instant::now() + LOOK;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // First what is due since an earlier serving process was killed: this one may be killed soon as well.
            let next = self.refresh();
            look = look.min(Instant::now() + next).min(alone_until.unwrap_or(look));
            let is_reloaded = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let mut waiting = vec![stream];
                        // One look serves all that have connected by now.
                        while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
                            waiting.push(stream);
                        }
                        self.reload().await;
                        let answer = wake::answer(self.ports.borrow().sockets().map(|(port, _)| port));
                        for mut stream in waiting {
                            // The hook may be gone. It is not waited for.
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
                        self.log(LogLevel::Info, "it is told to end");
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
                self.log(LogLevel::Info, "the command is another program now");
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

    /// Answers the last requests. A hook that finds no socket starts a new agent, or waits for the service.
    async fn leave(&self, socket: &Path) {
        let _ = std::fs::remove_file(socket);
        // As in `reload`.
        let mut ports = self.ports.take();
        ports.close().await;
        self.ports.replace(ports);
    }

    /// Hands its ports to a service that waits for them. Returns whether there is one.
    fn hand_over(&self) -> bool {
        service::hand_over(self.runtime.path(), self.ports.borrow().sockets())
    }

    /// Starts over as a process with a watcher. Returns only if that fails.
    async fn start_over(&self) {
        let error = keep::start_over(&self.config_path(), self.runtime.path(), self.ports.borrow().sockets());
        self.log(LogLevel::Error, error);
        tokio::time::sleep(LONG_PAUSE).await;
    }

    /// Whether the site's command is another program by now, and nothing is under way at Google.
    fn is_old(&self) -> bool {
        self.refreshes.available_permits() == REFRESHES
            && self.command.borrow().as_ref().is_some_and(|command| self.known.other(command).is_some())
    }

    /// Serves what the records say, and nothing else: a job that is over is no longer served, also while the
    /// configuration cannot be used.
    async fn reload(&self) {
        self.look_at_configuration();
        obtain::sweep(&SystemClock, &self.runtime);
        let mut wanted = BTreeMap::new();
        for job in self.runtime.jobs() {
            let Some(record) = self.runtime.peek_record(job).as_deref().and_then(JobRecord::parse) else { continue };
            refresh::heal_and_tell(&self.config_path(), &self.journal(), &self.runtime, &record);
            wanted.extend(record.issued.iter().filter_map(|issued| Served::of(&record, issued)));
        }
        self.tell_served(&wanted);
        // No borrow may be held over an await. Nothing else uses the ports until they are put back.
        let mut ports = self.ports.take();
        let events = ports.set(wanted).await;
        self.ports.replace(ports);
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

    fn tell_served(&self, wanted: &BTreeMap<u16, Served>) {
        let jobs: BTreeSet<JobId> = wanted.values().map(|served| served.facts.job).collect();
        let next_expiry = wanted.values().map(|served| served.token.expires_at).min();
        let (jobs, start, version) = (jobs.len(), self.start, env!("CARGO_PKG_VERSION"));
        tell::tell_served(&self.runtime, &metrics::Served { jobs, next_expiry, start, version });
    }

    /// Tells what is wrong with the configuration, once for each change of that.
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
        let before = self.trouble.replace(trouble.clone());
        match trouble {
            Some(trouble) if before.as_ref() != Some(&trouble) => self.log(LogLevel::Error, trouble),
            None if before.is_some() => self.log(LogLevel::Info, "the configuration can be used again"),
            _ => {}
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

    /// Starts the refresh of what is due. Returns how long there is nothing to do.
    fn refresh(self: &Rc<Self>) -> Duration {
        let moment = SystemClock.moment();
        let now = moment.unix;
        let all: Vec<(Due, UnixSeconds)> =
            self.ports.borrow().served(|served| (served.due(), served.token.due(moment, self.jitter)));
        self.pauses.borrow_mut().retain(|paused, _| all.iter().any(|(due, _)| due == paused));
        // A port that is taken may be free soon.
        let mut next = if self.ports.borrow().is_complete() { LOOK } else { Duration::from_secs(1) };
        for (due, at) in all {
            let paused = self.pauses.borrow().get(&due).map_or(UnixSeconds::MIN, |(until, _)| *until);
            let at = at.max(paused);
            if at > now {
                next = next.min(Duration::from_secs(at.saturating_sub(now).unsigned_abs()));
                continue;
            }
            let pause = self.pauses.borrow().get(&due).map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
            // Nothing else starts it until it is done.
            self.pauses.borrow_mut().insert(due.clone(), (UnixSeconds::MAX, pause));
            let agent = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let pause = agent.refresh_one(&due).await.unwrap_or(pause);
                // Until the record shows another token, this one is not tried sooner, whatever the refresh returned.
                agent.pauses.borrow_mut().insert(due, (SystemClock.now().saturating_add(pause), pause));
                if agent.refreshes.available_permits() == REFRESHES {
                    // What an exchange takes for a moment must not stay in memory for as long as the jobs run.
                    sys::trim_heap();
                }
                agent.renewed.notify_one();
            });
        }
        next
    }

    /// Refreshes in a thread. Returns the pause before the next look, or none after a failure, whose pauses grow.
    async fn refresh_one(&self, due: &Due) -> Option<UnixSeconds> {
        let _place = self.refreshes.acquire().await;
        let (config_path, runtime_dir) = (self.config_path(), self.runtime.path().to_owned());
        let (journal, work_due) = (self.journal(), due.clone());
        let work = move || refresh::refresh_and_tell(&config_path, &runtime_dir, &journal, &work_due);
        match threads::run(work).await {
            Ok(Ok(Refreshed::Busy)) => Some(BUSY_PAUSE),
            Ok(Ok(Refreshed::Done | Refreshed::NotDue)) => Some(FIRST_PAUSE),
            // The journal has it.
            Ok(Err(_)) => None,
            Err(unfinished) => {
                self.log(LogLevel::Error, format_args!("job {} is not refreshed: {unfinished}", due.job));
                None
            }
        }
    }
}

fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    // We hold the agent's lock, so a socket here is a dead agent's.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
