//! Sends every kind of request of the exchange to a Google, and reports where the embedded Google answers differently.
//!
//! Both get the same requests. The embedded Google is set up from the credential configuration and from the claims of
//! the subject token, so that both have the same provider, issuer, subject and service account. It cannot know the key
//! of the real issuer: its subject tokens have the same claims and a signature of its own.
//!
//! | module | what |
//! |---|---|
//! | [`paths`] | the requests: each success, and each refusal that harms nobody |
//! | [`side`] | a Google as the requests need it: its endpoints, and tokens for them |
//! | [`answer`] | the comparable parts of an answer |
//! | [`client`] | sends a request, and waits if a quota is used up |

// The example and its test include the module.
#![allow(unreachable_pub, missing_docs)]
#![allow(clippy::indexing_slicing, reason = "JSON gives null for what it does not have")]

pub mod answer;
pub mod client;
pub mod paths;
pub mod side;

use std::io::Write;
use std::path::PathBuf;

use self::answer::Seen;
use self::client::{Client, Reply};
use self::paths::PATHS;
use self::side::Side;

const USAGE: &str = "usage: ci/live [OPTION...] CREDENTIAL_CONFIGURATION";

const HELP: &str = "\
Sends each request of the exchange, right ones and wrong ones, to Google and to the embedded Google of the tests, and
prints a line for each: `same`, or what differs. It creates and changes nothing at Google: each request asks for a token,
at most 25 do so, and no token is printed.

  --subject-token FILE     the subject token, in the form that the configuration states, instead of its own file
  --expired-token FILE     an earlier subject token of the same issuer, which has expired; without one that path is skipped
  --ca-certificates FILE   PEM file of roots instead of the system's
  --proxy URL              HTTP proxy
  --help                   this text

Where an organization policy lets the service account's tokens live for longer than an hour, 3601 seconds differ, unless
the configuration has such a token_lifetime_seconds.

On a compute node, as root:

  ci/live /etc/slurm/credential-configuration.json

Exit status: 0 if all answers are the same, 1 if one differs, 2 for wrong usage.
";

#[derive(Default)]
struct Arguments {
    configuration: PathBuf,
    subject_token: Option<PathBuf>,
    expired_token: Option<PathBuf>,
    ca_certificates: Option<PathBuf>,
    proxy: Option<String>,
    help: bool,
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (mut arguments, mut configuration) = (Arguments::default(), None);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--subject-token" => arguments.subject_token = Some(value()?.into()),
            "--expired-token" => arguments.expired_token = Some(value()?.into()),
            "--ca-certificates" => arguments.ca_certificates = Some(value()?.into()),
            "--proxy" => arguments.proxy = Some(value()?),
            "--help" => arguments.help = true,
            _ if word.starts_with('-') || configuration.is_some() => return Err(USAGE.to_owned()),
            _ => configuration = Some(PathBuf::from(word)),
        }
    }
    match configuration {
        Some(configuration) => arguments.configuration = configuration,
        None if arguments.help => {}
        None => return Err(USAGE.to_owned()),
    }
    Ok(arguments)
}

/// Does what the arguments say. Returns the exit status.
pub fn run(words: impl Iterator<Item = String>, output: &mut dyn Write, errors: &mut dyn Write) -> u8 {
    let walked = arguments(words).and_then(|arguments| {
        if arguments.help {
            write!(output, "{USAGE}\n\n{HELP}").map_err(|error| error.to_string())?;
            return Ok(true);
        }
        walk(&arguments, output)
    });
    match walked {
        Ok(true) => 0,
        Ok(false) => 1,
        Err(problem) => {
            let _ = writeln!(errors, "ci/live: {problem}");
            2
        }
    }
}

/// Sends each request to both. Returns whether all answers are the same.
fn walk(arguments: &Arguments, output: &mut dyn Write) -> Result<bool, String> {
    let mut theirs = Side::of_files(
        &arguments.configuration,
        arguments.subject_token.as_deref(),
        arguments.expired_token.as_deref(),
    )?;
    let client = Client::new(arguments.ca_certificates.as_deref(), arguments.proxy.as_deref())?;
    let (google, mut ours) = theirs.embedded()?;
    let (mut same, mut differs, mut skipped) = (0, 0, 0);
    let mut print = |line: String| writeln!(output, "{line}").map_err(|error| error.to_string());
    print(format!("{} as {}", theirs.provider(), theirs.identity()))?;
    for (path, make) in PATHS {
        let (request, own) = match (make(&theirs), make(&ours)) {
            (Ok(request), Ok(own)) => (request, own),
            (Err(reason), _) | (_, Err(reason)) => {
                skipped += 1;
                print(format!("skipped  {path}: {reason}"))?;
                continue;
            }
        };
        let see = |side: &mut Side, reply: Result<Reply, String>| match reply {
            Ok(reply) => side.learn(&reply),
            Err(problem) => Seen::no_answer(&problem),
        };
        let expected = see(&mut ours, client.send(&own));
        let seen = see(&mut theirs, client.send(&request));
        match expected.differences(&seen) {
            none if none.is_empty() => {
                same += 1;
                print(format!("same     {path}"))?;
            }
            differences => {
                differs += 1;
                print(format!("differs  {path}: {}", differences.join("; ")))?;
            }
        }
    }
    drop(google);
    print(format!("{} paths: {same} same, {differs} differ, {skipped} skipped", PATHS.len()))?;
    Ok(differs == 0)
}
