//! Checks plugstack.conf, Slurm's release, the plugins that slurmd has loaded, and enroot's configuration.
#![forbid(unsafe_code)]

use std::path::Path;

use object::{Object, ObjectSection, ObjectSymbol};

use super::holes::{self, Release};
use super::report::Report;
use crate::cli::plugstack::{OURS, Plugstack};
use crate::cli::running::told;
use crate::cli::slurmd::{Loaded, Slurmd};
use gcp_wif_core::plan::enroot::source::{assignments, is_expandable, system_files};
use gcp_wif_core::plan::report::{Failure, Stage};
use gcp_wif_core::words::names::clip;
use gcp_wif_core::world::fs::{FileError, read_limited, read_system};

const ENROOT_CONF: &str = "/etc/enroot/enroot.conf";
/// The size limit of a plugin file, in bytes. A plugin without optimization has some megabytes.
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
                format_args!("{} does not exist, but {} names it; install it", path.display(), ours.file.display()),
            ),
            None => report.ok(Stage::Configuration, NAME, ours.file.display()),
        },
    }
}

/// Checks that the plugin is built for this Slurm release. Slurm loads it only if major and minor match.
pub(super) fn release(
    report: &mut Report<'_, '_>,
    plugstack: Option<&Plugstack>,
    slurmd: Option<&Slurmd>,
    offline: bool,
) {
    const NAME: &str = "Slurm's release";
    const HOLES: &str = "known holes";
    const STAGE: Stage = Stage::Configuration;
    let Some((running, text)) = running_release(slurmd, offline) else {
        report.skip(STAGE, NAME, "neither slurmd -V nor scontrol --version prints it");
        return report.skip(STAGE, HOLES, "needs Slurm's release");
    };
    let (major, minor, _) = running;
    let Some(file) = plugstack.and_then(Plugstack::plugin_file) else {
        report.skip(STAGE, NAME, "the plugin's file is not found");
        return holes(report, HOLES, running);
    };
    match read_limited(&file, LONGEST).ok().and_then(|bytes| release_of_plugin(&bytes)) {
        None => {
            report.fail(STAGE, NAME, format_args!("{} is not a SPANK plugin; install it again", file.display()));
        }
        Some(built_for) if built_for == (major, minor) => report.ok(STAGE, NAME, text.trim()),
        Some((other_major, other_minor)) => report.fail(
            STAGE,
            NAME,
            format_args!(
                "this node has {major}.{minor:02}, {} is built for {other_major}.{other_minor:02}; build it against the \
                 headers of {major}.{minor:02}",
                file.display()
            ),
        ),
    }
    holes(report, HOLES, running);
}

fn holes(report: &mut Report<'_, '_>, name: &'static str, running: Release) {
    match holes::of(running) {
        None => report.ok(Stage::Configuration, name, "none"),
        // Distributions backport fixes without changing the version.
        Some(open) => {
            report.hint(Stage::Configuration, name, format_args!("{open}, unless the packager has fixed it"));
        }
    }
}

/// Returns the release of the running slurmd, or else of a program on the PATH. scontrol comes last, because in a
/// configless setup it fetches the configuration over the network.
fn running_release(slurmd: Option<&Slurmd>, offline: bool) -> Option<(Release, String)> {
    let of = |program: &Path, option| {
        let text = told(program, option)?;
        Some((parse_release(&text)?, text))
    };
    slurmd
        .and_then(|slurmd| of(&slurmd.program(), "-V"))
        .or_else(|| of(Path::new("slurmd"), "-V"))
        .or_else(|| if offline { None } else { of(Path::new("scontrol"), "--version") })
}

/// Checks that slurmd has loaded the plugin. It reads plugstack.conf at its start, and for some hooks never again.
pub(super) fn loaded(report: &mut Report<'_, '_>, plugstack: Option<&Plugstack>, slurmd: Option<&Slurmd>) {
    const NAME: &str = "slurmd";
    const VERSION: &str = "plugin's version";
    const STAGE: Stage = Stage::Configuration;
    let Some(slurmd) = slurmd else {
        report.skip(STAGE, NAME, "none runs here");
        return version(report, VERSION, plugstack);
    };
    match (plugstack.and_then(Plugstack::ours), slurmd.has_loaded(OURS), slurmd.pid) {
        (None, _, _) => report.skip(STAGE, NAME, "needs plugstack.conf"),
        (Some(_), Loaded::Yes, pid) => report.ok(STAGE, NAME, format_args!("process {pid} has loaded the plugin")),
        (Some(ours), Loaded::No, _) => report.fail(
            STAGE,
            NAME,
            format_args!(
                "it has not loaded the plugin that {} names, so jobs run without credentials; restart slurmd, and see \
                 its log if this does not help",
                ours.file.display()
            ),
        ),
        (Some(_), Loaded::Replaced, _) => {
            report.warn(STAGE, NAME, "it has loaded the plugin from before its file was replaced; restart slurmd")
        }
        (Some(_), Loaded::Unknown, pid) => {
            report.skip(STAGE, NAME, format_args!("/proc/{pid}/maps cannot be read"));
        }
    }
    version(report, VERSION, plugstack);
}

/// Checks that plugin and command have the same version, because they share records.
fn version(report: &mut Report<'_, '_>, name: &'static str, plugstack: Option<&Plugstack>) {
    const OWN: &str = env!("CARGO_PKG_VERSION");
    const STAGE: Stage = Stage::Configuration;
    let Some(file) = plugstack.and_then(Plugstack::plugin_file) else {
        return report.skip(STAGE, name, "the plugin's file is not found");
    };
    match read_limited(&file, LONGEST).ok().as_deref().and_then(version_of_plugin) {
        Some(version) if version == OWN => report.ok(STAGE, name, version),
        version => report.warn(
            STAGE,
            name,
            format_args!(
                "{} is gcp-wif {}, this command is {OWN}; install the same release of both and restart slurmd",
                file.display(),
                clip(version.as_deref().unwrap_or("of an unknown version"), 40)
            ),
        ),
    }
}

/// Returns major and minor of `plugin_version`, which Slurm reads from the plugin (`slurm/spank.h`, `SPANK_PLUGIN`). It
/// is `SLURM_VERSION_NUMBER`, with one byte for each part.
fn release_of_plugin(bytes: &[u8]) -> Option<(u32, u32)> {
    let number = u32::from_ne_bytes(data_of(bytes, "plugin_version")?.get(..4)?.try_into().ok()?);
    Some((number >> 16 & 0xff, number >> 8 & 0xff))
}

/// Returns the plugin's version, which is a text with a terminating zero byte.
fn version_of_plugin(bytes: &[u8]) -> Option<String> {
    let text = data_of(bytes, "plugin_gcp_wif_version")?.split(|byte| *byte == 0).next()?;
    String::from_utf8(text.to_vec()).ok()
}

/// Returns the data of a symbol of the plugin.
fn data_of<'a>(bytes: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let plugin = object::File::parse(bytes).ok()?;
    let symbol = plugin.dynamic_symbols().find(|symbol| symbol.name() == Ok(name))?;
    let section = plugin.section_by_index(symbol.section_index()?).ok()?;
    section.data_range(symbol.address(), symbol.size()).ok()?
}

/// Parses text such as `slurm-wlm 22.05.8` or `slurm 24.11.5`.
fn parse_release(text: &str) -> Option<Release> {
    let mut numbers = text.split_whitespace().nth(1)?.split(['.', '-']);
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?, next().unwrap_or(0)))
}

/// Checks whether the site sets ENROOT_CONFIG_PATH, and whether its value can be merged.
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
        report.ok(Stage::Files, NAME, format_args!("{text}, which is merged like a user's configuration"));
    } else {
        report.warn(
            Stage::Files,
            NAME,
            format_args!(
                "{text}, which only a shell can expand, so containers get no credentials; \
                 write it with ~, $VARIABLE or ${{VARIABLE:-default}}"
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_texts_are_parsed() {
        for (text, release) in [
            ("slurm-wlm 22.05.8\n", Some((22, 5, 8))),
            ("slurm 24.11.5\n", Some((24, 11, 5))),
            ("slurm 25.05.0-0rc1", Some((25, 5, 0))),
            ("slurm 26.11-pre1", Some((26, 11, 0))),
            ("slurm", None),
            ("", None),
        ] {
            assert_eq!(parse_release(text), release, "{text}");
        }
    }
}
