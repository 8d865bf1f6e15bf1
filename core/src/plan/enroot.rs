//! The step's enroot configuration: the user's own with the job's credentials added.
//!
//! enroot reads `.credentials`, `hooks.d`, `mounts.d` and `environ.d` from one directory, ENROOT_CONFIG_PATH. Each step
//! gets a directory of its own, so that nothing of the user's is hidden: the user's credential lines come first and
//! ours after them, links lead to the user's drop-ins, and our two drop-ins are beside the links.
//!
//! A process that has become the user reads the user's files ([`source`]). The directory belongs to root, like the
//! job's, so that the user cannot fill the runtime directory and root can renew the pull credentials.
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

/// Name of our drop-ins; the endings are enroot's.
const DROP_IN: &str = "50-gcp-wif";
/// The access token, its expiry, and what has a fingerprint of it. enroot takes the values from the environment that a
/// container is started from, so that the drop-in holds no token, and a container started later gets the newer one.
const REFRESHED: [&str; 3] = ["GOOGLE_OAUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN_EXPIRES_AT", "GCP_WIF_VARIABLES"];
/// Nothing in our bind mounts can be changed or run, and they stay in the container.
const MOUNT: &str = "bind,ro,nosuid,nodev,noexec,private";

/// The content of a step's directory, as a value.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlay {
    /// `.credentials`
    pub credentials: Secret,
    /// Files by directory and name. None of them holds a token: `enroot bundle --all` packs them.
    pub files: Vec<(&'static str, String, String)>,
    /// Links by directory, name and target.
    pub links: Vec<(&'static str, String, String)>,
    /// Which registries are not in `.credentials`.
    pub left_out: LeftOut,
}

/// What the containers of a step need to see at the same path as outside.
#[derive(Debug, Clone, Copy)]
pub struct Mounts<'a> {
    /// The directory of all jobs' directories. A job can attach to the container of another one, whose mounts it has
    /// then. Each user can enter the directories of his own jobs only, in a container as outside.
    pub jobs: &'a Path,
    /// The subject token's directory, under direct delivery.
    pub subject_token: Option<&'a Path>,
}

impl Overlay {
    /// Merges the user's own configuration with the job's credentials.
    pub fn new(
        source: &Source,
        hosts: &[RegistryHost],
        token: &Secret,
        mounts: Mounts<'_>,
        changes: &[Change],
    ) -> Self {
        let mut links = Vec::new();
        for (directory, entries) in SUBDIRECTORIES.into_iter().zip(&source.entries) {
            for name in entries {
                links.push((directory, name.clone(), link_target(&source.path, directory, name)));
            }
        }
        let free = |directory: &str, ending: &str| {
            // If the user has a file of that name, ours gets another one.
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

/// The fstab drop-in; paths with blanks or `$`, which enroot would split or expand, are refused by the configuration.
fn fstab(mounts: Mounts<'_>) -> String {
    let line =
        |path: &Path, options: &str| format!("{0} {0} none x-create=dir,{MOUNT}{options} 0 -1\n", path.display());
    let mut text = line(mounts.jobs, "");
    if let Some(path) = mounts.subject_token {
        // A user who cannot enter the directory has no use for the mount.
        text.push_str(&line(path, ",nofail,silent"));
    }
    text
}

/// The environ drop-in, which wins over the image's own ENV.
fn environ(changes: &[Change]) -> String {
    let mut text = String::new();
    for change in changes {
        match change {
            Change::Set(name, _) if REFRESHED.contains(name) => text.push_str(&format!("{name}=${{{name}}}\n")),
            // enroot expands ${...}, and takes a line for each variable.
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
    fn what_is_the_users_stays_in_force() {
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
