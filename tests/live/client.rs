//! Sends the requests.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use gcp_wif_core::words::secret::Secret;
use ureq::Agent;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

/// Where distributions keep the system's certificate authorities.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// The time limit of one request.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a request is repeated if the quota is used up, and the pause before that in seconds.
const PAUSES: u32 = 3;
const PAUSE: u64 = 5;
const LONGEST_PAUSE: u64 = 60;
const LONGEST_BODY: u64 = 1 << 20;

/// A request, with whatever is wrong about it.
pub struct Request {
    pub is_get: bool,
    pub url: String,
    pub content_type: &'static str,
    pub bearer: Option<Secret>,
    pub body: Secret,
}

/// What came back.
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

pub struct Client(Agent);

impl Client {
    pub fn new(ca_certificates: Option<&Path>, proxy: Option<&str>) -> Result<Self, String> {
        let system = || SYSTEM.into_iter().map(Path::new).find(|path| path.exists());
        let roots = match ca_certificates.or_else(system) {
            Some(path) => {
                let pem = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
                let certificate = |item| if let Ok(PemItem::Certificate(one)) = item { Some(one) } else { None };
                parse_pem(&pem).filter_map(certificate).collect::<Vec<_>>()
            }
            None => Vec::new(),
        };
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&roots))
            .build();
        let proxy = proxy.map(ureq::Proxy::new).transpose().map_err(|error| format!("--proxy: {error}"))?;
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(proxy)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(LIMIT))
            .user_agent("spank-gcp-wif-live")
            .build();
        Ok(Self(Agent::new_with_config(config)))
    }

    /// Sends a request, and repeats it after a pause if a quota is used up.
    pub fn send(&self, request: &Request) -> Result<Reply, String> {
        let mut pauses = 0;
        loop {
            let (reply, retry_after) = self.send_once(request).map_err(|error| error.to_string())?;
            if reply.status != 429 || pauses == PAUSES {
                return Ok(reply);
            }
            pauses += 1;
            thread::sleep(Duration::from_secs(retry_after.unwrap_or(PAUSE).min(LONGEST_PAUSE)));
        }
    }

    fn send_once(&self, request: &Request) -> Result<(Reply, Option<u64>), ureq::Error> {
        let mut response = if request.is_get {
            self.0.get(&request.url).call()?
        } else {
            let mut call = self.0.post(&request.url).header("Content-Type", request.content_type);
            if let Some(bearer) = &request.bearer {
                call = call.header("Authorization", format!("Bearer {}", bearer.expose()));
            }
            call.send(request.body.expose())?
        };
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = header("content-type").unwrap_or_default();
        let retry_after = header("retry-after").and_then(|text| text.parse().ok());
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(LONGEST_BODY).read_to_vec()?;
        Ok((Reply { status, content_type, body }, retry_after))
    }
}
