//! Tries a pull from a registry in the same way as enroot: the registry names its token service, which accepts the
//! access token as a password and returns a token for the registry.
#![forbid(unsafe_code)]

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::report::Report;
use gcp_wif_core::plan::enroot::registries;
use gcp_wif_core::plan::report::Stage;
use gcp_wif_core::policy::config::Config;
use gcp_wif_core::words::google::Endpoint;
use gcp_wif_core::words::names::{InvalidName, clip};
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::world::http::{Body, Client};

const STAGE: Stage = Stage::Files;
const LISTED: &str = "registries";
const PULL: &str = "registry";
const USER: &str = "oauth2accesstoken";
/// The time limit of each request.
const LIMIT: Duration = Duration::from_secs(20);
const FIX: &str = "grant the identity roles/artifactregistry.reader on the repository";

/// The registry to try, and optionally an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// The host, with the port if there is one.
    registry: String,
    /// The name and tag of the image.
    image: Option<(String, String)>,
}

impl Image {
    /// Parses `HOST`, or an image in docker's (`HOST/IMAGE:TAG`) or enroot's notation (`HOST#IMAGE:TAG`).
    ///
    /// # Errors
    /// When the text is neither.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let refused = || format!("\"{}\" is not HOST or HOST/IMAGE:TAG of a registry", clip(text, 80));
        let (registry, image) = text.split_once(['/', '#']).unwrap_or((text, ""));
        let image = (!image.is_empty()).then(|| image.rsplit_once(':').unwrap_or((image, "latest")));
        let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
        let (name, port) = registry.split_once(':').unwrap_or((registry, "443"));
        let host = plain(name) && !name.is_empty() && port.parse::<u16>().is_ok();
        if !host || !image.is_none_or(|(name, tag)| plain(name) && plain(tag)) || url(registry, "").is_err() {
            return Err(refused());
        }
        let image = image.map(|(name, tag)| (name.to_owned(), tag.to_owned()));
        Ok(Self { registry: registry.to_owned(), image })
    }

    /// Returns the host without the port.
    fn host(&self) -> &str {
        self.registry.split(':').next().unwrap_or_default()
    }

    fn path(&self) -> String {
        self.image.as_ref().map_or_else(String::new, |(name, tag)| format!("{name}/manifests/{tag}"))
    }
}

/// Builds a URL. Uses plain http only for loopback addresses, because [`Endpoint::parse`] refuses it otherwise.
fn url(registry: &str, path: &str) -> Result<Endpoint, InvalidName> {
    let plain = Endpoint::parse(&format!("http://{registry}/v2/{path}"));
    plain.or_else(|_| Endpoint::parse(&format!("https://{registry}/v2/{path}")))
}

pub(super) fn check(
    report: &mut Report<'_, '_>,
    image: &Image,
    config: Option<&Config>,
    client: Option<&Client>,
    access_token: Option<&Secret>,
) {
    let (Some(config), Some(client), Some(token)) = (config, client, access_token) else {
        report.skip(STAGE, LISTED, "needs the access token");
        return report.skip(STAGE, PULL, "needs the access token");
    };
    let hosts = config.registries.clone().unwrap_or_else(registries::of_google);
    if hosts.iter().any(|host| host.as_str() == image.host()) {
        report.ok(STAGE, LISTED, format_args!("{} gets the jobs' credentials", image.host()));
    } else {
        report.warn(
            STAGE,
            LISTED,
            format_args!(
                "{} gets no credentials from jobs; add it to registries in the site configuration",
                image.host()
            ),
        );
    }
    match pull(client, image, token) {
        Ok(text) => report.ok(STAGE, PULL, text),
        Err(problem) => report.fail(STAGE, PULL, problem),
    }
}

fn pull(client: &Client, image: &Image, token: &Secret) -> Result<String, String> {
    let url = url(&image.registry, &image.path()).map_err(|error| error.to_string())?;
    let get = |url: &Endpoint, authorization: Option<&Secret>| {
        let no_way = |error| format!("{url}: {error}; check the node's route to it (proxy, firewall, DNS)");
        client.get(url, authorization, LIMIT).map_err(no_way)
    };
    let (status, challenge, body) = get(&url, None)?;
    if status != 401 {
        return told(&url, image, status, &body);
    }
    let challenge = challenge.unwrap_or_default();
    let basic = Secret::new(format!("Basic {}", STANDARD.encode(format!("{USER}:{}", token.expose()))));
    if !challenge.to_ascii_lowercase().starts_with("bearer ") {
        let (status, _, body) = get(&url, Some(&basic))?;
        return told(&url, image, status, &body);
    }
    let service = token_service(&challenge, image).ok_or_else(|| {
        let challenge = clip(&challenge, 200);
        format!(
            "{url}: it names a token service to which enroot would not send the token ({challenge}); check its name"
        )
    })?;
    let (status, _, body) = get(&service, Some(&basic))?;
    let granted = serde_json::from_slice::<Value>(body.expose()).unwrap_or_default();
    let Some(granted) = ["token", "access_token"].iter().find_map(|key| granted.get(key)?.as_str()) else {
        return Err(refused(&service, status, &body));
    };
    let (status, _, body) = get(&url, Some(&Secret::new(format!("Bearer {granted}"))))?;
    told(&url, image, status, &body)
}

/// Returns the URL of the token service that a challenge names, with its query. Its host must be the registry's,
/// because enroot has credentials for no other host.
pub(super) fn token_service(challenge: &str, image: &Image) -> Option<Endpoint> {
    let value = |key: &str| challenge.split_once(&format!("{key}=\""))?.1.split('"').next();
    let realm = value("realm")?;
    let uri: http::Uri = realm.parse().ok()?;
    let mut url = format!("{realm}?service={}", value("service").unwrap_or(image.host()));
    if let Some(scope) = value("scope") {
        url.push_str(&format!("&scope={scope}"));
    }
    Endpoint::parse(&url).ok().filter(|_| uri.host() == Some(image.host()))
}

/// Interprets the registry's last response.
fn told(url: &Endpoint, image: &Image, status: u16, body: &Body) -> Result<String, String> {
    match (status, &image.image) {
        (200, Some((name, tag))) => Ok(format!("{name}:{tag} can be pulled from {}", image.registry)),
        (200, None) => Ok(format!("{url} accepts the token; HOST/IMAGE:TAG also checks the permission for an image")),
        (404, Some((name, tag))) => {
            Err(format!("{url}: HTTP 404{}; {name}:{tag} does not exist, correct its name", text(body)))
        }
        _ => Err(refused(url, status, body)),
    }
}

fn refused(url: &Endpoint, status: u16, body: &Body) -> String {
    let fix = if matches!(status, 401 | 403) { FIX } else { "try again later" };
    format!("{url}: HTTP {status}{}; {fix}", text(body))
}

/// Returns the registry's error text, if there is one.
fn text(body: &Body) -> String {
    let answer = serde_json::from_slice::<Value>(body.expose()).unwrap_or_default();
    let pointers = ["/errors/0/message", "/error/message", "/details", "/message"];
    let words = pointers.iter().find_map(|pointer| answer.pointer(pointer)?.as_str());
    words.map_or_else(String::new, |words| format!(" {}", clip(words, 300)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_parsed_in_dockers_and_enroots_notation() {
        let parsed = |text: &str| Image::parse(text).map(|image| (image.host().to_owned(), image.path()));
        for (text, host, path) in [
            ("us-docker.pkg.dev", "us-docker.pkg.dev", ""),
            ("us-docker.pkg.dev/p/r/i:1.2", "us-docker.pkg.dev", "p/r/i/manifests/1.2"),
            ("us-docker.pkg.dev#p/r/i", "us-docker.pkg.dev", "p/r/i/manifests/latest"),
            ("127.0.0.1:5000/team/tiny:1", "127.0.0.1", "team/tiny/manifests/1"),
        ] {
            assert_eq!(parsed(text), Ok((host.to_owned(), path.to_owned())), "{text}");
        }
        for text in ["", "/p", "https://us-docker.pkg.dev", "a b", "us-docker.pkg.dev/p?x", "user@host"] {
            assert!(parsed(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn the_token_goes_only_to_the_registrys_host() {
        let image = Image::parse("us-docker.pkg.dev/p/r/i:1").unwrap();
        let service = |realm: &str| {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:p/r/i:pull\"");
            token_service(&challenge, &image).map(|url| url.as_str().to_owned())
        };
        let expected = "https://us-docker.pkg.dev/v2/token?service=s&scope=repository:p/r/i:pull";
        assert_eq!(service("https://us-docker.pkg.dev/v2/token").as_deref(), Some(expected));
        for realm in
            ["https://evil.example/token", "http://us-docker.pkg.dev/token", "https://us-docker.pkg.dev@evil.example/"]
        {
            assert_eq!(service(realm), None, "{realm}");
        }
    }
}
