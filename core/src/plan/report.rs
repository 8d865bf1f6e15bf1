//! Converts errors to the message for a user or administrator: what failed, why, and what to do next.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::exchange::credential_configuration::CredentialConfiguration;
use crate::exchange::refusal::Refusal;
use crate::exchange::subject_token::Claims;
use crate::exchange::{ExchangeError, Leg, Problem, Whose};
use crate::policy::config::ConfigError;
use crate::policy::request::OptionError;
use crate::policy::rules::Denial;
use crate::words::google::Identity;
use crate::words::names::clip;
use crate::words::time::UnixSeconds;
use crate::world::fs::FileError;
use crate::world::http::{ClientError, TransportError};
use crate::world::sys::ChildError;

/// The length limit of a cause, and of an advice, in characters.
const LONGEST: usize = 1200;

const NOT_GOOGLE: &str = "check that it is Google's endpoint and that no proxy responds in its place";

/// The stage at which a failure happened. All messages for users name it, and the troubleshooting documentation is
/// organized by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Stage {
    Option,
    Configuration,
    Rules,
    SubjectToken,
    TokenExchange,
    Impersonation,
    Files,
    Agent,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 8] = [
        Self::Option,
        Self::Configuration,
        Self::Rules,
        Self::SubjectToken,
        Self::TokenExchange,
        Self::Impersonation,
        Self::Files,
        Self::Agent,
    ];

    /// Returns the name as one word, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::SubjectToken => "subject_token",
            Self::TokenExchange => "token_exchange",
            Self::Option => "option",
            Self::Configuration => "configuration",
            Self::Rules => "rules",
            Self::Impersonation => "impersonation",
            Self::Files => "files",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Option => "option",
            Self::Configuration => "configuration",
            Self::Rules => "rules",
            Self::SubjectToken => "subject token",
            Self::TokenExchange => "token exchange",
            Self::Impersonation => "impersonation",
            Self::Files => "files",
            Self::Agent => "agent",
        })
    }
}

/// A failure as it is shown to users. It contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stage.
    pub stage: Stage,
    /// What failed, and why.
    pub cause: String,
    /// What to do next. Empty if the cause says it, or if only the site's administrators can do something.
    pub advice: String,
    /// Who can fix it.
    pub blame: Blame,
}

/// Who can fix a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The user, who has requested something that is not possible.
    User,
    /// The node or its configuration.
    Site,
    /// Google, which does not respond or refuses.
    Google {
        /// Whether the refusal is permanent, so that a retry cannot succeed.
        is_final: bool,
    },
}

impl Failure {
    fn new(stage: Stage, blame: Blame, cause: impl fmt::Display, advice: impl AsRef<str>) -> Self {
        Self { stage, cause: clip(&cause.to_string(), LONGEST), advice: clip(advice.as_ref(), LONGEST), blame }
    }

    /// Returns cause and advice, without the stage and without the hint to tell the administrators.
    pub fn text(&self) -> String {
        if self.advice.is_empty() { self.cause.clone() } else { format!("{}; {}", self.cause, self.advice) }
    }

    /// Returns whether Google refuses permanently.
    pub fn is_refusal(&self) -> bool {
        self.blame == Blame::Google { is_final: true }
    }

    /// An internal error.
    pub fn internal() -> Self {
        Self::new(Stage::Files, Blame::Site, "the node could not serve the request", "see slurmd's log")
    }

    /// The user's enroot configuration cannot be merged.
    pub fn of_enroot(problem: &str) -> Self {
        let advice = "this step's containers get no credentials and use the unchanged configuration; fix it, or set \
                      ENROOT_CONFIG_PATH to another directory";
        Self::new(Stage::Files, Blame::User, problem, advice)
    }

    /// Client libraries would use the user's Application Default Credentials instead of the job's credentials.
    pub fn of_users_credentials(file: &Path) -> Self {
        Self::new(
            Stage::Files,
            Blame::User,
            format_args!(
                "{}: Google's client libraries use this file instead of the job's credentials",
                file.display()
            ),
            "remove it, or run export GOOGLE_APPLICATION_CREDENTIALS=$CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE in the \
             job",
        )
    }

    /// The agent does not start or does not respond.
    pub fn of_agent(problem: &str) -> Self {
        Self::new(Stage::Agent, Blame::Site, problem, "see agent.log in the runtime directory")
    }

    /// Another process's exchange for the same token does not finish in time.
    pub fn of_wait() -> Self {
        let problem = "another process's exchange for the same token did not finish in time";
        Self::new(Stage::TokenExchange, Blame::Google { is_final: false }, problem, "try again")
    }

    /// The job's token has expired, and there is no new one.
    pub fn of_no_token() -> Self {
        let problem = "there is no valid access token, because the refresh failed";
        Self::new(Stage::Agent, Blame::Google { is_final: false }, problem, "the job's status file says why")
    }

    /// A user has too many tokens for other scopes and audiences.
    pub fn of_share(limit: usize) -> Self {
        let problem = format_args!("the node keeps {limit} of your tokens for other scopes and audiences");
        Self::new(Stage::Agent, Blame::User, problem, "request fewer, or wait an hour until some have expired")
    }

    /// The subject token cannot be read.
    pub fn of_subject_token(problem: impl fmt::Display) -> Self {
        Self::new(Stage::SubjectToken, Blame::Site, problem, "the node's projected token is not usable")
    }

    /// plugstack.conf names pyxis before this plugin.
    pub fn of_order() -> Self {
        Self::new(
            Stage::Configuration,
            Blame::Site,
            "plugstack.conf names pyxis before gcp-wif, so a step pulls its image even if it must not run",
            "move gcp-wif's line before pyxis's (10-gcp-wif.conf)",
        )
    }

    /// plugstack.conf passes the plugin an unknown argument.
    pub fn of_argument(argument: &str) -> Self {
        let argument = clip(argument, 100);
        Self::new(
            Stage::Configuration,
            Blame::Site,
            format_args!("plugstack.conf: \"{argument}\" is not an argument (config=/PATH is the only one)"),
            "",
        )
    }

    /// An exchange failed. Adds advice that fits the error.
    pub fn of_exchange(
        error: &ExchangeError,
        configuration: &CredentialConfiguration,
        claims: &Claims,
        identity: &Identity,
        now: UnixSeconds,
    ) -> Self {
        let stage = match error.leg {
            Leg::TokenExchange => Stage::TokenExchange,
            Leg::Impersonation => Stage::Impersonation,
        };
        let hint = match (&error.problem, error.leg) {
            (Problem::Transport(TransportError::Tls(_)), _) => {
                "check ca_certificates, and that no proxy responds in Google's place".to_owned()
            }
            (
                Problem::Transport(TransportError::TooLong)
                | Problem::Malformed(_)
                | Problem::Expired { by: Whose::Googles, .. },
                _,
            ) => NOT_GOOGLE.to_owned(),
            (Problem::Transport(_), _) => "check the node's route to it (proxy, firewall, DNS)".to_owned(),
            (Problem::Expired { by: Whose::Nodes, .. }, _) => "check the node's clock".to_owned(),
            (Problem::Refused(refusal), _) if refusal.is_redirect() => NOT_GOOGLE.to_owned(),
            (Problem::Refused(refusal), _) if refusal.is_of_issuer() => issuer_hint(claims),
            (Problem::Refused(refusal), _) if refusal.is_transient() => {
                "Google is overloaded or unavailable, try again later".to_owned()
            }
            (Problem::Refused(refusal), Leg::TokenExchange) => exchange_hint(refusal, configuration, claims, now),
            (Problem::Refused(refusal), Leg::Impersonation) => {
                impersonation_hint(refusal, configuration, claims, identity)
            }
        };
        let is_final = match &error.problem {
            Problem::Refused(refusal) => (400..500).contains(&refusal.status) && !refusal.is_transient(),
            _ => false,
        };
        Self::new(stage, Blame::Google { is_final }, error, hint)
    }
}

impl std::error::Error for Failure {}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, blame, .. } = self;
        let administrators = match (blame, self.advice.is_empty()) {
            (Blame::Site, true) => "; tell the site's administrators",
            (Blame::Site, false) => ", tell the site's administrators",
            _ => "",
        };
        write!(f, "gcp-wif: {stage}: {}{administrators}", self.text())
    }
}

fn exchange_hint(
    refusal: &Refusal,
    configuration: &CredentialConfiguration,
    claims: &Claims,
    now: UnixSeconds,
) -> String {
    let provider = configuration.audience.as_str();
    if refusal.text.contains("udience") && refusal.code.as_deref() == Some("invalid_grant") {
        return audience_hint(configuration, claims);
    }
    if let Some(expiry) = claims.expiry.filter(|expiry| *expiry <= now) {
        return expiry_hint(expiry, now);
    }
    match refusal.code.as_deref() {
        Some("invalid_target") => format!("check that the provider {provider} exists and is enabled"),
        Some("unauthorized_client") => {
            format!("check the attribute condition of the provider {provider}, and the subject token's claims")
        }
        _ => format!("check issuer, keys and mapping of the provider {provider}"),
    }
}

/// Returns advice for an issuer whose keys Google cannot get.
fn issuer_hint(claims: &Claims) -> String {
    let issuer = claims.issuer.as_deref().map_or_else(|| "ISSUER".to_owned(), |issuer| clip(issuer, 200));
    format!(
        "{}/.well-known/openid-configuration and the keys at its jwks_uri must be reachable from the internet and \
         contain the subject token's key; if keys were uploaded to the provider, upload the current ones",
        issuer.trim_end_matches('/')
    )
}

/// Returns advice for a subject token with another audience.
pub fn audience_hint(configuration: &CredentialConfiguration, claims: &Claims) -> String {
    // A token can have any number of them.
    let audiences = clip(&claims.audiences.join("\", \""), 400);
    format!(
        "the subject token is for \"{audiences}\", the provider expects \"https:{}\" unless it names allowed audiences; \
         project the token with the provider's audience",
        configuration.audience.as_str()
    )
}

/// Returns advice for an expired subject token.
pub fn expiry_hint(expiry: UnixSeconds, now: UnixSeconds) -> String {
    format!(
        "the subject token expired {} seconds ago by this node's clock; find out why it is not renewed",
        now.saturating_sub(expiry)
    )
}

fn impersonation_hint(
    refusal: &Refusal,
    configuration: &CredentialConfiguration,
    claims: &Claims,
    identity: &Identity,
) -> String {
    if refusal.reason.as_deref() == Some("SERVICE_DISABLED") || refusal.text.contains("it is disabled") {
        return "enable iamcredentials.googleapis.com in the service account's project".to_owned();
    }
    match refusal.status {
        400 => "check scopes and token_lifetime_seconds; more than 3600 requires an organization policy".to_owned(),
        401 => "the federated token was not accepted, try again".to_owned(),
        404 => format!("the service account {identity} does not exist: correct its name, or create it"),
        _ => {
            let pool = configuration.audience.as_str().split("/providers/").next().unwrap_or_default();
            let subject = claims.subject.as_deref().map_or_else(|| "SUBJECT".to_owned(), |subject| clip(subject, 130));
            format!(
                "check that {identity} exists and grants roles/iam.workloadIdentityUser to \
                 principal:{pool}/subject/{subject}, if the provider maps google.subject from assertion.sub (a new \
                 binding takes up to 5 minutes to work)"
            )
        }
    }
}

impl From<OptionError> for Failure {
    fn from(error: OptionError) -> Self {
        Self::new(Stage::Option, Blame::User, &error, error.advice())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let advice = match error {
            ConfigError::Absent(_) => "this node is not set up for --gcp-wif",
            _ => "",
        };
        Self::new(Stage::Configuration, Blame::Site, error, advice)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(Stage::Configuration, Blame::Site, error, "")
    }
}

impl From<Denial> for Failure {
    fn from(denial: Denial) -> Self {
        let blame = if denial == Denial::UnknownPlacement { Blame::Site } else { Blame::User };
        Self::new(Stage::Rules, blame, &denial, denial.advice())
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::new(Stage::Files, Blame::Site, error, "the node's runtime directory is not usable")
    }
}

impl From<ChildError> for Failure {
    fn from(error: ChildError) -> Self {
        let (blame, advice) = match error {
            ChildError::Timeout => (Blame::Google { is_final: false }, "try again, and see slurmd's log"),
            ChildError::Start(_) | ChildError::Threads(_) | ChildError::Died(_) => (Blame::Site, "try again"),
        };
        Self::new(Stage::TokenExchange, blame, error, advice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_token_for_many_audiences_makes_no_long_line() {
        let text = testing::credential_configuration(testing::SITE);
        let configuration = CredentialConfiguration::parse(text.as_bytes()).unwrap();
        let claims = Claims { audiences: vec!["a\u{1b}".repeat(50); 100], ..Claims::default() };
        let hint = audience_hint(&configuration, &claims);
        assert!(hint.len() < 800 && !hint.contains(char::is_control), "{} bytes: {hint}", hint.len());
    }
}
