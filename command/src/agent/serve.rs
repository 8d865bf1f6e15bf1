//! The loopback ports of the jobs.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::caller;
use super::keep::{Sockets, Watcher};
use super::reply::{Call, Reply};
use super::served::Served;
use super::{metadata, token};
use gcp_wif_core::job::lifecycle::Site;
use gcp_wif_core::job::worker;
use gcp_wif_core::world::clock::{Clock, SystemClock};

/// Requests are short: a form with a handle in it.
const LONGEST: usize = 16 << 10;
/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// How many connections a user may have open at once, over all of his jobs. More wait to be accepted.
const CONNECTIONS: usize = 512;
/// Who asks at another user's port is told so. Beyond this many at once he just sees the connection end.
const STRANGERS: usize = 16;
/// How long a stranger may take to read that.
const STRANGERS_TIME: Duration = Duration::from_secs(1);
const TO_STRANGERS: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/text\r\ncontent-length: 33\r\n\
    metadata-flavor: Google\r\nconnection: close\r\n\r\nthis endpoint is another user's\r\n";
/// Browsers name the page that a request comes from, or how it comes about. Not Sec-Fetch-Mode: Node's fetch says it, too.
const FROM_PAGES: [&str; 4] = ["origin", "referer", "sec-fetch-site", "sec-fetch-dest"];
/// How many OpenID tokens are fetched at once. Refreshes of tokens need threads as well.
static IDENTITIES: Semaphore = Semaphore::const_new(2);

/// What is served on each port.
#[derive(Default)]
pub(super) struct Endpoints {
    served: BTreeMap<u16, Endpoint>,
    /// What an earlier process left.
    left: Sockets,
    watcher: Watcher,
}

struct Endpoint {
    /// Its connections do not own it: one that outlives the job is answered no more.
    served: Rc<RefCell<Served>>,
    user: Rc<User>,
    /// None while another process has the port. The job's files are kept fresh all the same.
    listening: Option<Listening>,
}

struct Listening {
    listener: Rc<TcpListener>,
    task: JoinHandle<()>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a user may take of the agent at once, so that something is left for the others.
struct User {
    connections: Arc<Semaphore>,
    identities: Semaphore,
}

impl Default for User {
    fn default() -> Self {
        Self { connections: Arc::new(Semaphore::new(CONNECTIONS)), identities: Semaphore::new(1) }
    }
}

/// What has changed with a port.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It is served from now on.
    Served,
    /// It cannot be had.
    Taken,
    /// Its job is over.
    Ended,
}

impl Endpoints {
    /// Serves nothing yet. These sockets are for the ports that it will serve.
    pub(super) fn new(left: Sockets, watcher: Watcher) -> Self {
        Self { left, watcher, ..Self::default() }
    }

    /// What ties this process to its watcher.
    pub(super) fn watcher(&mut self) -> &mut Watcher {
        &mut self.watcher
    }

    /// Serves exactly these from now on.
    pub(super) async fn set(&mut self, wanted: BTreeMap<u16, Served>) -> Vec<(u16, Event)> {
        let mut events = Vec::new();
        self.served.retain(|port, endpoint| {
            let old = endpoint.served.borrow();
            let stays = wanted.get(port).is_some_and(|new| (new.job, new.uid) == (old.job, old.uid));
            if !stays {
                self.watcher.tell(*port, None);
                events.push((*port, Event::Ended));
            }
            stays
        });
        for (port, served) in wanted {
            let uid = served.uid;
            let (served, user, is_new) = match self.served.get(&port) {
                Some(Endpoint { served: old, listening: Some(_), .. }) => {
                    old.borrow_mut().replace(served);
                    continue;
                }
                Some(Endpoint { served: old, user, listening: None }) => {
                    old.borrow_mut().replace(served);
                    (Rc::clone(old), Rc::clone(user), false)
                }
                None => (Rc::new(RefCell::new(served)), self.user(uid), true),
            };
            let listening = self.listen(port).await.ok().map(|listener| {
                let listener = Rc::new(listener);
                let task = accept(Rc::clone(&listener), Rc::downgrade(&served), Rc::clone(&user));
                Listening { listener, task: tokio::task::spawn_local(task) }
            });
            match &listening {
                Some(_) => events.push((port, Event::Served)),
                None if is_new => events.push((port, Event::Taken)),
                None => {}
            }
            self.served.insert(port, Endpoint { served, user, listening });
        }
        for port in std::mem::take(&mut self.left).into_keys() {
            self.watcher.tell(port, None);
        }
        events
    }

    /// A user's share, the same for all of his jobs.
    fn user(&self, uid: u32) -> Rc<User> {
        let theirs = self.served.values().find(|endpoint| endpoint.served.borrow().uid == uid);
        theirs.map(|endpoint| Rc::clone(&endpoint.user)).unwrap_or_default()
    }

    async fn listen(&mut self, port: u16) -> std::io::Result<TcpListener> {
        if let Some(left) = self.left.remove(&port) {
            let left = std::net::TcpListener::from(left);
            left.set_nonblocking(true)?;
            return TcpListener::from_std(left);
        }
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        self.watcher.tell(port, Some(listener.as_fd()));
        Ok(listener)
    }

    /// The sockets, for another process.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (u16, BorrowedFd<'_>)> {
        self.served.iter().filter_map(|(port, endpoint)| Some((*port, endpoint.listening.as_ref()?.listener.as_fd())))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.served.is_empty()
    }

    /// Whether all of them listen.
    pub(super) fn is_complete(&self) -> bool {
        self.served.values().all(|endpoint| endpoint.listening.is_some())
    }

    /// What is served now.
    pub(super) fn served(&self) -> Vec<Served> {
        self.served.values().map(|endpoint| endpoint.served.borrow().clone()).collect()
    }
}

async fn accept(listener: Rc<TcpListener>, served: Weak<RefCell<Served>>, user: Rc<User>) {
    let strangers = Rc::new(());
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, or a client that went: the next one may do better.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Ok(here) = stream.local_addr() else { continue };
        let Some(uid) = served.upgrade().map(|served| served.borrow().uid) else { return };
        // Before anything is read: a stranger costs next to nothing, however many connections he opens.
        let is_allowed = caller::owner(peer, here).is_some_and(|owner| owner == uid || owner == 0);
        if !is_allowed {
            if Rc::strong_count(&strangers) <= STRANGERS {
                tokio::task::spawn_local(turn_away(stream, Rc::clone(&strangers)));
            }
            continue;
        }
        let Ok(place) = Arc::clone(&user.connections).acquire_owned().await else { return };
        tokio::task::spawn_local(connection(stream, here, Weak::clone(&served), Rc::clone(&user), place));
    }
}

async fn turn_away(mut stream: TcpStream, _one_of_them: Rc<()>) {
    let told = async {
        stream.write_all(TO_STRANGERS.as_bytes()).await?;
        stream.shutdown().await?;
        // To close before his request is in would take the answer back.
        while stream.read(&mut [0; 1024]).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(STRANGERS_TIME, told).await;
}

async fn connection(
    stream: TcpStream,
    here: SocketAddr,
    served: Weak<RefCell<Served>>,
    user: Rc<User>,
    _place: OwnedSemaphorePermit,
) {
    let service = service_fn(move |request| {
        let (served, user) = (Weak::clone(&served), Rc::clone(&user));
        async move { Ok::<_, Infallible>(response(answer(request, here, &served, &user).await)) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(LONGEST);
    // A client that breaks off is no error of ours.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, here: SocketAddr, served: &Weak<RefCell<Served>>, user: &User) -> Reply {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if request.headers().contains_key("x-forwarded-for") {
        return Reply::refuse(403, "requests are not taken from proxies");
    }
    let hosts = [here.to_string(), format!("localhost:{}", here.port()), "metadata.google.internal".to_owned()];
    if !hosts.iter().any(|host| host == header("host")) {
        return Reply::refuse(403, "another host is meant");
    }
    if FROM_PAGES.iter().any(|name| request.headers().contains_key(*name)) {
        return Reply::refuse(403, "requests are not taken from pages");
    }
    let has_flavor = header("metadata-flavor") == "Google";
    let content_type = header("content-type").to_owned();
    let path = percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
    let query = super::form(request.uri().query().unwrap_or_default());
    let method = request.method().clone();
    let body = tokio::time::timeout(PATIENCE, Limited::new(request.into_body(), LONGEST).collect()).await;
    let Ok(Ok(body)) = body else { return Reply::refuse(400, "the body is too long or does not come") };
    let body = Zeroizing::new(body.to_bytes().to_vec());
    let call = Call { method: method.to_string(), path, query, body, content_type, has_flavor };
    // A copy: what is served may change while a request waits for Google.
    let Some(served) = served.upgrade().map(|served| served.borrow().clone()) else {
        return Reply::refuse(403, "the job is over");
    };
    let now = SystemClock.now();
    if let Some(audience) = metadata::wants_identity(&call, &served) {
        let (_his, _all) = (user.identities.acquire().await, IDENTITIES.acquire().await);
        return identity(served, audience).await;
    }
    match (method, call.path.as_str()) {
        (Method::POST, "/v1/token") => token::exchange(&call, &served, now),
        (Method::POST, "/v1/introspect") => token::introspect(&call, &served, now),
        (Method::GET, _) => metadata::answer(&call, &served, now),
        _ => Reply::refuse(405, "method not allowed"),
    }
}

/// An OpenID token, which is got from Google for each request: clients keep it for its hour.
async fn identity(served: Served, audience: String) -> Reply {
    let work = move || {
        let site = Site::load(&served.config_path)?;
        worker::id_token(&site, &served.identity, &served.facts, &audience)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(token)) => Reply::text(token.expose()),
        // gcloud goes on without where there is none, and stops at every other status.
        Ok(Err(failure)) => Reply::refuse(if failure.is_refusal() { 404 } else { 503 }, &failure.to_string()),
        Err(_) => Reply::refuse(500, "the request could not be served"),
    }
}

fn response(mut reply: Reply) -> Response<Full<Bytes>> {
    let body = Bytes::from(std::mem::take(&mut *reply.body));
    let mut response = Response::new(Full::new(body));
    *response.status_mut() =
        hyper::StatusCode::from_u16(reply.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert("content-type", hyper::header::HeaderValue::from_static(reply.content_type));
    headers.insert("metadata-flavor", hyper::header::HeaderValue::from_static("Google"));
    headers.insert("server", hyper::header::HeaderValue::from_static("Metadata Server for VM"));
    headers.insert("cache-control", hyper::header::HeaderValue::from_static("no-store"));
    if reply.status == 403 {
        headers.insert("connection", hyper::header::HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests;
