//! Runs work that waits for Google, each in a thread of its own: the serving process forks nothing.
#![forbid(unsafe_code)]

use std::io;
use std::thread;

use tokio::sync::oneshot;

/// Enough for an exchange with TLS; the default would be four times as much for each.
const STACK: usize = 512 << 10;

/// Why work did not end.
#[derive(Debug)]
pub(super) enum Unfinished {
    /// No thread can be started at this moment.
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

/// Runs work in a thread of its own and waits for what it returns.
///
/// # Errors
/// When no thread can be started, or the work panics.
pub(super) async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Unfinished> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        // The receiver may be gone.
        let _ = tell.send(work());
    };
    let name = "gcp-wif-work".to_owned();
    thread::Builder::new().name(name).stack_size(STACK).spawn(work).map_err(Unfinished::NoThread)?;
    told.await.map_err(|_| Unfinished::Panicked)
}
