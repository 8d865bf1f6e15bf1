//! The loopback ports of the jobs.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::caller;
use super::keep::{Sockets, Watcher};
use super::reply::{Call, Reply};
use super::served::Served;
use super::{metadata, token};
use crate::exchange::run::Clock;
use crate::lifecycle::Site;
use crate::worker::{self, SystemClock};

/// Requests are short: a form with a handle in it.
const LONGEST: usize = 64 << 10;
/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is served on each port.
#[derive(Default)]
pub(super) struct Endpoints {
    served: BTreeMap<u16, Endpoint>,
    /// What an earlier process left.
    left: Sockets,
    watcher: Watcher,
}

struct Endpoint {
    served: Rc<RefCell<Served>>,
    listener: Rc<TcpListener>,
    listening: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Endpoints {
    /// Serves nothing yet. These sockets are for the ports that it will serve.
    pub(super) fn new(left: Sockets, watcher: Watcher) -> Self {
        Self { left, watcher, ..Self::default() }
    }

    /// Serves exactly these from now on. Returns the ports that cannot be had.
    pub(super) async fn set(&mut self, wanted: BTreeMap<u16, Served>) -> Vec<u16> {
        self.served.retain(|port, _| {
            let stays = wanted.contains_key(port);
            if !stays {
                self.watcher.tell(*port, None);
            }
            stays
        });
        let mut refused = Vec::new();
        for (port, served) in wanted {
            if let Some(endpoint) = self.served.get(&port) {
                *endpoint.served.borrow_mut() = served;
                continue;
            }
            let Ok(listener) = self.listen(port).await else {
                refused.push(port);
                continue;
            };
            let (served, listener) = (Rc::new(RefCell::new(served)), Rc::new(listener));
            let listening = tokio::task::spawn_local(accept(Rc::clone(&listener), Rc::clone(&served)));
            self.served.insert(port, Endpoint { served, listener, listening });
        }
        for port in std::mem::take(&mut self.left).into_keys() {
            self.watcher.tell(port, None);
        }
        refused
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
        self.served.iter().map(|(port, endpoint)| (*port, endpoint.listener.as_fd()))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.served.is_empty()
    }

    /// What is served now.
    pub(super) fn served(&self) -> Vec<Served> {
        self.served.values().map(|endpoint| endpoint.served.borrow().clone()).collect()
    }
}

async fn accept(listener: Rc<TcpListener>, served: Rc<RefCell<Served>>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => drop(tokio::task::spawn_local(connection(stream, peer, Rc::clone(&served)))),
            // Out of descriptors, or a client that went: the next one may do better.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, served: Rc<RefCell<Served>>) {
    let Ok(here) = stream.local_addr() else { return };
    let uid = served.borrow().uid;
    let allowed = caller::owner(peer, here).is_some_and(|owner| owner == uid || owner == 0);
    let service = service_fn(move |request| {
        let served = Rc::clone(&served);
        async move {
            let reply = if allowed {
                answer(request, here, &served).await
            } else {
                Reply::refuse(403, "this endpoint is another user's")
            };
            Ok::<_, Infallible>(response(reply))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(LONGEST);
    // A client that breaks off is no error of ours.
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, here: SocketAddr, served: &RefCell<Served>) -> Reply {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if request.headers().contains_key("x-forwarded-for") {
        return Reply::refuse(403, "requests are not taken from proxies");
    }
    let hosts = [here.to_string(), format!("localhost:{}", here.port()), "metadata.google.internal".to_owned()];
    if !hosts.iter().any(|host| host == header("host")) {
        return Reply::refuse(403, "another host is meant");
    }
    // Browsers name the page that a request comes from.
    if request.headers().contains_key("origin") {
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
    let (served, now) = (served.borrow().clone(), SystemClock.now());
    if let Some(audience) = metadata::wants_identity(&call, &served) {
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
        Ok(Err(failure)) => Reply::refuse(503, &failure.to_string()),
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
    response
}
