//! A step's enroot configuration: the user's configuration plus the job's credentials.
//!
//! enroot reads `.credentials`, `hooks.d`, `mounts.d` and `environ.d` from one directory, ENROOT_CONFIG_PATH. Each step
//! gets its own directory, in which the user's configuration stays effective: the user's credential lines come first,
//! symbolic links lead to the user's drop-ins, and the plugin adds two drop-ins.
//!
//! A process that has become the user reads the user's files ([`source`]). The directory belongs to root, like the
//! job's, so that the user cannot fill the runtime directory and root can replace the pull credentials.
#![forbid(unsafe_code)]

pub mod credentials;
pub mod registries;
pub mod source;

use std::path::Path;

use crate::plan::change::Change;
use crate::words::google::RegistryHost;
use crate::words::secret::Secret;
use credentials::LeftOut;
use source::{SUBDIRECTORIES, Source, link_target};

/// The name of the added drop-ins, without enroot's extensions.
const DROP_IN: &str = "50-gcp-wif";
/// The access token, its expiry, and the variable with their fingerprints. The drop-in refers to them by name instead
/// of by value, so it contains no token, and a container that starts later gets the values of its own environment.
const REFRESHED: [&str; 3] = ["GOOGLE_OAUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN_EXPIRES_AT", "GCP_WIF_VARIABLES"];
/// The options of the added bind mounts: read-only, without executable programs, and not propagated out of the
/// container.
const MOUNT: &str = "bind,ro,nosuid,nodev,noexec,private";

/// The content of a step's enroot configuration directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlay {
    /// `.credentials`
    pub credentials: Secret,
    /// Files, as directory, name and content. They must not contain a token, because `enroot bundle --all` packs them.
    pub files: Vec<(&'static str, String, String)>,
    /// Symbolic links, as directory, name and target.
    pub links: Vec<(&'static str, String, String)>,
    /// The registries that `.credentials` leaves out.
    pub left_out: LeftOut,
}

/// The directories that a step's containers need at the same path as outside.
#[derive(Debug, Clone, Copy)]
pub struct Mounts<'a> {
    /// The directory of all jobs' directories: a job that attaches to another job's container has the mounts of that
    /// container. Inside as outside, users can enter only the directories of their own jobs.
    pub jobs: &'a Path,
    /// The directory of the subject token, with direct delivery.
    pub subject_token: Option<&'a Path>,
}

impl Overlay {
    /// Merges the user's configuration with the job's credentials.
    pub fn new(
        source: &Source,
        hosts: &[RegistryHost],
        token: &Secret,
        mounts: Mounts<'_>,
        changes: &[Change],
    ) -> Self {
        let mut links = Vec::new();
        for (directory, entries) in SUBDIRECTORIES.into_iter().zip(&source.entries) {
            // A process of the user's has listed them, which root does not trust with a path.
            for name in entries.iter().filter(|name| is_file_name(name)) {
                links.push((directory, name.clone(), link_target(&source.path, directory, name)));
            }
        }
        let free = |directory: &str, ending: &str| {
            // If the user has a file with this name, use another name.
            let taken = |name: &String| links.iter().any(|(d, n, _)| *d == directory && n == name);
            let names = (0..).map(|n| format!("{DROP_IN}{}{ending}", "-".repeat(n)));
            names.into_iter().find(|name| !taken(name)).unwrap_or_default()
        };
        let files = vec![
            ("mounts.d", free("mounts.d", ".fstab"), fstab(mounts)),
            ("environ.d", free("environ.d", ".env"), environ(changes)),
        ];
        let (credentials, left_out) = credentials::merge(&source.credentials, hosts, token);
        Self { credentials, files, links, left_out }
    }
}

/// Returns whether `name` can be the name of an entry of a directory.
fn is_file_name(name: &str) -> bool {
    !["", ".", ".."].contains(&name) && !name.contains(['/', '\0'])
}

/// Returns the fstab drop-in. The site configuration refuses paths with blanks or `$`, which enroot would split or
/// expand.
fn fstab(mounts: Mounts<'_>) -> String {
    let line =
        |path: &Path, options: &str| format!("{0} {0} none x-create=dir,{MOUNT}{options} 0 -1\n", path.display());
    let mut text = line(mounts.jobs, "");
    if let Some(path) = mounts.subject_token {
        // Without permission to enter the directory, the mount fails silently, because the user could not use it.
        text.push_str(&line(path, ",nofail,silent"));
    }
    text
}

/// Returns the environ drop-in, which overrides the image's ENV.
fn environ(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        match change {
            Change::Set(name, _) if REFRESHED.contains(name) => text.push_str(&format!("{name}=${{{name}}}\n")),
            // enroot expands `${...}` and reads one variable per line, so leave out values that it would change.
            Change::Set(name, value)
                if !value.expose().contains(|c: char| c == '$' || (c.is_control() && c != '\t')) =>
            {
                text.push_str(&format!("{name}={}\n", value.expose()));
            }
            Change::Set(..) | Change::Unset(_) => {}
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        Source {
            path: "/home/alice/.config/enroot".to_owned(),
            credentials: Secret::new("machine nvcr.io login $oauthtoken password abc\n".to_owned()),
            entries: [vec!["10-mine.sh".to_owned()], vec!["50-gcp-wif.fstab".to_owned()], Vec::new()],
        }
    }

    fn overlay() -> Overlay {
        let hosts = [RegistryHost::try_from("eu.gcr.io".to_owned()).unwrap()];
        let mounts =
            Mounts { jobs: Path::new("/run/gcp-wif/jobs"), subject_token: Some(Path::new("/var/run/secrets/tokens")) };
        let changes = [
            Change::Set("GOOGLE_OAUTH_ACCESS_TOKEN", Secret::new("ya29.t".to_owned())),
            Change::Set("GCP_WIF_SERVICE_ACCOUNT", Secret::new("a@p.iam.gserviceaccount.com".to_owned())),
            Change::Set("GOOGLE_CLOUD_PROJECT", Secret::new("${HOME}".to_owned())),
            Change::Set("NO_PROXY", Secret::new("a\rb".to_owned())),
            Change::Unset("GCE_METADATA_HOST"),
        ];
        Overlay::new(&source(), &hosts, &Secret::new("ya29.t".to_owned()), mounts, &changes)
    }

    #[test]
    fn the_users_configuration_stays_effective() {
        let overlay = overlay();
        assert_eq!(
            overlay.links,
            [
                ("hooks.d", "10-mine.sh".to_owned(), "/home/alice/.config/enroot/hooks.d/10-mine.sh".to_owned()),
                (
                    "mounts.d",
                    "50-gcp-wif.fstab".to_owned(),
                    "/home/alice/.config/enroot/mounts.d/50-gcp-wif.fstab".to_owned()
                ),
            ]
        );
        assert!(overlay.credentials.expose().starts_with("machine nvcr.io login $oauthtoken password abc\n"));
    }

    #[test]
    fn no_name_of_the_users_leads_out_of_the_directory() {
        for name in ["../../../etc/cron.d/x", "/etc/x", "..", ".", "", "a/b", "a\0"] {
            let source = Source { entries: [vec![name.to_owned()], Vec::new(), Vec::new()], ..source() };
            let mounts = Mounts { jobs: Path::new("/run/gcp-wif/jobs"), subject_token: None };
            let links = Overlay::new(&source, &[], &Secret::new("t".to_owned()), mounts, &[]).links;
            assert!(links.is_empty(), "{name:?}: {links:?}");
        }
    }

    #[test]
    fn the_drop_ins_are_golden() {
        let files: Vec<_> = overlay().files.into_iter().map(|(d, n, c)| (format!("{d}/{n}"), c)).collect();
        let expected = [
            (
                "mounts.d/50-gcp-wif-.fstab".to_owned(),
                "/run/gcp-wif/jobs /run/gcp-wif/jobs none x-create=dir,bind,ro,nosuid,nodev,noexec,private 0 -1\n\
                 /var/run/secrets/tokens /var/run/secrets/tokens none \
                 x-create=dir,bind,ro,nosuid,nodev,noexec,private,nofail,silent 0 -1\n"
                    .to_owned(),
            ),
            (
                "environ.d/50-gcp-wif.env".to_owned(),
                "GOOGLE_OAUTH_ACCESS_TOKEN=${GOOGLE_OAUTH_ACCESS_TOKEN}\n\
                 GCP_WIF_SERVICE_ACCOUNT=a@p.iam.gserviceaccount.com\n"
                    .to_owned(),
            ),
        ];
        assert_eq!(files, expected);
    }
}
