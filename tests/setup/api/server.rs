//! A project at Google, for its administrators: the endpoints that gcloud uses to create identity pools, service
//! accounts, repositories and roles, on 127.0.0.1, as strict as the real ones.
//!
//! The server refuses unknown paths, parameters, fields and members. It accepts a policy only with the current etag.
//! Removed pools and providers keep their names. A new resource can stay invisible for some requests, as at Google.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::world::World;
use super::{errors, iam, policies, services};
use crate::google::tls::Authority;
use crate::google::wire::{self, Request, Response, Stream};
use crate::google::{Certificate, errors as words};

/// The access token that gcloud must send.
pub const TOKEN: &str = "ya29.administrator";

/// The target of a request, in parts: `projects/P/...` or a bucket.
pub struct Ask<'a> {
    pub method: &'a str,
    /// The path below the version, without a verb.
    pub path: Vec<&'a str>,
    /// The text after the last colon, such as `undelete` or `getIamPolicy`; empty if there is none.
    pub verb: &'a str,
    pub body: Value,
    pub request: &'a Request,
}

impl Ask<'_> {
    /// Refuses a body with other fields.
    pub fn only(&self, fields: &[&str]) -> Result<(), Refusal> {
        let unknown = self.body.as_object().and_then(|body| body.keys().find(|key| !fields.contains(&key.as_str())));
        match unknown {
            None => Ok(()),
            Some(name) => Err(errors::invalid(format!(
                "Invalid JSON payload received. Unknown name \"{name}\": Cannot find field."
            ))),
        }
    }

    /// A parameter of the query that has to be there.
    pub fn query(&self, name: &str) -> Result<&str, Refusal> {
        self.request.query(name).ok_or_else(|| errors::invalid(format!("The parameter {name} is missing.")))
    }

    pub fn text(&self, field: &str) -> &str {
        self.body[field].as_str().unwrap_or("")
    }
}

/// A refusal is boxed: it is far greater than an answer's usual error.
pub type Refusal = Box<Response>;
pub type Answer = Result<Value, Refusal>;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: String,
    pub target: String,
}

impl Recorded {
    /// Whether it could have changed something.
    pub fn is_writing(&self) -> bool {
        self.method != "GET" && !self.target.contains(":getIamPolicy")
    }
}

/// A running instance. Its threads end with it.
pub struct Api {
    world: Arc<Mutex<World>>,
    requests: Arc<Mutex<Vec<Recorded>>>,
    authority: Authority,
    plain: SocketAddr,
    secure: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptors: Vec<JoinHandle<()>>,
}

impl Api {
    pub fn start(world: World) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let (plain, secure) = (listen(), listen());
        let addresses = [&plain, &secure].map(|listener| listener.local_addr().expect("a bound port"));
        let authority = Authority::new(Certificate::Valid);
        let world = Arc::new(Mutex::new(world));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptors = [(plain, None), (secure, Some(authority.server()))].map(|(listener, tls)| {
            let (world, requests, stopping) = (Arc::clone(&world), Arc::clone(&requests), Arc::clone(&stopping));
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if stopping.load(Ordering::Relaxed) {
                        return;
                    }
                    let (world, requests, tls) = (Arc::clone(&world), Arc::clone(&requests), tls.clone());
                    // It does not matter to the server if a client was killed.
                    thread::spawn(move || serve(stream, tls, &world, &requests));
                }
            })
        });
        let [plain, secure] = addresses;
        Self { world, requests, authority, plain, secure, stopping, acceptors: acceptors.into() }
    }

    /// `http://127.0.0.1:PORT/`, for CLOUDSDK_API_ENDPOINT_OVERRIDES.
    pub fn url(&self) -> String {
        format!("http://{}/", self.plain)
    }

    /// The issuer of a cluster's tokens, which has a discovery document here.
    pub fn issuer(&self) -> String {
        format!("https://{}/id/cluster", self.secure)
    }

    /// The root of the issuer's certificate, as PEM.
    pub fn ca_certificate(&self) -> &str {
        self.authority.certificate()
    }

    /// The project's resources, for a test to read or to change.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("the world")
    }

    /// All resources, without the parts that differ between runs.
    pub fn dump(&self) -> String {
        let text = format!("{:#}\n", self.world().dump());
        text.replace(&self.secure.to_string(), "ISSUER")
    }

    /// The requests since the last call of this function.
    pub fn take_requests(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.requests.lock().expect("the requests"))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for address in [self.plain, self.secure] {
            let _wakes_the_acceptor = TcpStream::connect(address);
        }
        for acceptor in self.acceptors.drain(..) {
            let _ = acceptor.join();
        }
    }
}

fn serve(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    world: &Mutex<World>,
    requests: &Mutex<Vec<Recorded>>,
) -> io::Result<()> {
    let is_issuer = tls.is_some();
    let stream: Box<dyn Stream> = match tls {
        None => Box::new(stream),
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config).map_err(io::Error::other)?, stream)),
    };
    let mut stream = BufReader::new(stream);
    while let Some(request) = wire::read(&mut stream, is_issuer)? {
        let response = if is_issuer {
            discovery(&request)
        } else {
            // The lock makes requests come one after the other.
            let mut world = world.lock().expect("the world");
            let response = match answer(&request, &mut world) {
                Ok(body) => words::pretty_answer(&body),
                Err(refusal) => *refusal,
            };
            requests
                .lock()
                .expect("the requests")
                .push(Recorded { method: request.method.clone(), target: request.target.clone() });
            response
        };
        stream.get_mut().write_all(&response.bytes())?;
        stream.get_mut().flush()?;
    }
    Ok(())
}

/// The issuer's discovery document.
fn discovery(request: &Request) -> Response {
    match request.path.strip_suffix("/.well-known/openid-configuration") {
        Some("/id/cluster") => words::json_answer(&json!({
            "issuer": format!("{}/id/cluster", request.base()),
            "jwks_uri": format!("{}/id/cluster/keys", request.base()),
        })),
        Some("/id/renamed") => words::json_answer(&json!({"issuer": "https://oidc.example.net/id/cluster"})),
        _ => words::not_found(&request.path),
    }
}

fn answer(request: &Request, world: &mut World) -> Answer {
    if request.bearer() != Some(TOKEN) {
        return Err(errors::unauthenticated());
    }
    let path = percent_encoding::percent_decode_str(&request.path).decode_utf8_lossy().into_owned();
    let (path, is_storage) = match path.strip_prefix("/storage/v1/") {
        Some(rest) => (rest, true),
        None => (path.strip_prefix("/v1/").unwrap_or(""), false),
    };
    // A member has colons as well, but no member is in a path.
    let (name, verb) = path.rsplit_once(':').unwrap_or((path, ""));
    let body = match request.body.as_slice() {
        [] => json!({}),
        body => serde_json::from_slice(body).map_err(|_| errors::invalid("Invalid JSON payload received."))?,
    };
    let ask = Ask { method: &request.method, path: name.split('/').collect(), verb, body, request };
    if let Some(permission) = world.denied.iter().find(|(part, _)| path.contains(*part)).map(|(_, name)| name) {
        return Err(errors::denied(permission, name));
    }
    world.check_service(&ask.path, is_storage)?;
    if is_storage {
        return policies::bucket(&ask, world);
    }
    match ask.path[..] {
        ["operations", ..] | ["projects", .., "operations", _] => Ok(world.operation(name)),
        ["projects", _] | ["projects", _, "services", ..] => services::answer(&ask, world),
        ["projects", _, "serviceAccounts", ..] => iam::account(&ask, world),
        ["projects", _, "locations", "global", "workloadIdentityPools", ..] => iam::pool(&ask, world),
        ["projects", _, "locations", _, "repositories", ..] => services::repository(&ask, world),
        // services:batchEnable
        ["projects", _, ..] if verb == "batchEnable" => services::answer(&ask, world),
        _ => Err(Box::new(words::not_found(&request.path))),
    }
}
