//! The instance's own certificate authority, and the certificate of its https port.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::options::Certificate;

/// A root certificate, and the server's certificate.
pub struct Authority {
    certificate: String,
    server: Arc<ServerConfig>,
}

impl Authority {
    pub fn new(kind: Certificate) -> Self {
        let (root, issuer) = root("Embedded Google Test Root");
        let signer = match kind {
            Certificate::UnknownAuthority => self::root("Nobody's Root").1,
            _ => issuer,
        };
        let names: &[&str] = match kind {
            Certificate::WrongName => &["metadata.example.net"],
            _ => &[
                "127.0.0.1",
                "localhost",
                "sts.googleapis.com",
                "iamcredentials.googleapis.com",
                "storage.googleapis.com",
                "www.googleapis.com",
                "bigquery.googleapis.com",
            ],
        };
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut leaf = CertificateParams::new(names).expect("host names");
        leaf.distinguished_name.push(DnType::CommonName, "embedded google");
        if kind == Certificate::Expired {
            leaf.not_before = rcgen::date_time_ymd(2020, 1, 1);
            leaf.not_after = rcgen::date_time_ymd(2020, 2, 1);
        }
        let key = KeyPair::generate().expect("a TLS key");
        let leaf = leaf.signed_by(&key, &signer).expect("a signed certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .expect("a certificate with its key");
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { certificate: root, server: Arc::new(server) }
    }

    /// The root, as PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }
}

fn root(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate().expect("a root key");
    let certificate = params.self_signed(&key).expect("a root certificate").pem();
    (certificate, Issuer::new(params, key))
}
