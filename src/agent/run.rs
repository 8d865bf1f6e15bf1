//! The process that serves.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant as Moment};

use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

use super::refresh::{self, Log};
use super::serve::Endpoints;
use super::served::Served;
use super::{client, watch};
use crate::exchange::Instant;
use crate::exchange::run::Clock;
use crate::fs::RuntimeDirectory;
use crate::lifecycle::processes::Proc;
use crate::lifecycle::{Node, Site};
use crate::names::{Identity, JobId};
use crate::record::JobRecord;
use crate::worker::{SystemClock, Worker};

/// How often the agent looks at the clock and at the records.
const TICK: Duration = Duration::from_secs(1);
/// How long an agent without a job stays.
const IDLE: Duration = Duration::from_secs(300);
/// A failed refresh is tried again after this long, and after twice as long each further time.
const FIRST_PAUSE: Instant = 5;
const LONGEST_PAUSE: Instant = 60;
/// The log starts anew beyond this.
const LONGEST_LOG: u64 = 4 << 20;

/// Serves until no job needs it.
pub(super) fn serve(config_path: &Path, runtime_dir: &Path, endpoints: Endpoints) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    let agent = Rc::new(Agent::new(config_path, runtime_dir, endpoints));
    tokio::task::LocalSet::new().block_on(&runtime, agent.run())
}

/// Which credentials, and when the next try is due.
type Pauses = BTreeMap<(JobId, Identity), (Instant, Instant)>;

struct Agent {
    config_path: PathBuf,
    runtime_dir: PathBuf,
    endpoints: RefCell<Endpoints>,
    /// What is being refreshed, or failed: the next try, and the pause before it.
    pauses: Rc<RefCell<Pauses>>,
    /// The part of the jitter that is this agent's own.
    jitter: f64,
}

impl Agent {
    fn new(config_path: &Path, runtime_dir: &Path, endpoints: Endpoints) -> Self {
        Self {
            config_path: config_path.to_owned(),
            runtime_dir: runtime_dir.to_owned(),
            endpoints: RefCell::new(endpoints),
            pauses: Rc::default(),
            jitter: SystemClock.jitter(),
        }
    }

    async fn run(self: Rc<Self>) -> std::io::Result<()> {
        let watcher = rustix::process::getppid();
        let socket = client::socket(&self.runtime_dir);
        self.reload().await;
        let listener = listen(&socket)?;
        // What is due since the one before was killed; that may come soon again.
        self.refresh();
        let mut busy = Moment::now();
        loop {
            match tokio::time::timeout(TICK, listener.accept()).await {
                Ok(Ok((mut stream, _))) => {
                    self.reload().await;
                    // The plugin that waits for it may be gone.
                    let _ = stream.write_all(b"k").await;
                }
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(_) => self.reload().await,
            }
            self.refresh();
            if !self.endpoints.borrow().is_empty() {
                busy = Moment::now();
            } else if busy.elapsed() > IDLE {
                // First out of sight, then away: who comes now starts a new one.
                std::fs::remove_file(&socket)?;
                return Ok(());
            }
            if rustix::process::getppid() != watcher {
                log(&self.runtime_dir, "gcp-wif: agent: the watcher ended");
                let error = watch::start_over(&self.config_path, self.endpoints.borrow().sockets());
                log(&self.runtime_dir, &format!("gcp-wif: agent: {error}"));
            }
        }
    }

    /// Serves what the records say.
    async fn reload(&self) {
        let Ok(site) = Site::load(&self.config_path) else { return };
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
        let refused = endpoints.set(wanted).await;
        self.endpoints.replace(endpoints);
        for port in refused {
            log(&self.runtime_dir, &format!("gcp-wif: agent: port {port} of 127.0.0.1 is taken"));
        }
    }

    /// Starts the refresh of what is due.
    fn refresh(&self) {
        let now = SystemClock.now();
        let served = self.endpoints.borrow().served();
        self.pauses.borrow_mut().retain(|(job, _), _| served.iter().any(|served| served.job == *job));
        for served in served {
            let key = (served.job, served.identity.clone());
            let paused = self.pauses.borrow().get(&key).is_some_and(|(next, _)| *next > now);
            if paused || refresh::due(served.issued_at, served.expires_at, self.jitter) > now {
                continue;
            }
            let pause = self.pauses.borrow().get(&key).map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
            // Until it is done nobody else begins it.
            self.pauses.borrow_mut().insert(key.clone(), (Instant::MAX, pause));
            let (config_path, runtime_dir, pauses) =
                (self.config_path.clone(), self.runtime_dir.clone(), Rc::clone(&self.pauses));
            tokio::task::spawn_local(async move {
                let (job, identity) = key.clone();
                let work = move || {
                    let processes = Proc { root: "/proc".into(), parent: 1, config_path: config_path.clone() };
                    let node = Node { config_path: &config_path, exchanger: &Worker, processes: &processes };
                    refresh::refresh(&node, &Log(&runtime_dir), job, &identity, served.issued_at).is_ok()
                };
                let done = tokio::task::spawn_blocking(work).await.unwrap_or(false);
                let mut pauses = pauses.borrow_mut();
                if done {
                    pauses.remove(&key);
                } else {
                    pauses.insert(key, (SystemClock.now().saturating_add(pause), pause));
                }
            });
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

/// A line of the agent's log in the runtime directory.
pub(super) fn log(runtime_dir: &Path, line: &str) {
    let path = runtime_dir.join("agent.log");
    let long = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > LONGEST_LOG);
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    let file = if long { options.write(true).truncate(true).open(&path) } else { options.append(true).open(&path) };
    if let Ok(mut file) = file {
        // A log that cannot be written is no reason to stop serving.
        let _ = writeln!(file, "{} {line}", crate::plan::rfc3339(SystemClock.now()));
    }
}
