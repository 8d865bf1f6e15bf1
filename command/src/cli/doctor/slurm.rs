//! What else on the node must fit: Slurm's plugstack.conf and release, enroot's configuration.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use object::{Object, ObjectSection, ObjectSymbol};

use super::Report;
use crate::cli::plugstack::Plugstack;
use gcp_wif_core::plan::enroot::source::{assignments, is_expandable, system_files};
use gcp_wif_core::plan::report::{Failure, Stage};
use gcp_wif_core::words::names::clip;
use gcp_wif_core::world::fs::{FileError, read_limited, read_system};

const ENROOT_CONF: &str = "/etc/enroot/enroot.conf";
/// A plugin has some megabytes, even where it is not optimized.
const LONGEST: u64 = 256 << 20;

pub(super) fn plugins(report: &mut Report<'_, '_>, plugstack: Result<&Plugstack, &FileError>) {
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
pub(super) fn release(report: &mut Report<'_, '_>, plugstack: Option<&Plugstack>) {
    const NAME: &str = "Slurm's release";
    let Some(file) = plugstack.and_then(Plugstack::plugin_file) else {
        return report.skip(Stage::Configuration, NAME, "the plugin's file is not found");
    };
    let Some((major, minor)) = read_limited(&file, LONGEST).ok().and_then(|bytes| release_of_plugin(&bytes)) else {
        let file = file.display();
        return report.fail(Stage::Configuration, NAME, format_args!("{file} is no SPANK plugin; install it again"));
    };
    // scontrol reads slurm.conf first; slurmd, which is not on every PATH, tells without.
    let Some(text) = output_of("scontrol", "--version").or_else(|| output_of("slurmd", "-V")) else {
        return report.skip(Stage::Configuration, NAME, "neither scontrol --version nor slurmd -V tells it");
    };
    match parse_release(&text) {
        Some(running) if running == (major, minor) => report.ok(Stage::Configuration, NAME, text.trim()),
        Some(running) => {
            let node = format!("{}.{:02}", running.0, running.1);
            let file = file.display();
            report.fail(
                Stage::Configuration,
                NAME,
                format_args!(
                    "this node has {node}, {file} is built for {major}.{minor:02}; build it against the headers of {node}"
                ),
            );
        }
        None => report.skip(Stage::Configuration, NAME, format_args!("not understood: {}", clip(text.trim(), 60))),
    }
}

/// Major and minor of `plugin_version`, which Slurm reads from the plugin (`slurm/spank.h`, `SPANK_PLUGIN`):
/// `SLURM_VERSION_NUMBER`, a byte for each.
fn release_of_plugin(bytes: &[u8]) -> Option<(u32, u32)> {
    let plugin = object::File::parse(bytes).ok()?;
    let symbol = plugin.dynamic_symbols().find(|symbol| symbol.name() == Ok("plugin_version"))?;
    let section = plugin.section_by_index(symbol.section_index()?).ok()?;
    let number = section.data_range(symbol.address(), 4).ok()??;
    let number = u32::from_ne_bytes(number.try_into().ok()?);
    Some((number >> 16 & 0xff, number >> 8 & 0xff))
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
    let set = system_files(Path::new(ENROOT_CONF)).into_iter().find_map(|file| {
        let text = read_system(&file)?;
        Some((file, assignments(&text).next()?.to_owned()))
    });
    let Some((file, value)) = set else {
        return report.ok(Stage::Files, NAME, "it leaves ENROOT_CONFIG_PATH to the users");
    };
    let text = format!("{} sets ENROOT_CONFIG_PATH to {}", file.display(), clip(&value, 200));
    if is_expandable(&value) {
        report.ok(Stage::Files, NAME, format_args!("{text}, which is merged like a user's own"));
    } else {
        report.warn(
            Stage::Files,
            NAME,
            format_args!(
                "{text}, which only a shell can expand, so that containers get no credentials; \
                 write it with ~, $VARIABLE or ${{VARIABLE:-default}}"
            ),
        );
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
