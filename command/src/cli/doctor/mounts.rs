//! Finds files that are mounted individually, as with a Kubernetes `subPath`. They keep the content from the start of
//! the pod even if the ConfigMap or projected volume changes.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::report::Report;
use gcp_wif_core::plan::report::Stage;
use gcp_wif_core::world::proc::ProcFs;

const NAME: &str = "mounts";
/// The suffix with which the kernel marks the root of a mount whose file was removed (`fs/proc_namespace.c`,
/// `show_path`).
const DELETED: &str = "//deleted";
const FIX: &str = "restart the pod, and mount the whole directory instead of a subPath";

/// How a file is mounted individually.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    /// Its source has been replaced or removed since.
    Behind,
    /// Its source is in a volume that Kubernetes replaces as a whole.
    OfVolume,
}

pub(super) fn check(report: &mut Report<'_, '_>, proc: &ProcFs, files: &[PathBuf], subject_token: Option<&Path>) {
    const STAGE: Stage = Stage::Configuration;
    let mounts = proc.own_mounts();
    // mountinfo has paths without symbolic links such as /var/run.
    let how = |file: &Path| alone(&mounts, &file.canonicalize().unwrap_or_else(|_| file.to_owned()));
    let told: Vec<_> = files.iter().filter_map(|file| Some((file.display(), how(file)?))).collect();
    if let Some(token) = subject_token.filter(|token| how(token).is_some()) {
        report.warn(
            Stage::SubjectToken,
            NAME,
            format_args!("{} is mounted individually (subPath), so it is never renewed; {FIX}", token.display()),
        );
    } else if let Some((file, _)) = told.iter().find(|(_, how)| *how == Alone::Behind) {
        report.warn(
            STAGE,
            NAME,
            format_args!("{file} is mounted individually (subPath), and its source has been replaced since; {FIX}"),
        );
    } else if let Some((file, _)) = told.first() {
        report.hint(
            STAGE,
            NAME,
            format_args!("{file} is mounted individually (subPath), so it will not follow its source; {FIX}"),
        );
    } else {
        report.ok(STAGE, NAME, "no file is mounted individually");
    }
}

/// Returns whether and how a file is mounted individually. The last mount at a path is the visible one.
fn alone(mounts: &str, file: &Path) -> Option<Alone> {
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (Path::new(&unescaped(place)) == file).then(|| unescaped(root))
    };
    let root = mounts.lines().filter_map(mount).next_back()?;
    if root.ends_with(DELETED) {
        return Some(Alone::Behind);
    }
    // A directory such as ..2026_11_24_17_00_00.123, to which ..data leads.
    let is_volumes =
        |part: &str| part.strip_prefix("..").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    root.split('/').any(is_volumes).then_some(Alone::OfVolume)
}

/// Decodes the octal escapes of blanks and similar characters in mountinfo.
fn unescaped(text: &str) -> String {
    let escapes = [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")];
    escapes.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outdated_mounts_and_mounts_from_volumes_are_distinguished() {
        let mounts = r"30 1 8:1 / / rw - ext4 /dev/sda1 rw
31 30 8:1 /pods/7/volumes/kubernetes.io~configmap/slurm/..2026_11_24/a.json /etc/a.json ro - ext4 x ro
32 30 8:1 /pods/7/..2026_11_24/a\040b.json//deleted /etc/a\040b.json ro - ext4 x ro
33 30 8:1 /etc/c.json /etc/c.json ro - ext4 x ro
";
        for (file, expected) in [
            ("/etc/a.json", Some(Alone::OfVolume)),
            ("/etc/a b.json", Some(Alone::Behind)),
            ("/etc/c.json", None),
            ("/etc/d.json", None),
        ] {
            assert_eq!(alone(mounts, Path::new(file)), expected, "{file}");
        }
    }
}
