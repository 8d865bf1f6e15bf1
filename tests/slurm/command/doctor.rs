//! Each check of the doctor, on a good node and on a bad one.

mod planted;

use std::fs;

use object::{Object, ObjectSection, ObjectSymbol};
use serde_json::{Value, json};

use crate::cluster::{Run, command_path, plugin_path, set_mode, set_owner};
use crate::failures::{edit_credential, reset, with_key};
use crate::golden::Golden;
use crate::google::{Body, Claims, Endpoint, Fault, Times};
use crate::site::{OTHER_ACCOUNT, Site, credential_path};

/// The checks, in this order.
const CHECKS: [&str; 29] = [
    "site configuration",
    "credential configuration",
    "project",
    "certificates",
    "mounts",
    "plugstack.conf",
    "Slurm's release",
    "known holes",
    "slurmd",
    "plugin's version",
    "PrologFlags",
    "time limits",
    "stored environments",
    "HealthCheckProgram",
    "rules",
    "file",
    "audience",
    "expiry",
    "subject",
    "mode",
    "clock",
    "exchange",
    "access token",
    "runtime directory",
    "free space",
    "tmpfs",
    "enroot.conf",
    "command",
    "running agent",
];

struct Case {
    name: &'static str,
    sabotage: Box<dyn Fn(&Site)>,
    /// An option with its value.
    options: Vec<&'static str>,
    /// A variable, and a directory for this case below the cluster's.
    variable: Option<(&'static str, &'static str)>,
    status: i32,
}

fn case(name: &'static str, sabotage: impl Fn(&Site) + 'static) -> Case {
    Case { name, sabotage: Box::new(sabotage), options: Vec::new(), variable: None, status: 1 }
}

impl Case {
    /// Whether jobs still get their credentials.
    fn warns(self) -> Self {
        Self { status: 0, ..self }
    }

    fn with(self, options: &[&'static str]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    fn variable(self, name: &'static str, path: &'static str) -> Self {
        Self { variable: Some((name, path)), ..self }
    }
}

pub fn good(site: &Site) {
    reset(site, json!({"delivery": "direct", "project": "demo-project"}));
    let _ = fs::remove_file(site.cluster.node(1).run_dir().join("filler"));
    let _ = fs::remove_dir_all(site.cluster.node(1).run_dir().join("gcp-wif"));
}

pub fn doctor(site: &Site, options: &[&str]) -> Run {
    site.cluster.node(1).command([command_path(), "doctor"].iter().chain(options).copied()).run()
}

/// The lines that are neither ok nor hint, without those about this machine's enroot.
pub fn complaints(run: &Run) -> Vec<&str> {
    let verdicts = ["warning ", "failed ", "skipped "];
    let told = run.stdout.lines().filter(|line| verdicts.iter().any(|verdict| line.starts_with(verdict)));
    told.filter(|line| !line.contains(" enroot.conf ")).collect()
}

#[test]
fn a_good_node_passes_each_check() {
    let site = Site::start();
    good(&site);
    let run = doctor(&site, &[]).ok();
    // The stages in the order of the README, and each check once.
    let names: Vec<&str> = run.stdout.lines().filter_map(|line| Some(line.get(25..51)?.trim())).collect();
    assert_eq!(names, CHECKS, "{}", run.stdout);
    assert_eq!(run.stderr, "");
    assert_eq!(complaints(&run), [""; 0]);
    assert!(run.stdout.contains("\n\n29 checks: "), "{}", run.stdout);
    for options in [&["--quiet"][..], &["--offline"]] {
        let run = doctor(&site, options).ok();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "{options:?}");
    }
    let hint = "hint     subject token   mode                      0644: every job on this node can impersonate every \
                service account that trusts the node, whatever the rules say; \"direct\" delivery has it so";
    assert!(run.stdout.contains(hint), "{}", run.stdout);
    let (account, other) =
        (format!(" {}, until 2", crate::google::SERVICE_ACCOUNT), format!(" {OTHER_ACCOUNT}, until 2"));
    assert!(run.stdout.contains(&account), "{}", run.stdout);
    assert!(doctor(&site, &["--service-account", OTHER_ACCOUNT]).ok().stdout.contains(&other));
    // The doctor leaves no trace on the node, and prints no token.
    assert!(!site.cluster.node(1).run_dir().join("gcp-wif").exists());
    let object: Value = serde_json::from_str(&doctor(&site, &["--json"]).ok().stdout).unwrap();
    assert_eq!((&object["ok"], object["checks"].as_array().unwrap().len()), (&json!(true), CHECKS.len()));
    for token in site.google.tokens() {
        assert!(!run.stdout.contains(&token), "a token is printed");
    }
    // A job's directory on the node changes nothing.
    site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    assert_eq!(complaints(&doctor(&site, &[]).ok()), [""; 0]);
    let short = format!("set -o pipefail; {} doctor | head -n 1", command_path());
    let run = site.cluster.node(1).command(["bash", "-c", &short]).run().ok();
    assert!(run.stdout.starts_with("ok ") && run.stderr.is_empty(), "{}", run.stderr);
    let run = site.cluster.node(1).as_user("alice").command([command_path(), "doctor"]).run().expect_status(2);
    assert_eq!(run.stderr, "gcp-wif doctor: it must run as root, because it reads files that only root can read\n");
    site.finish();
}

#[test]
fn a_terminal_gets_colors_unless_told_otherwise() {
    let site = Site::start();
    good(&site);
    let on_a_terminal = |variables: &str| {
        let line = format!("{variables} TERM=xterm script -qec '{} doctor' /dev/null", command_path());
        site.cluster.node(1).command(["bash", "-c", &line]).run().ok().stdout
    };
    assert!(on_a_terminal("").starts_with("\u{1b}[32mok\u{1b}[0m       configuration   site configuration "));
    assert!(on_a_terminal("NO_COLOR=1").starts_with("ok       configuration   site configuration "));
    assert!(!doctor(&site, &[]).ok().stdout.contains('\u{1b}'));
    site.finish();
}

#[test]
fn each_check_says_what_is_wrong_and_the_fix() {
    let site = Site::start();
    good(&site);
    prepare(&site);
    let baseline = doctor(&site, &[]).ok();
    let standing = complaints(&baseline);
    let mut golden = Golden::new("doctor");
    for case in cases() {
        good(&site);
        (case.sabotage)(&site);
        let words = [command_path(), "doctor"].into_iter().chain(case.options.iter().copied());
        let mut command = site.cluster.node(1).command(words);
        if let Some((name, path)) = case.variable {
            command = command.env(name, &site.cluster.dir().join(path).display().to_string());
        }
        let run = command.run();
        let lines: Vec<&str> = complaints(&run).into_iter().filter(|line| !standing.contains(line)).collect();
        let failed = lines.iter().any(|line| line.starts_with("failed "));
        assert_eq!(
            (run.status, failed),
            (case.status, case.status == 1),
            "{}: {}{}",
            case.name,
            run.stdout,
            run.stderr
        );
        assert!(!lines.is_empty(), "{}: {}", case.name, run.stdout);
        golden.add(case.name, &summary(&lines).join("\n    "), &site);
    }
    golden.check();
    good(&site);
    site.finish();
}

/// The skipped checks, on one line.
fn summary(lines: &[&str]) -> Vec<String> {
    let (skipped, told): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.starts_with("skipped "));
    let mut summary: Vec<String> = told.into_iter().map(str::to_owned).collect();
    let names: Vec<&str> = skipped.iter().map(|line| line[25..51].trim()).collect();
    summary.extend((!names.is_empty()).then(|| format!("skipped  {}", names.join(", "))));
    summary
}

#[test]
fn the_doctor_says_how_far_the_clock_is_from_googles() {
    let site = Site::start();
    good(&site);
    for (seconds, way) in [(-100, "ahead of"), (100, "behind")] {
        site.google.shift_clock(seconds);
        let run = doctor(&site, &[]);
        let line = run.stdout.lines().find(|line| line.contains("  clock  ")).unwrap();
        assert!(line.starts_with("warning ") && line.contains(&format!("seconds {way} Google's")), "{line}");
    }
    site.google.shift_clock(0);
    site.finish();
}

#[test]
fn the_doctor_reports_a_runtime_directory_on_a_disk() {
    let site = Site::start();
    let path = format!("{}/gcp-wif", env!("CARGO_TARGET_TMPDIR"));
    site.configure(json!({"delivery": "direct", "project": "p", "runtime_dir": path}));
    let run = doctor(&site, &[]).ok();
    let expected = format!("{path} is on a disk, where tokens survive a crash; put it on tmpfs");
    assert!(run.stdout.contains(&expected), "{}", run.stdout);
    site.finish();
}

/// Slurm's configuration files in another directory, for `SLURM_CONF`.
fn prepare(site: &Site) {
    let directory = |name: &str, plugstack: &str| {
        let directory = site.cluster.dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("slurm.conf"), "ClusterName=ci\nMessageTimeout=60\n").unwrap();
        fs::write(directory.join("plugstack.conf"), plugstack).unwrap();
    };
    let ours = format!("optional {}/lib/spank_gcp_wif.so\n", site.cluster.dir().display());
    directory("without", "optional spank_pyxis.so\n");
    directory("order", &format!("required spank_pyxis.so\n{ours}"));
    directory("gone", "optional /nowhere/spank_gcp_wif.so\n");
    directory("argument", &ours.replace('\n', " config=/etc/slurm/another.json\n"));
    let newer = site.cluster.dir().join("newer/spank_gcp_wif.so");
    directory("newer", &format!("optional {}\n", newer.display()));
    fs::write(newer, patched("plugin_version", &0x0063_0b00_u32.to_ne_bytes())).unwrap();
}

/// The plugin's file with other bytes at the start of this symbol's data.
pub fn patched(symbol: &str, bytes: &[u8]) -> Vec<u8> {
    let mut file = fs::read(plugin_path()).unwrap();
    let at = {
        let plugin = object::File::parse(&*file).unwrap();
        let symbol = plugin.dynamic_symbols().find(|found| found.name() == Ok(symbol)).unwrap();
        let section = plugin.section_by_index(symbol.section_index().unwrap()).unwrap();
        section.file_range().unwrap().0 + symbol.address() - section.address()
    };
    let at = usize::try_from(at).unwrap();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

fn cases() -> Vec<Case> {
    let node = |site: &Site| site.cluster.node(1);
    let token = |claims: fn() -> Claims| move |site: &Site| site.rotate(&site.google.subject_token(&claims()));
    let fault =
        |endpoint, body| move |site: &Site| site.google.inject(endpoint, Fault::status_with(403, body), Times::Forever);
    let runtime = move |site: &Site| {
        let path = node(site).run_dir().join("gcp-wif");
        fs::create_dir_all(&path).unwrap();
        path
    };
    vec![
        case("no site configuration", move |site| fs::remove_file(node(site).config_path()).unwrap()),
        case("a site configuration that group can write", move |site| set_mode(node(site).config_path(), 0o664)),
        case("a site configuration of a user's", move |site| set_owner(node(site).config_path(), 61001)),
        case("an unknown key", |site| with_key(site, r#""atuo": true"#)),
        case("--config names another one", |_| ()).with(&["--config", "/etc/slurm/another.json"]),
        case("plugstack.conf names another one", |_| ()).variable("SLURM_CONF", "argument/slurm.conf"),
        case("no credential configuration", move |site| fs::remove_file(credential_path(&node(site))).unwrap()),
        case("no audience", |site| edit_credential(site, "audience", Value::Null)),
        case("no project", |site| {
            site.configure(json!({}));
            site.trust(&site.source().direct());
        })
        .warns(),
        case("certificates that are none", |site| {
            fs::write(site.cluster.node(1).config_path().with_file_name("ca.pem"), "x").unwrap();
            with_key(site, r#""ca_certificates": "/etc/slurm/ca.pem""#);
        }),
        case("no certificates", |site| with_key(site, r#""ca_certificates": "/etc/slurm/ca.pem""#)),
        case("plugstack.conf is missing", |_| ()).variable("SLURM_CONF", "nowhere/slurm.conf"),
        case("plugstack.conf without the plugin", |_| ()).variable("SLURM_CONF", "without/slurm.conf"),
        case("pyxis is earlier", |_| ()).variable("SLURM_CONF", "order/slurm.conf"),
        case("the plugin's file is missing", |_| ()).variable("SLURM_CONF", "gone/slurm.conf"),
        case("another release of Slurm", |_| ()).variable("SLURM_CONF", "newer/slurm.conf"),
        case("no rule at all", |site| with_key(site, r#""rules": []"#)).warns(),
        case("a rule for everyone comes first", |site| {
            site.configure(json!({"delivery": "agent", "rules": [{}, {"users": ["bob"]}], "command": command_path()}));
            set_mode(site.cluster.node(1).tokens_dir().join("token"), 0o400);
        })
        .warns(),
        case("no subject token", move |site| fs::remove_file(node(site).tokens_dir().join("token")).unwrap()),
        case("no JWT", |site| site.rotate("no-token-at-all")),
        case("another audience", token(|| Claims::default().audience("https://kubernetes.default.svc"))),
        case("expired", token(|| Claims::default().issued_in(-7200).expires_in(-3600))),
        case("a long subject", token(|| Claims::default().subject(&format!("system:{}", "x".repeat(121))))),
        case("only root reads the subject token", move |site| set_mode(node(site).tokens_dir().join("token"), 0o600))
            .warns(),
        case("everybody reads the subject token that the agent keeps", |site| {
            reset(site, json!({"delivery": "agent", "command": command_path(), "project": "demo-project"}));
        }),
        case("an agent's program that is missing", move |site| {
            reset(site, json!({"delivery": "agent", "command": "/usr/bin/none", "project": "demo-project"}));
            set_mode(node(site).tokens_dir().join("token"), 0o600);
        }),
        case("STS refuses", fault(Endpoint::Sts, Body::OAuth)),
        case("nobody listens", |site| edit_credential(site, "token_url", json!("http://127.0.0.1:1/v1/token"))),
        case("IAM refuses", fault(Endpoint::Impersonation, Body::Status)),
        case("a service account that is none", |_| ())
            .with(&["--service-account", "nobody@demo-project.iam.gserviceaccount.com"]),
        case("a runtime directory of a user's", move |site| set_owner(runtime(site), 61001)),
        case("a runtime directory that all can write", move |site| set_mode(runtime(site), 0o777)),
        case("a full runtime directory", move |site| {
            fs::write(node(site).run_dir().join("filler"), vec![0; 65 << 20]).unwrap_err();
        }),
        case("no parent of the runtime directory", |site| with_key(site, r#""runtime_dir": "/run/none/gcp-wif""#)),
    ]
}
