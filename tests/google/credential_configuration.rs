//! The credential configuration, byte for byte as
//! `gcloud iam workload-identity-pools create-cred-config` writes it, but for the endpoints.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::Google;
use super::options::SERVICE_ACCOUNT;

/// The flags of create-cred-config.
#[derive(Clone, Debug)]
pub struct Source {
    /// `--credential-source-file`
    pub file: PathBuf,
    /// `--credential-source-type`
    pub format: Format,
    /// `--service-account`; `None` for direct federation.
    pub service_account: Option<String>,
    /// `--service-account-token-lifetime-seconds`
    pub lifetime: Option<u64>,
    /// Endpoints over https.
    pub secure: bool,
}

/// How the source file holds the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// No `format` key: text.
    Unstated,
    Text,
    /// JSON, with the token in this field.
    Json(String),
}

impl Source {
    /// A text file, the default service account, plain http.
    pub fn file(file: impl AsRef<Path>) -> Self {
        Self {
            file: file.as_ref().to_owned(),
            format: Format::Unstated,
            service_account: Some(SERVICE_ACCOUNT.to_owned()),
            lifetime: None,
            secure: false,
        }
    }

    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    pub fn service_account(mut self, email: &str) -> Self {
        self.service_account = Some(email.to_owned());
        self
    }

    /// Without impersonation.
    pub fn direct(mut self) -> Self {
        self.service_account = None;
        self
    }

    pub fn lifetime(mut self, seconds: u64) -> Self {
        self.lifetime = Some(seconds);
        self
    }

    pub fn secure(mut self) -> Self {
        self.secure = true;
        self
    }
}

impl Google {
    /// The configuration as a value, for tests that change it.
    pub fn credential_configuration(&self, source: &Source) -> Value {
        serde_json::from_str(&self.credential_configuration_text(source)).expect("own JSON")
    }

    /// The configuration as gcloud writes it: its keys in its order, two spaces, no last newline.
    pub fn credential_configuration_text(&self, source: &Source) -> String {
        let base = if source.secure { self.https_url() } else { self.http_url() };
        let quote = |text: &str| Value::from(text).to_string();
        let file = quote(&source.file.to_string_lossy());
        let format = match &source.format {
            Format::Unstated => String::new(),
            Format::Text => ",\n    \"format\": {\n      \"type\": \"text\"\n    }".to_owned(),
            Format::Json(field) => format!(
                ",\n    \"format\": {{\n      \"type\": \"json\",\n      \
                 \"subject_token_field_name\": {}\n    }}",
                quote(field)
            ),
        };
        let mut keys = vec![
            ("universe_domain", quote("googleapis.com")),
            ("type", quote("external_account")),
            ("audience", quote(&self.audience())),
            ("subject_token_type", quote("urn:ietf:params:oauth:token-type:jwt")),
            ("token_url", quote(&format!("{base}/v1/token"))),
            ("credential_source", format!("{{\n    \"file\": {file}{format}\n  }}")),
        ];
        match &source.service_account {
            Some(email) => {
                let url = format!("{base}/v1/projects/-/serviceAccounts/{email}:generateAccessToken");
                keys.push(("service_account_impersonation_url", quote(&url)));
                if let Some(seconds) = source.lifetime {
                    let life = format!("{{\n    \"token_lifetime_seconds\": {seconds}\n  }}");
                    keys.push(("service_account_impersonation", life));
                }
            }
            None => keys.push(("token_info_url", quote(&format!("{base}/v1/introspect")))),
        }
        let lines: Vec<String> = keys.into_iter().map(|(key, value)| format!("  \"{key}\": {value}")).collect();
        format!("{{\n{}\n}}", lines.join(",\n"))
    }
}
