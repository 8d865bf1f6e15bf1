//! Runs work that waits for Google in threads, because the serving process must not fork.
#![forbid(unsafe_code)]

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// The stack size, in bytes, which is enough for an exchange with TLS. The default is four times as much.
const STACK: usize = 512 << 10;

/// Why work did not finish.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// No thread could be started.
    NoThread(io::Error),
    /// It panicked.
    Panicked,
}

impl std::fmt::Display for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoThread(error) => write!(f, "no thread can be started: {error}"),
            Self::Panicked => f.write_str("a bug in gcp-wif, please report it"),
        }
    }
}

/// Runs `work` in a new thread and waits for its result.
///
/// # Errors
/// When no thread can be started, or the work panics.
pub(super) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Unfinished> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        // The receiver may have been dropped.
        let _ = tell.send(work());
    };
    let name = "gcp-wif-work".to_owned();
    thread::Builder::new().name(name).stack_size(STACK).spawn(work).map_err(Unfinished::NoThread)?;
    told.await.map_err(|_| Unfinished::Panicked)
}
