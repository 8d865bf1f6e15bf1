//! Instructions that the hooks execute, counted by valgrind. Unlike times, these counts are repeatable on a busy
//! machine, so a change of the code shows as a percentage. They do not include the kernel's work for a hook.
//!
//! The real plugin runs in a small host (`host.c`) instead of Slurm's processes, because Slurm's own work would hide
//! the plugin's. Each of Slurm's processes that loads the plugin is one run of the host, including its children. The
//! same host's count for an empty plugin is subtracted. The site has direct delivery, because with an agent the hooks
//! would wait for a process that is not counted.
//!
//! `instructions.json` keeps the counts of a known state; `ci/bench --keep instructions` rewrites it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::cluster::plugin_path;
use crate::compiled::{compile, empty_plugin};
use crate::google::{Claims, Google, Options, ProjectedVolume, Source};
use crate::rows::Row;
use crate::samples::{Samples, rounded};

/// How often everything is counted. The smallest count is used, because a process that waits for another one polls.
const ROUNDS: usize = 3;

/// A case: its name, Slurm's processes, and whether the job wants credentials.
const COUNTED: [(&str, &[&str], bool); 5] = [
    ("idle: srun", &["srun"], false),
    ("idle: prolog", &["prolog"], false),
    ("idle: step", &["step"], false),
    ("idle: epilog", &["epilog"], false),
    ("warm issuance: prolog, step and epilog", &["prolog", "step", "epilog"], true),
];

pub fn run() -> Vec<Row> {
    let counts: Vec<BTreeMap<&str, u64>> = (0..ROUNDS).map(|_| count()).collect();
    let kept = kept();
    let row = |(name, _, _): (&'static str, &[&str], bool)| {
        let samples: Samples = counts.iter().map(|counts| counts[name] as f64).collect();
        let (now, before) = (samples.quantile(0.0), kept.get(name).copied());
        let change = before.map(|before| (now / before as f64 - 1.0) * 100.0);
        let text =
            change.map_or_else(|| "not kept yet".to_owned(), |change| format!("{change:+.1} % since it was kept"));
        Row {
            line: "instructions",
            what: format!("instructions, {name}"),
            measured: format!("{:.3} million, {text}", now / 1e6),
            spread: String::new(),
            is_told: false,
            to_reach: "",
            numbers: json!({"least": now, "count": samples.json(), "kept": before, "change_percent": change.map(rounded)}),
        }
    };
    COUNTED.map(row).into()
}

/// Writes the counts.
pub fn keep(rows: &[Row]) {
    let own = rows.iter().filter(|row| row.line == "instructions");
    let pairs: BTreeMap<&str, u64> = own
        .map(|row| {
            let name = row.what.trim_start_matches("instructions, ");
            (name, row.numbers["least"].as_f64().expect("a count") as u64)
        })
        .collect();
    let text = serde_json::to_string_pretty(&pairs).expect("JSON");
    fs::write(kept_path(), text + "\n").expect("the sources are writable");
}

fn kept() -> BTreeMap<String, u64> {
    let text = fs::read(kept_path()).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn kept_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/instructions.json")
}

/// The instructions of all cases.
fn count() -> BTreeMap<&'static str, u64> {
    let google = Google::start(Options::default());
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let volume = ProjectedVolume::new(at("tokens"), &google.subject_token(&Claims::default()));
    let source = google.credential_configuration_text(&Source::file(volume.token()));
    fs::write(at("credential.json"), source).expect("the configuration");
    let config = json!({"credential_configuration": at("credential.json"), "delivery": "direct"});
    fs::write(at("gcp-wif.json"), config.to_string()).expect("the configuration");

    let host = compile("host", &["host.c", "-rdynamic", "-ldl"]);
    let (plugin, empty) = (plugin_path(), empty_plugin());
    // The plugin's own runtime directory, on a file system that ends with the shell. The first job's credentials are
    // not counted.
    let mut script = format!("set -e; mount -t tmpfs tmpfs /run; cd {}; exec 2>told\n", directory.path().display());
    let run = |plugin: &Path, process: &str, job: usize, wants: bool| {
        let wants = if wants { " wants" } else { "" };
        format!(
            "{} {} {}/gcp-wif.json {process} {job}{wants}",
            host.display(),
            plugin.display(),
            directory.path().display()
        )
    };
    for process in ["prolog", "step", "epilog"] {
        script.push_str(&waited_for(&run(&plugin, process, 1, true)));
    }
    for (number, (_, processes, wants)) in COUNTED.iter().enumerate() {
        for process in *processes {
            for (whose, plugin) in [("own", &plugin), ("empty", &empty)] {
                let counted = run(plugin, process, number + 2, *wants);
                let out = format!("--callgrind-out-file={whose}-{number}.%p");
                script.push_str(&waited_for(&format!("valgrind -q --tool=callgrind {out} {counted}")));
            }
        }
    }
    let shell = ["--mount", "--propagation", "private", "bash", "-c", &script];
    let status = Command::new("unshare").args(shell).status().expect("unshare runs");
    let told = fs::read_to_string(at("told")).unwrap_or_default();
    assert!(status.success() && told.contains("outcome=issued") && !told.contains("outcome=failed"), "{told}");
    let total = |whose: &str, number: usize| total(directory.path(), &format!("{whose}-{number}."));
    let names = COUNTED.iter().enumerate();
    names.map(|(number, (name, _, _))| (*name, total("own", number) - total("empty", number))).collect()
}

/// A line that also waits for the processes that a command leaves behind, which keep a pipe open.
fn waited_for(command: &str) -> String {
    format!("{{ {command} 9>&1 >/dev/null; }} | cat\n[ ${{PIPESTATUS[0]}} = 0 ]\n")
}

/// What valgrind has counted in the processes whose files have this prefix.
fn total(directory: &Path, prefix: &str) -> u64 {
    let entries = fs::read_dir(directory).expect("the directory is there").flatten();
    let own = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    let counts = own.filter_map(|entry| {
        let text = fs::read_to_string(entry.path()).ok()?;
        text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<u64>().ok())
    });
    counts.sum()
}
