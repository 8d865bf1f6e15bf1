//! Property tests: no job ID, step ID, email, registry, runtime directory or name in a user's enroot configuration
//! leads to an undocumented path, owner or mode.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use gcp_wif_core::plan::enroot::source::{SUBDIRECTORIES, Source};
use gcp_wif_core::plan::enroot::{Mounts, Overlay, credentials};
use gcp_wif_core::policy::config::Config;
use gcp_wif_core::words::google::{RegistryHost, ServiceAccountEmail};
use gcp_wif_core::words::names::{JobId, StepId};
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::world::fs::{NewFile, NewTree, Owner, Place, RuntimeDirectory};
use gcp_wif_fuzz::fixtures::TOKEN;
use proptest::prelude::*;
use tempfile::TempDir;

const USER: Owner = Owner { uid: 61001, gid: 61002 };

/// Generates path components that attack the directory layout.
fn hostile() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        prop::sample::select(vec![
            "..",
            ".",
            "/",
            "../",
            "/etc/cron.d/x",
            "\0",
            "\n",
            " ",
            "$HOME",
            "~",
            "%2f",
            "\u{2215}",
            "-"
        ])
        .prop_map(str::to_owned),
        "[a-z0-9.@-]{0,8}".prop_map(String::from),
        any::<String>(),
    ];
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.concat())
}

/// Generates emails of service accounts, valid and invalid ones.
fn email() -> impl Strategy<Value = String> {
    let domain = prop::sample::select(vec![
        "@p.iam.gserviceaccount.com",
        "@developer.gserviceaccount.com",
        ".gserviceaccount.com",
    ]);
    (hostile(), domain).prop_map(|(name, domain)| format!("{name}{domain}"))
}

/// Opens a runtime directory in a new temporary directory.
fn opened() -> (TempDir, RuntimeDirectory) {
    let directory = TempDir::new().unwrap();
    let runtime = RuntimeDirectory::open(&directory.path().join("run")).unwrap();
    (directory, runtime)
}

/// Returns all files below a directory, with their paths relative to it.
fn below(directory: &Path) -> Vec<(PathBuf, Metadata)> {
    let (mut found, mut next) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(path) = next.pop() {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            if metadata.is_dir() {
                next.push(path.clone());
            }
            found.push((path.strip_prefix(directory).unwrap().to_owned(), metadata));
        }
    }
    found
}

/// Checks that a runtime directory has the layout that `core/src/world/fs/runtime.rs` documents.
fn check_tree(directory: &Path, job: JobId) {
    for (path, metadata) in below(directory) {
        let names: Vec<&str> = path.iter().map(|name| name.to_str().unwrap()).collect();
        let (mode, is_directory, is_link) = (metadata.mode() & 0o7777, metadata.is_dir(), metadata.is_symlink());
        let text = path.display();
        let is_users = match names.as_slice() {
            ["run"] | ["run", "jobs"] => {
                assert!(is_directory && mode == 0o711, "{text}: {mode:o}");
                false
            }
            ["run", "records" | "tokens"] => {
                assert!(is_directory && mode == 0o700, "{text}: {mode:o}");
                false
            }
            ["run", "records", number] => {
                assert!(is_directory && mode == 0o700 && *number == job.to_string(), "{text}: {mode:o}");
                false
            }
            ["run", "records", number, file] => {
                assert!(*number == job.to_string() && (*file == "record" || file.starts_with("step-")), "{text}");
                assert_eq!(mode, 0o600, "{text}");
                false
            }
            ["run", "jobs", number, rest @ ..] => {
                assert_eq!(*number, job.to_string(), "{text}");
                match rest {
                    [] => {}
                    ["access_token" | "credentials.json"] => assert!(!is_directory, "{text}"),
                    [tree] => assert!(is_directory && (tree.starts_with("enroot-") || tree.contains('@')), "{text}"),
                    [account, "access_token" | "credentials.json"] => {
                        assert!(ServiceAccountEmail::parse(account).is_ok(), "{text}");
                    }
                    [tree, ".credentials"] => assert!(tree.starts_with("enroot-") && !is_link, "{text}"),
                    [tree, directory, ..] => {
                        assert!(tree.starts_with("enroot-") && SUBDIRECTORIES.contains(directory), "{text}");
                        assert!(rest.len() <= 3, "{text}");
                    }
                }
                if !is_link {
                    assert_eq!(mode & 0o7007, 0, "{text}: other users have access: {mode:o}");
                }
                rest.last().is_some_and(|name| ["access_token", "credentials.json"].contains(name))
            }
            _ => panic!("{text} is not in the documented layout"),
        };
        let owner = if is_users { USER.uid } else { rustix::process::geteuid().as_raw() };
        assert_eq!(metadata.uid(), owner, "{text}");
        if is_users {
            assert_eq!((mode, metadata.gid()), (0o400, USER.gid), "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn all_files_of_a_job_are_in_its_directory(
        job in any::<u32>(), step in any::<u32>(), email in email(),
        names in prop::collection::vec(hostile(), 3), path in hostile(), users in hostile(),
    ) {
        let (directory, runtime) = opened();
        let job = JobId(job);
        let locked = runtime.lock(job, Duration::ZERO).unwrap();
        locked.write_record("{}").unwrap();
        let account = ServiceAccountEmail::parse(&email).ok();
        let files = ["access_token", "credentials.json"].map(|name| NewFile { name, content: "", is_users: true });
        for below in [None, account] {
            let place = Place { job, below };
            locked.publish(&place, USER, &files).unwrap();
            let is_below = runtime.path_of(&place).starts_with(runtime.path_of_job(job));
            let is_plain = runtime.path_of(&place).components().all(|part| part != Component::ParentDir);
            prop_assert!(is_below && is_plain, "{place:?}");
        }
        // The answer of the child that has become the user. The user can trace the child, so the answer is untrusted.
        let entries = [names.clone(), names.clone(), names];
        let source = Source { path: format!("/{path}"), credentials: Secret::new(users), entries };
        let hosts = [RegistryHost::try_from("gcr.io".to_owned()).unwrap()];
        let mounts = Mounts { jobs: &runtime.path_of_jobs(), subject_token: None };
        let overlay = Overlay::new(&source, &hosts, &Secret::new(TOKEN.to_owned()), mounts, &[]);
        let mut tree = NewTree { directories: &SUBDIRECTORIES, ..NewTree::default() };
        tree.files.push(("", NewFile { name: credentials::FILE, content: overlay.credentials.expose(), is_users: false }));
        for (directory, name, content) in &overlay.files {
            tree.files.push((directory, NewFile { name, content, is_users: false }));
        }
        tree.links.extend(overlay.links.iter().map(|(below, name, to)| (*below, name.as_str(), to.as_str())));
        let step = StepId(step).to_string();
        // This fails if the kernel rejects a name. The layout must be correct nevertheless.
        let published = locked.publish_step(&step, USER, &tree, "{}");
        check_tree(directory.path(), job);
        if published.is_ok() {
            let path = runtime.path_of_step(job, &step);
            prop_assert!(path.starts_with(runtime.path_of_job(job)) && path.is_dir());
        }
        runtime.remove_step(job, &step).unwrap();
        runtime.remove_files(job).unwrap();
        runtime.remove_record(job).unwrap();
        // Only the four directories of the runtime directory must be left.
        prop_assert_eq!(below(directory.path()).len(), 4);
    }

    #[test]
    fn configured_paths_are_plain_and_absolute(text in hostile(), absolute in any::<bool>()) {
        let text = if absolute { format!("/{text}") } else { text };
        for key in ["runtime_dir", "command", "credential_configuration", "ca_certificates"] {
            let mut site = serde_json::json!({"credential_configuration": "/c"});
            site.as_object_mut().unwrap().insert(key.to_owned(), text.clone().into());
            if Config::parse(site.to_string().as_bytes()).is_ok() {
                let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
                prop_assert!(Path::new(&text).is_absolute() && Path::new(&text).components().all(is_plain), "{text:?}");
                prop_assert!(text.bytes().all(|b| b.is_ascii_graphic() && !b"$\"'\\`".contains(&b)), "{text:?}");
            }
        }
    }

    #[test]
    fn registries_are_host_names(text in hostile()) {
        if let Ok(host) = RegistryHost::try_from(text.clone()) {
            prop_assert_eq!(host.as_str(), &text);
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || b".-".contains(&b);
            prop_assert!(text.bytes().all(is_plain) && text.len() <= 253, "{:?}", text);
        }
    }
}
