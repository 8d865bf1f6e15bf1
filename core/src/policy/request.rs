//! What the user asked for, from the options of srun, sbatch and salloc, and the limits of what they take.
//!
//! Only `--gcp-wif-service-account` has a value: the email of a service account, of at most
//! [`ServiceAccountEmail::LONGEST`] bytes. [`Options::request`] refuses every other value, and quotes no more than the
//! beginning of a long one ([`InvalidName`]).
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words::google::ServiceAccountEmail;
use crate::words::names::InvalidName;

/// The options as given at one place: on the command line, or at the job's submission.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// `--gcp-wif`
    pub wanted: bool,
    /// `--no-gcp-wif`
    pub refused: bool,
    /// `--gcp-wif-service-account=EMAIL`, as typed.
    pub service_account: Option<String>,
}

/// What was asked for, after inheritance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Nothing was said: the site decides (`auto`).
    Unstated,
    /// `--no-gcp-wif`: no credentials, whatever the site does.
    Refused,
    /// Credentials, or the step fails.
    Wanted {
        /// The identity asked for; without one the site's default.
        service_account: Option<ServiceAccountEmail>,
    },
}

/// Options that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionError {
    /// Credentials are both asked for and refused.
    Contradict,
    /// The value is not the email of a service account.
    ServiceAccount(InvalidName),
    /// A later component of a heterogeneous job asks for credentials and the first one does not.
    LaterComponent,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contradict => f.write_str("--gcp-wif and --no-gcp-wif contradict each other"),
            Self::ServiceAccount(error) => write!(f, "--gcp-wif-service-account: {error}"),
            Self::LaterComponent => {
                f.write_str("Slurm hands a heterogeneous job the options of its first component only")
            }
        }
    }
}

impl std::error::Error for OptionError {}

impl OptionError {
    /// What the user can do.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Contradict => "give one of them",
            Self::ServiceAccount(_) => "",
            Self::LaterComponent => "give --gcp-wif there",
        }
    }
}

impl Options {
    /// Those of `all` that were not inherited from the job's submission: what this step says itself.
    pub fn own(all: &Self, inherited: &Self) -> Self {
        all.without(inherited)
    }

    /// These options without those.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self {
            wanted: self.wanted && !other.wanted,
            refused: self.refused && !other.refused,
            service_account: self.service_account.clone().filter(|_| self.service_account != other.service_account),
        }
    }

    /// The request that these options make by themselves.
    ///
    /// # Errors
    /// When they contradict each other, or when the value is not the email of a service account.
    pub fn request(&self) -> Result<Request, OptionError> {
        let service_account = match &self.service_account {
            Some(text) => Some(ServiceAccountEmail::parse(text).map_err(OptionError::ServiceAccount)?),
            None => None,
        };
        match (self.refused, self.wanted || service_account.is_some()) {
            (true, true) => Err(OptionError::Contradict),
            (true, false) => Ok(Request::Refused),
            (false, true) => Ok(Request::Wanted { service_account }),
            (false, false) => Ok(Request::Unstated),
        }
    }
}

impl Request {
    /// The request of a step: its own options win over the ones that the job was submitted with.
    /// `--gcp-wif` on a step leaves the job's service account in force.
    ///
    /// What the job was submitted with is in the step's environment (`inherited`), unless the step comes from elsewhere:
    /// from another node, or with an empty environment. Then the prolog knows it (`submitted`).
    ///
    /// # Errors
    /// As [`Options::request`].
    pub fn of_step(all: &Options, inherited: &Options, submitted: Option<&Options>) -> Result<Self, OptionError> {
        let jobs = match (inherited.request()?, submitted.and_then(|options| options.request().ok())) {
            (Self::Unstated, Some(submitted)) => submitted,
            (jobs, _) => jobs,
        };
        Ok(match (Options::own(all, inherited).request()?, jobs) {
            (Self::Unstated, jobs) => jobs,
            (Self::Wanted { service_account: None }, Self::Wanted { service_account }) => {
                Self::Wanted { service_account }
            }
            (own, _) => own,
        })
    }

    /// Whether the step must fail when it cannot be met.
    pub fn is_explicit(&self) -> bool {
        matches!(self, Self::Wanted { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a@p.iam.gserviceaccount.com";
    const B: &str = "b@p.iam.gserviceaccount.com";

    /// `+`: --gcp-wif, `-`: --no-gcp-wif, anything else: a service account.
    fn options(words: &[&str]) -> Options {
        let mut options = Options::default();
        for word in words {
            match *word {
                "+" => options.wanted = true,
                "-" => options.refused = true,
                email => options.service_account = Some(email.to_owned()),
            }
        }
        options
    }

    fn wanted(email: Option<&str>) -> Request {
        Request::Wanted { service_account: email.map(|e| ServiceAccountEmail::parse(e).unwrap()) }
    }

    #[test]
    fn a_steps_own_option_wins() {
        for (job, step, expected) in [
            (&[][..], &[][..], Request::Unstated),
            (&["+"], &[], wanted(None)),
            (&["-"], &[], Request::Refused),
            (&[A], &[], wanted(Some(A))),
            (&["+"], &["-"], Request::Refused),
            (&["-"], &["+"], wanted(None)),
            (&["-"], &[B], wanted(Some(B))),
            (&[A], &["-"], Request::Refused),
            (&[A], &[B], wanted(Some(B))),
            (&[A], &["+"], wanted(Some(A))),
            (&["+"], &[A], wanted(Some(A))),
            (&[], &["+", B], wanted(Some(B))),
        ] {
            let inherited = options(job);
            // Slurm hands a step the union; of two values the step's own.
            let own = options(step);
            let all = Options {
                wanted: inherited.wanted || own.wanted,
                refused: inherited.refused || own.refused,
                service_account: own.service_account.clone().or(inherited.service_account.clone()),
            };
            assert_eq!(Request::of_step(&all, &inherited, None), Ok(expected), "job {job:?} step {step:?}");
        }
    }

    #[test]
    fn contradictions_and_bad_emails_are_refused() {
        assert_eq!(options(&["+", "-"]).request(), Err(OptionError::Contradict));
        assert_eq!(options(&[A, "-"]).request(), Err(OptionError::Contradict));
        for bad in ["", "alice", "a b@p.iam.gserviceaccount.com", "$(id)", "a@p.iam.gserviceaccount.com\n"] {
            assert!(matches!(options(&[bad]).request(), Err(OptionError::ServiceAccount(_))), "{bad:?} was accepted");
        }
    }

    #[test]
    fn a_value_that_is_too_long_is_refused_with_a_short_line() {
        const DOMAIN: &str = "@p.iam.gserviceaccount.com";
        let request = |length: usize| options(&[&format!("{}{DOMAIN}", "a".repeat(length - DOMAIN.len()))]).request();
        assert!(request(ServiceAccountEmail::LONGEST).is_ok());
        for length in [ServiceAccountEmail::LONGEST + 1, 1 << 20] {
            let line = request(length).unwrap_err().to_string();
            assert!(line.starts_with("--gcp-wif-service-account: \"aaaa") && line.len() < 200, "{length}: {line}");
        }
    }
}
