//! Serves the jobs' loopback ports.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
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
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::answer::{Answer, Wanted};
use super::keep::{Sockets, Watcher};
use super::reply::{Call, Reply};
use super::requested::Workplace;
use super::served::Served;
use super::{caller, impersonation, metadata, requested, token};
use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::words::time::Moment;
use gcp_wif_core::world::clock::{Clock, SystemClock};

/// The size limit of a request, in bytes. Requests are short: a form with a handle.
const LONGEST: usize = 16 << 10;
/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 10 });
/// The number of connections that a user may have open, over all jobs. Further ones wait to be accepted.
const CONNECTIONS: usize = 512;
/// The pause while no descriptor is free.
const SHORTAGE: Duration = Duration::from_millis(50);
/// How long running requests may take when this process is about to end.
const LAST: Duration = Duration::from_secs(2);
/// The number of other users' connections that get a 403 reply at the same time. Further ones are closed at once.
const STRANGERS: usize = 16;
/// How long such a client may take to read the reply.
const STRANGERS_TIME: Duration = Duration::from_secs(1);
const TO_STRANGERS: &str = "HTTP/1.1 403 Forbidden\r\ncontent-type: application/text\r\ncontent-length: 33\r\n\
    metadata-flavor: Google\r\nconnection: close\r\n\r\nthis endpoint is another user's\r\n";
/// The served ports.
#[derive(Default)]
pub(super) struct Ports {
    served: BTreeMap<u16, ServedPort>,
    /// Listening sockets from an earlier process.
    left: Sockets,
    watcher: Watcher,
    workplace: Option<Rc<RefCell<Workplace>>>,
    /// Tells all connections whether this process is about to end.
    closing: Rc<watch::Sender<bool>>,
}

struct ServedPort {
    /// Connections have only a weak reference, so that a connection that outlives the job gets no more answers.
    served: Rc<RefCell<Served>>,
    user: Rc<User>,
    /// `None` while another program has the port. The job's tokens are refreshed nevertheless.
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

/// The limits of a user, which leave capacity for other users.
struct User {
    connections: Arc<Semaphore>,
    /// Limits requests that wait for Google.
    asking: Arc<Semaphore>,
}

impl Default for User {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { connections: semaphore(CONNECTIONS), asking: semaphore(requested::OF_USER) }
    }
}

/// A change of a port.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The port is served.
    Served,
    /// Another program has the port.
    Taken,
    /// The job of the port is over.
    Ended,
}

impl Ports {
    /// Creates an empty set. `left` has sockets for ports that will be served.
    pub(super) fn new(left: Sockets, watcher: Watcher, workplace: Rc<RefCell<Workplace>>) -> Self {
        Self { left, watcher, workplace: Some(workplace), ..Self::default() }
    }

    /// Returns the connection to the watcher.
    pub(super) fn watcher(&mut self) -> &mut Watcher {
        &mut self.watcher
    }

    /// Serves exactly the ports in `wanted` from now on.
    pub(super) async fn set(&mut self, wanted: BTreeMap<u16, Served>) -> Vec<(u16, Event)> {
        let mut events = Vec::new();
        self.served.retain(|port, old| {
            let old = old.served.borrow();
            let stays =
                wanted.get(port).is_some_and(|new| (new.job(), new.uid(), new.run) == (old.job(), old.uid(), old.run));
            if !stays {
                self.watcher.tell(*port, None);
                events.push((*port, Event::Ended));
            }
            stays
        });
        for (port, served) in wanted {
            let uid = served.uid();
            let (served, user, is_new) = match self.served.get(&port) {
                Some(ServedPort { served: old, listening: Some(_), .. }) => {
                    old.borrow_mut().replace(served);
                    continue;
                }
                Some(ServedPort { served: old, user, listening: None }) => {
                    old.borrow_mut().replace(served);
                    (Rc::clone(old), Rc::clone(user), false)
                }
                None => (Rc::new(RefCell::new(served)), self.user(uid), true),
            };
            let listener = self.listen(port).await.ok();
            let listening = listener.map(|listener| self.open(Rc::new(listener), &served, &user));
            match &listening {
                Some(_) => events.push((port, Event::Served)),
                None if is_new => events.push((port, Event::Taken)),
                None => {}
            }
            self.served.insert(port, ServedPort { served, user, listening });
        }
        for port in std::mem::take(&mut self.left).into_keys() {
            self.watcher.tell(port, None);
        }
        events
    }

    /// Stops accepting connections, and closes existing ones after their requests are answered. New connections wait in
    /// the sockets' queues for the next process.
    pub(super) async fn close(&mut self) {
        for listening in self.served.values().filter_map(|port| port.listening.as_ref()) {
            listening.task.abort();
        }
        self.closing.send_replace(true);
        let _ = tokio::time::timeout(LAST, self.closing.closed()).await;
    }

    /// Accepts connections again after [`Self::close`].
    pub(super) fn reopen(&mut self) {
        self.closing = Rc::default();
        let mut served = std::mem::take(&mut self.served);
        for port in served.values_mut() {
            let listening = port.listening.take();
            port.listening =
                listening.map(|listening| self.open(Rc::clone(&listening.listener), &port.served, &port.user));
        }
        self.served = served;
    }

    fn open(&self, listener: Rc<TcpListener>, served: &Rc<RefCell<Served>>, user: &Rc<User>) -> Listening {
        let (workplace, closing) = (self.workplace.clone(), Rc::clone(&self.closing));
        let door = Door { served: Rc::downgrade(served), user: Rc::clone(user), workplace, closing };
        let task = accept(Rc::clone(&listener), Rc::new(door));
        Listening { listener, task: tokio::task::spawn_local(task) }
    }

    /// Returns the limits of a user, which all jobs of the user share.
    fn user(&self, uid: u32) -> Rc<User> {
        let theirs = self.served.values().find(|port| port.served.borrow().uid() == uid);
        theirs.map(|port| Rc::clone(&port.user)).unwrap_or_default()
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

    /// Returns the listening sockets, for another process.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (u16, BorrowedFd<'_>)> {
        self.served.iter().filter_map(|(number, port)| Some((*number, port.listening.as_ref()?.listener.as_fd())))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.served.is_empty()
    }

    /// Returns whether all ports listen.
    pub(super) fn is_complete(&self) -> bool {
        self.served.values().all(|port| port.listening.is_some())
    }

    /// Returns the result of `of` for each served port.
    pub(super) fn served<T>(&self, of: impl Fn(&Served) -> T) -> Vec<T> {
        self.served.values().map(|port| of(&port.served.borrow())).collect()
    }
}

/// The context of a port's connections.
struct Door {
    served: Weak<RefCell<Served>>,
    user: Rc<User>,
    workplace: Option<Rc<RefCell<Workplace>>>,
    closing: Rc<watch::Sender<bool>>,
}

async fn accept(listener: Rc<TcpListener>, door: Rc<Door>) {
    let strangers = Rc::new(());
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // No descriptor is free, or the client has disconnected. The next accept may succeed.
            tokio::time::sleep(SHORTAGE).await;
            continue;
        };
        let Ok(here) = stream.local_addr() else { continue };
        let Some(uid) = door.served.upgrade().map(|served| served.borrow().uid()) else { return };
        // Check the owner before reading anything, so that other users' connections cost almost nothing.
        let Ok(owner) = caller::owner(peer, here) else {
            // The owner is unknown for lack of descriptors, so do not reply that the port is another user's.
            tokio::time::sleep(SHORTAGE).await;
            continue;
        };
        let is_allowed = owner.is_some_and(|owner| owner == uid || owner == 0);
        if !is_allowed {
            if Rc::strong_count(&strangers) <= STRANGERS {
                tokio::task::spawn_local(turn_away(stream, Rc::clone(&strangers)));
            }
            continue;
        }
        let Ok(place) = Arc::clone(&door.user.connections).acquire_owned().await else { return };
        let closing = door.closing.subscribe();
        tokio::task::spawn_local(connection(stream, here, Rc::clone(&door), place, closing));
    }
}

async fn turn_away(mut stream: TcpStream, _one_of_them: Rc<()>) {
    let told = async {
        stream.write_all(TO_STRANGERS.as_bytes()).await?;
        stream.shutdown().await?;
        // Read the request before closing; otherwise the kernel resets the connection, and the reply can be lost.
        while stream.read(&mut [0; 1024]).await? > 0 {}
        std::io::Result::Ok(())
    };
    let _ = tokio::time::timeout(STRANGERS_TIME, told).await;
}

async fn connection(
    stream: TcpStream,
    here: SocketAddr,
    door: Rc<Door>,
    _place: OwnedSemaphorePermit,
    mut closing: watch::Receiver<bool>,
) {
    let is_used = Cell::new(false);
    let service = service_fn(|request| {
        let door = Rc::clone(&door);
        is_used.set(true);
        async move {
            let mut response = response(answer(request, here, &door).await);
            if *door.closing.borrow() {
                response.headers_mut().insert("connection", hyper::header::HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(LONGEST);
    let mut served = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
    // Ignore errors of a connection that the client has broken.
    tokio::select! {
        _ = served.as_mut() => {}
        _ = closing.wait_for(|closing| *closing) => {
            // A graceful shutdown would close a connection whose first request is on its way.
            if is_used.get() {
                served.as_mut().graceful_shutdown();
            }
            let _ = served.await;
        }
    }
}

async fn answer(request: Request<Incoming>, here: SocketAddr, door: &Door) -> Reply {
    let (parts, body) = request.into_parts();
    let mut call = match Call::read(&parts, here) {
        Ok(call) => call,
        Err(refusal) => return refusal,
    };
    let body = tokio::time::timeout(PATIENCE, Limited::new(body, LONGEST).collect()).await;
    let Ok(Ok(body)) = body else { return Reply::refuse(400, "the body is too long or does not arrive") };
    call.body = Zeroizing::new(body.to_bytes().to_vec());
    // Clone the credentials, because they can change while the request waits for Google.
    let Some(served) = door.served.upgrade().map(|served| served.borrow().clone()) else {
        return Reply::refuse(403, "the job is over");
    };
    match route(&parts.method, &call, &served, SystemClock.moment()) {
        Answer::Now(reply) => reply,
        Answer::Later(wanted) => later(door, served, wanted).await,
    }
}

/// Answers a request.
pub(super) fn route(method: &Method, call: &Call, served: &Served, now: Moment) -> Answer {
    match (method, call.path.as_str()) {
        (&Method::POST, "/v1/token") => token::exchange(call, served, now),
        (&Method::POST, "/v1/introspect") => token::introspect(call, served, now).into(),
        (&Method::POST, _) => impersonation::answer(call, served, now).unwrap_or_else(|| not_allowed().into()),
        (&Method::GET, _) => metadata::answer(call, served, now),
        _ => not_allowed().into(),
    }
}

fn not_allowed() -> Reply {
    Reply::refuse(405, "method not allowed")
}

/// Obtains a requested token and builds the reply.
async fn later(door: &Door, served: Served, wanted: Wanted) -> Reply {
    let result = match &door.workplace {
        Some(workplace) => {
            let workplace = workplace.borrow().clone();
            requested::obtain(workplace, Arc::clone(&door.user.asking), served, &wanted).await
        }
        None => Err(Failure::internal()),
    };
    if let (Ok(token), None, Some(served)) = (&result, &wanted.audience, door.served.upgrade()) {
        served.borrow_mut().remember(token.clone());
    }
    (wanted.to_reply)(result, &wanted.grant, SystemClock.moment())
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
