//! Checks the subject token file and the token's claims.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::report::Report;
use gcp_wif_core::exchange::credential_configuration::CredentialConfiguration;
use gcp_wif_core::exchange::subject_token::{Claims, SubjectToken};
use gcp_wif_core::job::worker::read_subject_token;
use gcp_wif_core::plan::report::{Stage, audience_hint, expiry_hint};
use gcp_wif_core::policy::config::Delivery;
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::names::clip;
use gcp_wif_core::words::time::UnixSeconds;
use gcp_wif_core::words::time::rfc3339;
use gcp_wif_core::world::clock::{Clock, SystemClock};

const STAGE: Stage = Stage::SubjectToken;
/// The checks that need the token.
const OF_TOKEN: [&str; 4] = ["audience", "expiry", "subject", "mode"];
/// Google's length limit for `google.subject`, in bytes.
const LONGEST_SUBJECT: usize = 127;
/// The remaining life that causes a warning, in seconds. The kubelet replaces a token when a fifth of its lifetime is
/// left, and the lifetime is usually at least an hour.
const SOON: UnixSeconds = 300;

/// Returns whether all users on the node can read the token, as direct delivery intends.
pub(super) fn is_everyones(site: &Site) -> bool {
    let path = &site.configuration.subject_token_file;
    site.config.delivery == Delivery::Direct && exposure(path).is_ok_and(|(_, open)| open)
}

pub(super) fn check(report: &mut Report<'_, '_>, site: Option<&Site>) -> Option<SubjectToken> {
    const NAME: &str = "file";
    let Some(site) = site else {
        report.skip(STAGE, NAME, "needs both configurations");
        skip(report);
        return None;
    };
    let path = &site.configuration.subject_token_file;
    match read_subject_token(&site.configuration, Duration::ZERO) {
        Ok(token) => {
            report.ok(STAGE, NAME, path.display());
            let claims = token.claims();
            audience(report, &site.configuration, claims);
            expiry(report, claims, SystemClock.now());
            subject(report, claims);
            mode(report, path, site.config.delivery);
            Some(token)
        }
        Err(error) => {
            report.failure(
                NAME,
                error,
                "check the projected volume, and credential_source in the credential configuration",
            );
            skip(report);
            None
        }
    }
}

fn skip(report: &mut Report<'_, '_>) {
    for name in OF_TOKEN {
        report.skip(STAGE, name, "needs the subject token");
    }
}

/// Checks the audience. A provider without allowed audiences accepts its own name, with or without `https:`.
fn audience(report: &mut Report<'_, '_>, configuration: &CredentialConfiguration, claims: &Claims) {
    const NAME: &str = "audience";
    let provider = configuration.audience.as_str();
    let fits = |audience: &&String| audience.strip_prefix("https:").unwrap_or(audience) == provider;
    match claims.audiences.iter().find(fits) {
        Some(audience) => report.ok(STAGE, NAME, audience),
        None => report.warn(STAGE, NAME, audience_hint(configuration, claims)),
    }
}

fn expiry(report: &mut Report<'_, '_>, claims: &Claims, now: UnixSeconds) {
    const NAME: &str = "expiry";
    match claims.expiry {
        None => report.warn(STAGE, NAME, "the token has none; check how it is issued"),
        Some(expiry) if expiry <= now => report.fail(STAGE, NAME, expiry_hint(expiry, now)),
        Some(expiry) => {
            let (left, until) = (expiry.saturating_sub(now), rfc3339(expiry));
            if left < SOON {
                report.warn(
                    STAGE,
                    NAME,
                    format_args!("{left} seconds left, until {until}; find out why it is not renewed"),
                );
            } else {
                report.ok(STAGE, NAME, format_args!("{left} seconds left, until {until}"));
            }
        }
    }
}

fn subject(report: &mut Report<'_, '_>, claims: &Claims) {
    const NAME: &str = "subject";
    match &claims.subject {
        None => report.warn(STAGE, NAME, "the token has none; map google.subject from another claim"),
        Some(subject) if subject.len() > LONGEST_SUBJECT => report.warn(
            STAGE,
            NAME,
            format_args!(
                "it has {} bytes, and google.subject can have at most {LONGEST_SUBJECT}; map it from another claim",
                subject.len()
            ),
        ),
        Some(subject) => report.ok(
            STAGE,
            NAME,
            format_args!("{}, if the provider maps google.subject from assertion.sub", clip(subject, 130)),
        ),
    }
}

fn mode(report: &mut Report<'_, '_>, path: &Path, delivery: Delivery) {
    const NAME: &str = "mode";
    let (mode, open) = match exposure(path) {
        Ok(exposure) => exposure,
        Err(error) => return report.warn(STAGE, NAME, format_args!("{}: {error}", path.display())),
    };
    let means = "every job on this node can impersonate every service account that trusts the node, whatever the \
                 rules say";
    match (open, delivery) {
        (true, Delivery::Direct) => {
            report.hint(STAGE, NAME, format_args!("{mode:04o}: {means}; \"direct\" delivery has it so"));
        }
        (true, Delivery::Agent) => {
            report.fail(
                STAGE,
                NAME,
                format_args!("{mode:04o}: {means}; make it readable only by root (defaultMode: 0400)"),
            );
        }
        (false, Delivery::Direct) => report.warn(
            STAGE,
            NAME,
            format_args!(
                "{mode:04o}: jobs have an access token, but cannot read the subject token as Google's client libraries \
                 in them do under \"direct\" delivery; let others read it"
            ),
        ),
        (false, Delivery::Agent) => report.ok(STAGE, NAME, format_args!("{mode:04o}")),
    }
}

/// Returns the mode of the file behind symbolic links, and whether others than root can read it there.
fn exposure(path: &Path) -> std::io::Result<(u32, bool)> {
    let path = fs::canonicalize(path)?;
    let file = fs::metadata(&path)?;
    let mode = file.mode() & 0o7777;
    let group = mode & 0o040 != 0 && file.gid() != 0;
    let owner = file.uid() != 0;
    let others = mode & 0o004 != 0
        && path.ancestors().skip(1).all(|directory| fs::metadata(directory).is_ok_and(|d| d.mode() & 0o001 != 0));
    Ok((mode, owner || group || others))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn readability_is_checked_behind_symbolic_links() {
        let directory = gcp_wif_core::testing::directory();
        let volume = directory.join("..2026");
        fs::create_dir(&volume).unwrap();
        fs::write(volume.join("token"), "").unwrap();
        symlink("..2026", directory.join("..data")).unwrap();
        symlink("..data/token", directory.join("token")).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&directory, 0o755);
        for (folder, file, group, open) in [
            (0o755, 0o644, 0, true),
            (0o755, 0o640, 0, false),
            (0o755, 0o640, 1000, true),
            (0o755, 0o600, 1000, false),
            (0o700, 0o644, 0, false),
        ] {
            set(&volume, folder);
            set(&volume.join("token"), file);
            std::os::unix::fs::chown(volume.join("token"), None, Some(group)).unwrap();
            assert_eq!(exposure(&directory.join("token")).unwrap(), (file, open), "{folder:o} {file:o} {group}");
        }
    }
}
