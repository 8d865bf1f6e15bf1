//! What else on the node must fit: Slurm's plugstack.conf and release, enroot's configuration.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use super::Report;
use crate::cli::plugstack::Plugstack;
use crate::enroot::source::{assignment, system_files};
use crate::fs::FileError;
use crate::names::clip;
use crate::report::{Failure, Stage};

const ENROOT_CONF: &str = "/etc/enroot/enroot.conf";

#[allow(missing_docs, unreachable_pub)]
mod release {
    include!(concat!(env!("OUT_DIR"), "/slurm_version.rs"));
}

pub(super) fn plugins(report: &mut Report<'_, '_>, plugstack: Result<Plugstack, FileError>) {
    const NAME: &str = "plugstack.conf";
    const LINE: &str = "add the line: optional spank_gcp_wif.so";
    let plugstack = match plugstack {
        Ok(plugstack) => plugstack,
        Err(error) => return report.fail(Stage::Configuration, NAME, format_args!("{error}; {LINE}")),
    };
    match plugstack.ours() {
        None => report.fail(Stage::Configuration, NAME, format_args!("it does not name spank_gcp_wif.so; {LINE}")),
        Some(_) if plugstack.pyxis_is_earlier() => report.failure(NAME, Failure::of_order(), ""),
        Some(ours) => match plugstack.missing_file() {
            Some(path) => report.fail(
                Stage::Configuration,
                NAME,
                format_args!("{} is not there, though {} names it; install it", path.display(), ours.file.display()),
            ),
            None => report.ok(Stage::Configuration, NAME, ours.file.display()),
        },
    }
}

/// Slurm loads a plugin only if major and minor release are its own.
pub(super) fn release(report: &mut Report<'_, '_>) {
    const NAME: &str = "Slurm's release";
    let number = release::SLURM_VERSION_NUMBER;
    let built = (number >> 16 & 0xff, number >> 8 & 0xff);
    // scontrol reads slurm.conf first; slurmd, which is not on every PATH, tells without.
    let Some(text) = output_of("scontrol", "--version").or_else(|| output_of("slurmd", "-V")) else {
        return report.skip(Stage::Configuration, NAME, "neither scontrol --version nor slurmd -V tells it");
    };
    match parse_release(&text) {
        Some(running) if running == built => report.ok(Stage::Configuration, NAME, text.trim()),
        Some((major, minor)) => report.fail(
            Stage::Configuration,
            NAME,
            format_args!(
                "this node has {major}.{minor:02}, the plugin is built for {}.{:02}; build it against the headers of {major}.{minor:02}",
                built.0, built.1
            ),
        ),
        None => report.skip(Stage::Configuration, NAME, format_args!("not understood: {}", clip(text.trim(), 60))),
    }
}

fn output_of(command: &str, option: &str) -> Option<String> {
    let output = Command::new(command).arg(option).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `slurm-wlm 22.05.8`, `slurm 24.11.5`
fn parse_release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(1)?.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// For information: users may not expect that the site moves their configuration.
pub(super) fn enroot(report: &mut Report<'_, '_>) {
    const NAME: &str = "enroot.conf";
    if !Path::new(ENROOT_CONF).exists() {
        return report.skip(Stage::Files, NAME, "enroot is not configured here");
    }
    let texts = system_files(Path::new(ENROOT_CONF)).into_iter();
    let set = texts.filter_map(|file| {
        let text = std::fs::read_to_string(&file).ok()?;
        assignment(&text).map(|value| format!("{} sets ENROOT_CONFIG_PATH to {}", file.display(), clip(value, 200)))
    });
    match set.into_iter().next() {
        Some(text) => report.ok(Stage::Files, NAME, format_args!("{text}, which is merged like a user's own")),
        None => report.ok(Stage::Files, NAME, "it leaves ENROOT_CONFIG_PATH to the users"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        for (text, release) in [
            ("slurm-wlm 22.05.8\n", Some((22, 5))),
            ("slurm 24.11.5\n", Some((24, 11))),
            ("slurm 25.05.0-0rc1", Some((25, 5))),
            ("slurm 26.11-pre1", Some((26, 11))),
            ("slurm", None),
            ("", None),
        ] {
            assert_eq!(parse_release(text), release, "{text}");
        }
    }
}
