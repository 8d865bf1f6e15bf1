//! Writes the manual pages and shell completions of the companion command, for ci/package.
//!
//! ```text
//! pages DIRECTORY DATE
//! ```
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "only the command's arguments are used here")]

mod agent;
mod cli;

use std::fs::File;
use std::io::{Error, Result};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::aot::{Bash, Fish, Zsh, generate_to};
use clap_mangen::Man;

const NAME: &str = "gcp-wif";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, directory, date] = &arguments[..] else { return Err(Error::other("usage: pages DIRECTORY DATE")) };
    let directory = Path::new(directory);
    let mut command = cli::Arguments::command();
    generate_to(Bash, &mut command, NAME, directory)?;
    generate_to(Fish, &mut command, NAME, directory)?;
    generate_to(Zsh, &mut command, NAME, directory)?;
    let version = command.get_version().unwrap_or_default().to_owned();
    let source = format!("{NAME} {version}");
    let write = |command: Command, name: &str| {
        let page = Man::new(command).title(name.to_uppercase()).section("8").date(date).source(&source);
        page.manual("Slurm and Google Cloud").render(&mut File::create(directory.join(format!("{name}.8")))?)
    };
    command.build();
    for part in command.get_subcommands().filter(|part| part.get_name() != "help") {
        // clap requires names with a static lifetime.
        let (name, usage): (&str, &str) =
            (format!("{NAME}-{}", part.get_name()).leak(), format!("{NAME} {}", part.get_name()).leak());
        write(part.clone().name(name).bin_name(usage), name)?;
    }
    write(command.disable_help_subcommand(true), NAME)
}
