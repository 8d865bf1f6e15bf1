//! The plugin's file, which every srun loads.

use std::collections::BTreeSet;
use std::fs;

use object::{Object, ObjectSymbol};

use crate::cluster::{command_path, plugin_path};

/// Bytes; the release build has about 2.2 million, most of them TLS.
const LARGEST: usize = 2_500_000;

fn with_plugin(check: impl Fn(&[u8], &object::File<'_>)) {
    let bytes = fs::read(plugin_path()).unwrap();
    check(&bytes, &object::File::parse(&*bytes).unwrap());
}

#[test]
fn it_exports_what_slurm_calls_and_nothing_else() {
    with_plugin(|_, file| {
        let exports: BTreeSet<String> = file
            .dynamic_symbols()
            .filter(ObjectSymbol::is_definition)
            .map(|symbol| symbol.name().unwrap().to_owned())
            .collect();
        let is_slurms = |name: &&String| {
            // The last one is slurm-spank's, for the options.
            ["slurm_spank_", "plugin_", "spank_option_callback"].iter().any(|prefix| name.starts_with(prefix))
        };
        assert_eq!(exports.iter().find(|name| !is_slurms(name)), None);
        for name in ["plugin_name", "plugin_type", "plugin_version", "slurm_spank_init", "slurm_spank_job_epilog"] {
            assert!(exports.contains(name), "{name}");
        }
    });
}

#[test]
fn neither_it_nor_the_command_has_symbols() {
    for path in [plugin_path().as_os_str(), command_path().as_ref()] {
        if !path.to_string_lossy().contains("/release/") {
            crate::skipped::skip("no release build: its symbols");
            continue;
        }
        let bytes = fs::read(path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        assert_eq!(file.symbols().count(), 0, "{}", path.display());
    }
}

#[test]
fn it_carries_no_server_and_no_command_line() {
    if !plugin_path().components().any(|part| part.as_os_str() == "release") {
        return crate::skipped::skip("the plugin is not a release build: its size");
    }
    with_plugin(|bytes, _| {
        assert!(bytes.len() < LARGEST, "{} bytes", bytes.len());
        // The sources' places stay in the file, with the lines where they may panic.
        let names = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
        assert!(names(b"/ureq-"), "the places of sources are not in the file");
        for part in [&b"/tokio-"[..], b"/hyper-", b"/clap", b"/object-"] {
            assert!(!names(part), "{}", String::from_utf8_lossy(part));
        }
    });
}
