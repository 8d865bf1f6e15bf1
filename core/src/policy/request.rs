//! The user's request: the options of srun, sbatch and salloc, and the limits of their values.
//!
//! Only `--gcp-wif-service-account` has a value: the email of a service account, with at most
//! [`ServiceAccountEmail::LONGEST`] bytes. [`Options::request`] refuses all other values and quotes only the beginning
//! of a long one ([`InvalidName`]).
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words::google::ServiceAccountEmail;
use crate::words::names::InvalidName;

/// The options of one command: of the step, or of the job's submission.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// `--gcp-wif`
    pub wanted: bool,
    /// `--no-gcp-wif`
    pub refused: bool,
    /// `--gcp-wif-service-account=EMAIL`, as typed.
    pub service_account: Option<String>,
}

/// The request of a job or step, after inheritance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// There is no option: the site decides (`auto`).
    Unstated,
    /// `--no-gcp-wif`: no credentials, even if the site injects them automatically.
    Refused,
    /// Credentials, or the step fails.
    Wanted {
        /// The requested identity; `None` for the default identity.
        service_account: Option<ServiceAccountEmail>,
    },
}

/// Why options are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OptionError {
    /// The options both request and refuse credentials.
    Contradict,
    /// The value is not the email of a service account.
    ServiceAccount(InvalidName),
    /// A later component of a heterogeneous job requests credentials, and the first one does not.
    LaterComponent,
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Contradict => f.write_str("--gcp-wif and --no-gcp-wif contradict each other"),
            Self::ServiceAccount(error) => write!(f, "--gcp-wif-service-account: {error}"),
            Self::LaterComponent => {
                f.write_str("Slurm passes a heterogeneous job only the options of its first component")
            }
        }
    }
}

impl std::error::Error for OptionError {}

impl OptionError {
    /// Returns advice for the user.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Contradict => "use only one of them",
            Self::ServiceAccount(_) => "",
            Self::LaterComponent => "give --gcp-wif to that component",
        }
    }
}

impl Options {
    /// Returns those of a step's options that it did not inherit from the job's submission.
    pub fn own(all: &Self, inherited: &Self) -> Self {
        all.without(inherited)
    }

    /// Returns these options without those of `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self {
            wanted: self.wanted && !other.wanted,
            refused: self.refused && !other.refused,
            service_account: self.service_account.clone().filter(|_| self.service_account != other.service_account),
        }
    }

    /// Returns the request that these options make, without inheritance.
    ///
    /// # Errors
    /// When the options contradict each other, or the value is not the email of a service account.
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
    /// Returns the request of a step. Its own options override those of the job's submission, except that `--gcp-wif`
    /// keeps the job's service account.
    ///
    /// The options of the submission are in the step's environment (`inherited`), unless the step was started from
    /// outside the job's environment, for example from another node or with an empty environment. Then they come from
    /// the prolog's record (`submitted`).
    ///
    /// # Errors
    /// The same as for [`Options::request`].
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

    /// Returns whether the step must fail if it gets no credentials.
    pub fn is_explicit(&self) -> bool {
        matches!(self, Self::Wanted { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a@p.iam.gserviceaccount.com";
    const B: &str = "b@p.iam.gserviceaccount.com";

    /// Builds options: `+` is --gcp-wif, `-` is --no-gcp-wif, anything else is a service account.
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
    fn a_steps_option_overrides_the_jobs() {
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
            // Slurm passes a step the union of the options, and of two values the step's.
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
    fn a_value_that_is_too_long_is_refused_with_a_short_message() {
        const DOMAIN: &str = "@p.iam.gserviceaccount.com";
        let request = |length: usize| options(&[&format!("{}{DOMAIN}", "a".repeat(length - DOMAIN.len()))]).request();
        assert!(request(ServiceAccountEmail::LONGEST).is_ok());
        for length in [ServiceAccountEmail::LONGEST + 1, 1 << 20] {
            let line = request(length).unwrap_err().to_string();
            assert!(line.starts_with("--gcp-wif-service-account: \"aaaa") && line.len() < 200, "{length}: {line}");
        }
    }
}
