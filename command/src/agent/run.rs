//! The process that serves.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gcp_wif_core::job::refresh::{Due, Refreshed};
use gcp_wif_core::job::wake;
use gcp_wif_core::plan::record::JobRecord;
use gcp_wif_core::policy::config::LogLevel;
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::time::UnixSeconds;
use gcp_wif_core::world::clock::{Clock, SystemClock};
use gcp_wif_core::world::fs::RuntimeDirectory;
use gcp_wif_core::world::sys;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{MissedTickBehavior, timeout};

use super::journal::Journal;
use super::keep::BEAT;
use super::serve::{Event, Ports};
use super::served::Served;
use super::{keep, refresh, threads};

/// After this long the agent looks at the clock and at the records when nothing has woken it: the clock may have
/// been set, the machine may have slept, and a hook may have been killed before it could tell.
const LOOK: Duration = Duration::from_secs(15);
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(50);
/// After a program that could not be started.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// How long an agent without a job stays.
const IDLE: Duration = Duration::from_secs(300);
/// A failed refresh is tried again after this long, and after twice as long each further time.
const FIRST_PAUSE: UnixSeconds = 5;
const LONGEST_PAUSE: UnixSeconds = 60;
/// While somebody else gets a token for the same job.
const BUSY_PAUSE: UnixSeconds = 1;
/// Many more than a hanging connection or two can take from the others.
const REFRESHES: usize = 32;

/// Serves until no job needs it.
pub(super) fn serve(config_path: &Path, runtime_dir: &Path, ports: Ports, journal: Journal) -> std::io::Result<()> {
    let Some(directory) = RuntimeDirectory::existing(runtime_dir) else { return Ok(()) };
    sys::share_heap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let agent = Rc::new(Agent {
        config_path: config_path.to_owned(),
        runtime: directory,
        journal: RefCell::new(journal),
        trouble: RefCell::default(),
        ports: RefCell::new(ports),
        pauses: Rc::default(),
        renewed: Rc::default(),
        refreshes: Arc::new(Semaphore::new(REFRESHES)),
        jitter: SystemClock.jitter(),
    });
    tokio::task::LocalSet::new().block_on(&runtime, agent.run())
}

/// What failed, or is under way: the next try, and the pause before it.
type Pauses = BTreeMap<Due, (UnixSeconds, UnixSeconds)>;

struct Agent {
    config_path: PathBuf,
    runtime: RuntimeDirectory,
    journal: RefCell<Journal>,
    /// Why the configuration cannot be used, if that is so.
    trouble: RefCell<Option<String>>,
    ports: RefCell<Ports>,
    pauses: Rc<RefCell<Pauses>>,
    /// A refresh has ended.
    renewed: Rc<Notify>,
    /// How many refreshes there are at once.
    refreshes: Arc<Semaphore>,
    /// The part of the jitter that is this agent's own.
    jitter: f64,
}

impl Agent {
    async fn run(self: Rc<Self>) -> std::io::Result<()> {
        let watcher = self.ports.borrow_mut().watcher().end();
        let socket = wake::socket(self.runtime.path());
        self.reload().await;
        let listener = listen(&socket)?;
        let mut busy = Instant::now();
        let mut look = Instant::now() + LOOK;
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // What is due since the one before was killed comes first; that may come soon again.
            let next = self.refresh();
            look = look.min(Instant::now() + next);
            let is_reloaded = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let mut waiting = vec![stream];
                        // One look serves all who have come by now.
                        while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
                            waiting.push(stream);
                        }
                        self.reload().await;
                        let answer = wake::answer(self.ports.borrow().sockets().map(|(port, _)| port));
                        for mut stream in waiting {
                            // It may be gone, and is not waited for.
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
                        return Ok(());
                    }
                    false
                }
                () = keep::ended(watcher.as_ref()) => {
                    self.log(LogLevel::Warn, "the watcher ended");
                    let path = self.runtime.path();
                    let error = keep::start_over(&self.config_path, path, self.ports.borrow().sockets());
                    self.log(LogLevel::Error, error);
                    tokio::time::sleep(LONG_PAUSE).await;
                    false
                }
                () = tokio::time::sleep_until(look.into()) => {
                    self.reload().await;
                    true
                }
            };
            if is_reloaded {
                look = Instant::now() + LOOK;
            }
            if !self.ports.borrow().is_empty() {
                busy = Instant::now();
            } else if busy.elapsed() > IDLE {
                // First out of sight, then away: who comes now starts a new one.
                std::fs::remove_file(&socket)?;
                return Ok(());
            }
        }
    }

    /// Serves what the records say. They say all of it: a job that is over is served no more, whatever has become of the
    /// configuration meanwhile.
    async fn reload(&self) {
        self.look_at_configuration();
        let mut wanted = BTreeMap::new();
        for job in self.runtime.jobs() {
            let Some(record) = self.runtime.peek_record(job).as_deref().and_then(JobRecord::parse) else { continue };
            refresh::heal_and_tell(&self.config_path, &self.journal.borrow(), &self.runtime, &record);
            wanted.extend(record.issued.iter().filter_map(|issued| Served::of(&record, issued)));
        }
        // No borrow may be held over an await of the one thread, but for this one: nobody else sets.
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

    /// What is wrong with the configuration is told when that changes.
    fn look_at_configuration(&self) {
        let trouble = match Site::load(&self.config_path) {
            Ok(site) => {
                self.journal.replace(Journal::new(self.runtime.path(), site.config.log_level));
                None
            }
            Err(error) => Some(error.to_string()),
        };
        let before = self.trouble.replace(trouble.clone());
        match trouble {
            Some(trouble) if before.as_ref() != Some(&trouble) => self.log(LogLevel::Error, trouble),
            None if before.is_some() => self.log(LogLevel::Info, "the configuration can be used again"),
            _ => {}
        }
    }

    fn log(&self, level: LogLevel, text: impl Display) {
        self.journal.borrow().write(level, format_args!("gcp-wif: agent: {text}"));
    }

    /// Starts the refresh of what is due. Returns how long there is nothing to do.
    fn refresh(self: &Rc<Self>) -> Duration {
        let now = SystemClock.now();
        let all: Vec<(Due, UnixSeconds)> =
            self.ports.borrow().served(|served| (served.due(), served.token.due(now, self.jitter)));
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
            // Until it is done nobody else begins it.
            self.pauses.borrow_mut().insert(due.clone(), (UnixSeconds::MAX, pause));
            let agent = Rc::clone(self);
            tokio::task::spawn_local(async move {
                let pause = agent.refresh_one(&due).await.unwrap_or(pause);
                // Until the record shows another token this one is not tried sooner, whatever the refresh says of it.
                agent.pauses.borrow_mut().insert(due, (SystemClock.now().saturating_add(pause), pause));
                if agent.refreshes.available_permits() == REFRESHES {
                    // A job of days should not cost the node what an exchange takes for a moment.
                    sys::trim_heap();
                }
                agent.renewed.notify_one();
            });
        }
        next
    }

    /// Refreshes in a thread. After a failure that counts there is no answer, else the pause before the next look.
    async fn refresh_one(&self, due: &Due) -> Option<UnixSeconds> {
        let _place = self.refreshes.acquire().await;
        let (config_path, runtime_dir) = (self.config_path.clone(), self.runtime.path().to_owned());
        let (journal, work_due) = (self.journal.borrow().clone(), due.clone());
        let work = move || refresh::refresh_and_tell(&config_path, &runtime_dir, &journal, &work_due);
        match threads::run(work).await {
            Ok(Ok(Refreshed::Busy)) => Some(BUSY_PAUSE),
            Ok(Ok(Refreshed::Done | Refreshed::NotDue)) => Some(FIRST_PAUSE),
            // It is told.
            Ok(Err(_)) => None,
            Err(unfinished) => {
                self.log(LogLevel::Error, format_args!("job {} is not refreshed: {unfinished}", due.job));
                None
            }
        }
    }
}

fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    // The lock is ours, so that a socket here is a dead agent's.
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
