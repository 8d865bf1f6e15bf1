//! The companion command `gcp-wif`: its arguments, its exit status, and its output.
#![forbid(unsafe_code)]

mod agent;
mod doctor;
mod env;
mod explain;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod plugstack;
mod running;
mod slurmconf;
mod slurmd;
mod status;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::Style;
use clap::{Parser, Subcommand};
use serde_json::Value;

use gcp_wif_core::policy::config::DEFAULT_PATH;
use gcp_wif_core::words::json::to_line;
use plugstack::Plugstack;

/// Google Cloud credentials for Slurm jobs: the companion command of the plugin spank_gcp_wif.so
#[derive(Parser)]
#[command(name = "gcp-wif", version, after_help = "Exit status: 0, 1 (a check failed, denied) or 2 (usage).")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON object, for programs
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    Doctor(doctor::Arguments),
    Explain(explain::Arguments),
    Env(env::Arguments),
    Status(status::Arguments),
    Agent(agent::Arguments),
}

/// The result of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Success,
    /// A check failed, or a request was denied.
    Failure,
    /// The arguments are invalid, or the command cannot run with them.
    Usage,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Success => 0,
            Status::Failure => 1,
            Status::Usage => 2,
        })
    }
}

/// The output of a command. Write errors are ignored, because a reader such as `head` may close the pipe early.
struct Screen<'a> {
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
    /// Whether the output may have colors.
    colours: bool,
}

impl Screen<'_> {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }

    /// Returns the text in a style, if the output may have colors.
    fn styled(&self, style: Style, text: &str) -> String {
        if self.colours { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn json(&mut self, object: &Value) {
        self.line(&to_line(object));
    }

    fn complain(&mut self, line: &str) {
        let _ = writeln!(self.err, "{line}");
    }
}

/// Runs the command that the arguments name.
pub(crate) fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let colours = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    run(arguments, &mut Screen { out: &mut io::stdout(), err: &mut io::stderr(), colours }).into()
}

fn run(arguments: impl IntoIterator<Item = OsString>, screen: &mut Screen<'_>) -> Status {
    match Arguments::try_parse_from(arguments) {
        Ok(Arguments { command, json }) => match command {
            Command::Doctor(arguments) => doctor::run(arguments, json, screen),
            Command::Explain(arguments) => explain::run(&arguments, json, screen),
            Command::Env(arguments) => env::run(arguments, json, screen),
            Command::Status(arguments) => status::run(arguments, json, screen),
            Command::Agent(arguments) => agent::run(&arguments, screen),
        },
        // clap reports help and version as errors too.
        Err(error) if error.use_stderr() => {
            screen.complain(error.to_string().trim_end());
            Status::Usage
        }
        Err(text) => {
            screen.line(text.to_string().trim_end());
            Status::Success
        }
    }
}

/// Returns the path of the site configuration: `--config`, or else the argument in plugstack.conf, or else the default.
fn config_path(asked: Option<PathBuf>, plugstack: Option<&Plugstack>) -> PathBuf {
    asked.or_else(|| plugstack?.config_path()).unwrap_or_else(|| DEFAULT_PATH.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the command and returns status, stdout and stderr.
    fn command(words: &[&str]) -> (Status, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut screen = Screen { out: &mut out, err: &mut err, colours: false };
        let status = run(words.iter().map(|word| OsString::from(*word)), &mut screen);
        (status, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_help_of_each_command_names_its_options() {
        for (words, expected) in [
            (&["gcp-wif", "--help"][..], "Usage: gcp-wif"),
            (&["gcp-wif", "--help"], "Exit status: 0, 1 (a check failed, denied) or 2 (usage)."),
            (&["gcp-wif", "doctor", "--help"], "--service-account <EMAIL>"),
            (&["gcp-wif", "explain", "--help"], "--partition <PARTITION>"),
            (&["gcp-wif", "env", "--help"], "eval \"$(gcp-wif env)\""),
            (&["gcp-wif", "explain", "--help"], "--json"),
            (&["gcp-wif", "status", "--help"], "Prints no token"),
            (&["gcp-wif", "doctor", "--help"], "for Slurm's HealthCheckProgram"),
            (&["gcp-wif", "--version"], concat!("gcp-wif ", env!("CARGO_PKG_VERSION"))),
        ] {
            let (status, out, err) = command(words);
            assert_eq!((status, err.as_str()), (Status::Success, ""), "{words:?}");
            assert!(out.contains(expected), "{words:?}: {out}");
        }
    }

    #[test]
    fn usage_errors_end_with_status_2() {
        for (words, expected) in [
            (&["gcp-wif"][..], "Usage: gcp-wif"),
            (&["gcp-wif", "dcotor"], "unrecognized subcommand 'dcotor'"),
            (&["gcp-wif", "doctor", "x"], "unexpected argument 'x'"),
            (&["gcp-wif", "doctor", "--offline", "--service-account", "a@p.iam.gserviceaccount.com"], "cannot be used"),
            (&["gcp-wif", "explain"], "--user <USER>"),
            (&["gcp-wif", "doctor", "--service-account", "alice"], "is not a service account's email"),
        ] {
            let (status, out, err) = command(words);
            assert_eq!((status, out.as_str()), (Status::Usage, ""), "{words:?}");
            assert!(err.contains(expected), "{words:?}: {err}");
        }
    }

    #[test]
    fn a_closed_pipe_is_not_an_error() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut screen = Screen { out: &mut Closed, err: &mut Closed, colours: false };
        assert_eq!(run(["gcp-wif", "--help"].map(OsString::from), &mut screen), Status::Success);
    }
}
