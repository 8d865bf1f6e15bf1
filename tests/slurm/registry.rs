//! Debian's docker-registry in its roles: one to push to, Artifact Registry and a regional endpoint of it with the embedded
//! Google as their token service, and a company's own with a password.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cluster::wait_until;
use crate::site::Site;

/// The name under which the nodes know Artifact Registry. It is one of the plugin's own list.
pub const HOST: &str = "us-central1-docker.pkg.dev";
/// The same for one of its regional endpoints.
pub const REGIONAL: &str = "docker.us-central1.rep.pkg.dev";
/// The name of the company's registry.
pub const COMPANY: &str = "nvcr.example";
/// The user of the company's registry, in the style of nvcr.io, and his password.
pub const COMPANY_LOGIN: (&str, &str) = ("$oauthtoken", "nvapi-of-alice");
const COMPANY_USERS: &str = "$oauthtoken:$2y$05$wbIGCrsSnMEnAGTV.ja2S.x8BIoCV30.37ONFY3VpZby0v0hS94kO\n";
/// What the image's own ENV says of the credential configuration, and of the access token.
pub const IMAGES_OWN: [&str; 2] = ["/image/own.json", "images-own"];

/// The registries of a site, with an image `team/tiny:1` in them.
pub struct Registries {
    artifact: Server,
    regional: Server,
    company: Server,
    directory: tempfile::TempDir,
}

/// A registry at a loopback address.
pub struct Loopback {
    server: Server,
    _directory: tempfile::TempDir,
}

impl Loopback {
    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.server.port)
    }
}

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registries {
    /// Starts them, pushes the image, and lets the nodes of the site know their names.
    #[track_caller]
    pub fn start(site: &Site) -> Self {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let path = directory.path();
        fs::write(path.join("registry.pem"), site.google.registry_certificate()).unwrap();
        fs::write(path.join("htpasswd"), COMPANY_USERS).unwrap();
        let certificate = path.join("registry.pem").display().to_string();
        let token = |host: &str| {
            let realm = site.google.http_url().replace("127.0.0.1", host);
            format!(
                "auth: {{token: {{realm: \"{realm}/token\", service: {host}, issuer: embedded-google, \
                 rootcertbundle: {certificate}}}}}"
            )
        };
        let password = format!("auth: {{htpasswd: {{realm: company, path: {}}}}}", path.join("htpasswd").display());
        let open = Server::start(path, "open", "");
        push(path, open.port);
        let registries = Self {
            artifact: Server::start(path, "artifact", &token(HOST)),
            regional: Server::start(path, "regional", &token(REGIONAL)),
            company: Server::start(path, "company", &password),
            directory,
        };
        let hosts = format!("127.0.0.1 localhost {HOST} {REGIONAL} {COMPANY}\n");
        fs::write(site.cluster.dir().join("hosts"), hosts).unwrap();
        for node in site.cluster.nodes() {
            let hosts = site.cluster.dir().join("hosts").display().to_string();
            node.command(["mount", "--bind", &hosts, "/etc/hosts"]).run().ok();
        }
        registries
    }

    /// The image in a registry at `127.0.0.1:PORT`, with the embedded Google as its token service.
    #[track_caller]
    pub fn on_loopback(site: &Site) -> Loopback {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let path = directory.path();
        fs::write(path.join("registry.pem"), site.google.registry_certificate()).unwrap();
        let open = Server::start(path, "open", "");
        push(path, open.port);
        let auth = format!(
            "auth: {{token: {{realm: \"{}/token\", service: loopback, issuer: embedded-google, rootcertbundle: {}}}}}",
            site.google.http_url(),
            path.join("registry.pem").display()
        );
        Loopback { server: Server::start(path, "loopback", &auth), _directory: directory }
    }

    /// `HOST:PORT` of Artifact Registry.
    pub fn artifact(&self) -> String {
        format!("{HOST}:{}", self.artifact.port)
    }

    /// `HOST:PORT` of the regional endpoint.
    pub fn regional(&self) -> String {
        format!("{REGIONAL}:{}", self.regional.port)
    }

    /// `HOST:PORT` of the company's registry.
    pub fn company(&self) -> String {
        format!("{COMPANY}:{}", self.company.port)
    }

    /// What the registries logged.
    pub fn logs(&self) -> String {
        let log =
            |name: &str| fs::read_to_string(self.directory.path().join(format!("{name}.log"))).unwrap_or_default();
        log("artifact") + &log("regional") + &log("company")
    }
}

impl Server {
    #[track_caller]
    fn start(directory: &Path, name: &str, auth: &str) -> Self {
        let config = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: x}}\n{auth}\n",
            directory.join("data").display()
        );
        let (path, log) = (directory.join(format!("{name}.yml")), directory.join(format!("{name}.log")));
        fs::write(&path, config).unwrap();
        let out = File::create(&log).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .expect("docker-registry runs: ci/install containers");
        let mut server = Self { child, port: 0 };
        wait_until(Duration::from_secs(60), || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let address = text.split("listening on 127.0.0.1:").nth(1).unwrap_or_default();
            server.port = address.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default().parse().unwrap_or(0);
            server.port != 0
        });
        server
    }
}

#[track_caller]
fn push(directory: &Path, port: u16) {
    let image = directory.join("image");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/registry/image.py");
    let layout = Command::new("python3")
        .arg(script)
        .arg(&image)
        .arg(format!("GOOGLE_APPLICATION_CREDENTIALS={}", IMAGES_OWN[0]))
        .arg(format!("GOOGLE_OAUTH_ACCESS_TOKEN={}", IMAGES_OWN[1]))
        .status();
    assert!(layout.is_ok_and(|status| status.success()), "no image: ci/install containers");
    let copied = Command::new("skopeo")
        .args(["copy", "-q", "--format", "v2s2", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:latest", image.display()))
        .arg(format!("docker://127.0.0.1:{port}/team/tiny:1"))
        .status();
    assert!(copied.is_ok_and(|status| status.success()), "the image is not pushed");
}
