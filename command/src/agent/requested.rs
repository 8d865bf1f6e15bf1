//! Obtains tokens that clients request: kept ones, or new ones from an exchange.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gcp_wif_core::exchange::Purpose;
use gcp_wif_core::job::requested::{Had, Requested};
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::tokens::Token;
use gcp_wif_core::world::fs::RuntimeDirectory;
use tokio::sync::Semaphore;

use super::answer::Wanted;
use super::journal::Journal;
use super::refresh::with_node;
use super::served::Served;
use super::threads;

/// The number of a user's requests that may wait for Google at the same time, over all jobs. Further requests wait for
/// their turn. Most of them then find a kept token, because ranks that start together request the same one.
pub(super) const OF_USER: usize = 2;
/// The number of all requests that may wait for Google at the same time, which limits the number of threads.
static AT_ONCE: Semaphore = Semaphore::const_new(32);
/// How long a client waits for a new token while the old one is valid. The Python and Node libraries time out after
/// three seconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// The agent's paths and log.
#[derive(Clone, Debug)]
pub(super) struct Workplace {
    /// The path of the site configuration.
    pub(super) config_path: PathBuf,
    /// The runtime directory.
    pub(super) runtime_dir: PathBuf,
    /// The log.
    pub(super) journal: Journal,
}

/// Obtains a token for a client of a job.
///
/// # Errors
/// The failure, as it is shown to the client.
pub(super) async fn obtain(
    workplace: Workplace,
    of_user: Arc<Semaphore>,
    served: Served,
    wanted: &Wanted,
) -> Result<Token, Failure> {
    let request = Rc::new((workplace, served, (wanted.grant.clone(), wanted.audience.clone())));
    let had = run(&request, |requested| requested.had()).await;
    let living = match had? {
        Had::Token(token) => return Ok(token),
        Had::Failure(failure) => return Err(failure),
        Had::Ending(living) => living,
    };
    // The exchange continues if the client disconnects, so that the next client finds its result.
    let asking = tokio::task::spawn_local(async move {
        let (_of_user, _of_all) = (of_user.acquire().await, AT_ONCE.acquire().await);
        run(&request, |requested| match requested.had()? {
            Had::Token(token) => Ok(token),
            Had::Failure(failure) => Err(failure),
            Had::Ending(_) => requested.obtain(),
        })
        .await
    });
    match living {
        None => asking.await.unwrap_or_else(|error| Err(Failure::of_agent(&error.to_string()))),
        Some(living) => match tokio::time::timeout(PATIENCE, asking).await {
            Ok(Ok(Ok(new))) => Ok(new),
            _ => Ok(living),
        },
    }
}

type Request = (Workplace, Served, (gcp_wif_core::policy::grant::Grant, Option<String>));

/// Runs `work` in a thread.
async fn run<T: Send + 'static>(
    request: &Request,
    work: impl FnOnce(&Requested<'_>) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (workplace, served, (grant, audience)) = request.clone();
    let work = move || {
        let runtime = RuntimeDirectory::existing(&workplace.runtime_dir)?;
        let runtime = runtime.ok_or_else(|| Failure::of_agent("the runtime directory was removed"))?;
        with_node(&workplace.config_path, &workplace.journal, |node, log| {
            let purpose = audience.as_deref().map_or(Purpose::AccessToken, Purpose::IdToken);
            let (facts, run) = (&served.facts, served.run);
            work(&Requested { node, log, runtime: &runtime, facts, run, grant: &grant, purpose })
        })
    };
    threads::run(work).await.unwrap_or_else(|unfinished| Err(Failure::of_agent(&unfinished.to_string())))
}
