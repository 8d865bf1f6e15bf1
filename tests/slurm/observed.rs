//! What an operator sees: metrics, as Debian's own Prometheus reads them, and the audit log.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Node, wait_until};
use crate::google::{Endpoint, Fault, SERVICE_ACCOUNT, Times};
use crate::pages::block;
use crate::refresh::job::Job;
use crate::refresh::{configure, site};
use crate::skipped::{is_installed, skip};

const LIMIT: Duration = Duration::from_secs(60);
const DOCUMENTED: &str = include_str!("../../docs/operating.md");

fn metrics_path(node: &Node) -> PathBuf {
    node.run_dir().join("gcp-wif/metrics.prom")
}

/// A metric of the node; none where it has no such series.
fn metric(node: &Node, series: &str) -> Option<f64> {
    let text = fs::read_to_string(metrics_path(node)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn audit(node: &Node) -> Vec<Value> {
    let text = fs::read_to_string(node.run_dir().join("gcp-wif/audit.log")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

fn deployed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus").join(name)
}

/// The names in the first column of a table.
fn documented(heading: &str) -> BTreeSet<String> {
    let table = DOCUMENTED.split_once(heading).unwrap().1.lines().skip(2).take_while(|line| line.starts_with('|'));
    let column = |line: &str| line.split('|').nth(1).unwrap_or_default().to_owned();
    let names = |column: String| column.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    table.flat_map(|line| names(column(line))).collect()
}

#[test]
fn metrics_count_what_happens_and_tell_what_is_served() {
    let site = site(json!({}), Some(10));
    let node = site.cluster.node(1);
    let job = Job::start(&site);
    job.step(&site, &["--gcp-wif", "true"]).run().ok();
    site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run().ok();
    let is = |series: &str, expected: f64| metric(&node, series) == Some(expected);
    wait_until(LIMIT, || is("gcp_wif_jobs_served", 1.0));
    assert!(is("gcp_wif_issuances_total{outcome=\"issued\",stage=\"none\"}", 2.0));
    assert!(metric(&node, "gcp_wif_exchanges_saved_total") >= Some(1.0));
    job.wait_for(|| metric(&node, "gcp_wif_refreshes_total{outcome=\"issued\",stage=\"none\"}") >= Some(1.0));
    job.wait_for(|| {
        let expiry = site.google.state.token(&job.token()).map(|token| token.expires);
        #[allow(clippy::cast_precision_loss)]
        expiry.is_some_and(|expiry| is("gcp_wif_next_expiry_timestamp_seconds", expiry as f64))
    });
    assert!(is(&format!("gcp_wif_agent_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0));

    site.google.inject(Endpoint::Sts, Fault::status(400), Times::Forever);
    job.wait_for(|| metric(&node, "gcp_wif_refreshes_total{outcome=\"failed\",stage=\"token_exchange\"}") >= Some(1.0));
    site.google.clear_faults();
    job.end(&site);
    wait_until(LIMIT, || is("gcp_wif_jobs_served", 0.0));
    assert_eq!(metric(&node, "gcp_wif_next_expiry_timestamp_seconds"), None);

    let mode = fs::metadata(metrics_path(&node)).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o644);
    let text = fs::read_to_string(metrics_path(&node)).unwrap();
    assert!(!text.contains("alice") && !text.contains(SERVICE_ACCOUNT), "{text}");
    // Each metric is documented, and the other way round; the last has no sample now.
    let told = |line: &str| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned);
    let mut told: BTreeSet<String> = text.lines().filter_map(told).collect();
    told.insert("gcp_wif_next_expiry_timestamp_seconds".to_owned());
    let names = documented("| metric | meaning |").into_iter().map(|name| name.split('{').next().unwrap().to_owned());
    assert_eq!(told, names.collect());
    site.finish();
}

#[test]
fn each_of_fifty_jobs_at_once_is_counted() {
    let site = site(json!({}), None);
    let node = site.cluster.node(1);
    let script = "#!/bin/bash\n#SBATCH --gcp-wif --array=1-50 -w n1 -o /dev/null\ntrue\n";
    let id = site.cluster.batch("alice", script, &[]);
    site.cluster.wait_job(&id);
    let issued = || metric(&node, "gcp_wif_issuances_total{outcome=\"issued\",stage=\"none\"}");
    assert_eq!(issued(), Some(50.0));
    assert_eq!(metric(&node, "gcp_wif_exchanges_total"), Some(1.0));
    assert_eq!(metric(&node, "gcp_wif_exchanges_saved_total"), Some(49.0));
    site.finish();
}

#[test]
fn a_bad_metrics_file_keeps_no_job_from_credentials() {
    let site = site(json!({"audit": "json"}), None);
    let node = site.cluster.node(1);
    let run = || site.cluster.as_user("alice").command(["srun", "-w", "n1", "--gcp-wif", "true"]).run();
    run().ok();
    for name in ["metrics.prom", "audit.log"] {
        let path = node.run_dir().join("gcp-wif").join(name);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
    assert_eq!(run().ok().stderr, "");
    fs::remove_dir(metrics_path(&node)).unwrap();
    fs::write(metrics_path(&node), [0xff, b'\n', b'x']).unwrap();
    run().ok();
    assert_eq!(metric(&node, "gcp_wif_issuances_total{outcome=\"issued\",stage=\"none\"}"), Some(1.0));
    site.finish();
}

#[test]
fn the_audit_log_has_an_object_for_each_token_and_can_be_rotated() {
    let site = site(json!({}), Some(10));
    let node = site.cluster.node(1);
    let path = node.run_dir().join("gcp-wif/audit.log");
    let job = Job::start(&site);
    assert!(!path.exists(), "the site did not ask for it");
    configure(&site, json!({"audit": "json"}));
    let is = |entry: &Value, event: &str, outcome: &str| entry["event"] == event && entry["outcome"] == outcome;
    let has = |event: &str, outcome: &str| audit(&node).iter().any(|entry| is(entry, event, outcome));
    job.wait_for(|| has("refresh", "issued"));
    let scope = "https://www.googleapis.com/auth/devstorage.read_only";
    job.metadata(&format!("token?scopes={scope}"));
    job.metadata("identity?audience=https://example.org");
    site.google.inject(Endpoint::Impersonation, Fault::status(403), Times::Forever);
    job.wait_for(|| has("refresh", "failed"));
    site.google.clear_faults();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);

    let entries = audit(&node);
    let all: BTreeSet<String> = entries.iter().flat_map(|entry| entry.as_object().unwrap().keys().cloned()).collect();
    assert_eq!(all, documented("| field | meaning |"));
    let failed = entries.iter().find(|entry| is(entry, "refresh", "failed")).unwrap();
    assert_eq!((&failed["stage"], &failed["identity"]), (&json!("impersonation"), &json!(SERVICE_ACCOUNT)));
    assert!(entries.iter().any(|entry| entry["scopes"] == scope && entry["event"] == "request"), "{entries:?}");
    assert!(entries.iter().any(|entry| entry["audience"] == "https://example.org"), "{entries:?}");

    fs::rename(&path, path.with_extension("log.1")).unwrap();
    let log = node.run_dir().join("gcp-wif/agent.log");
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    job.wait_for(|| has("refresh", "issued") && job.log().contains(" outcome=issued "));
    job.end(&site);
    site.finish();
}

#[test]
fn the_alerts_fire_when_they_should() {
    if !is_installed("promtool") {
        return skip("promtool is not installed: alerts");
    }
    for words in [["check", "rules", "gcp-wif.rules.yml"], ["test", "rules", "gcp-wif.test.yml"]] {
        let told = Command::new("promtool").args(&words[..2]).arg(deployed(words[2])).output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&[told.stdout, told.stderr].concat()));
    }
}

#[test]
fn prometheus_reads_the_metrics_by_way_of_its_node_exporter() {
    if !["promtool", "prometheus", "prometheus-node-exporter"].into_iter().all(is_installed) {
        return skip("prometheus and prometheus-node-exporter are not installed: scraping the metrics");
    }
    let site = site(json!({}), None);
    let node = site.cluster.node(1);
    let job = Job::start(&site);
    let text = fs::File::open(metrics_path(&node)).unwrap();
    let lint = Command::new("promtool").args(["check", "metrics"]).stdin(text).output().unwrap();
    assert!(lint.status.success() && lint.stderr.is_empty(), "{}", String::from_utf8_lossy(&lint.stderr));

    let directory = tempfile::tempdir().unwrap();
    let collected = directory.path().join("collected");
    fs::create_dir(&collected).unwrap();
    for command in block("sh monitoring") {
        let command = command.replace("/run/gcp-wif/metrics.prom", &metrics_path(&node).display().to_string());
        let command = command.replace("/var/lib/prometheus/node-exporter", &collected.display().to_string());
        assert!(Command::new("bash").args(["-c", &command]).status().unwrap().success(), "{command}");
    }
    let (exporter_port, port) = (free_port(), free_port());
    let _exporter = Server::start(
        Command::new("prometheus-node-exporter")
            .args(["--collector.disable-defaults", "--collector.textfile"])
            .arg(format!("--collector.textfile.directory={}", collected.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{exporter_port}")),
    );
    let config = json!({
        "global": {"scrape_interval": "1s"},
        "rule_files": [deployed("gcp-wif.rules.yml")],
        "scrape_configs": [
            {"job_name": "node", "static_configs": [{"targets": [format!("127.0.0.1:{exporter_port}")]}]}
        ],
    });
    // JSON is YAML.
    fs::write(directory.path().join("prometheus.yml"), config.to_string()).unwrap();
    let _prometheus = Server::start(
        Command::new("prometheus")
            .arg(format!("--config.file={}", directory.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}")),
    );
    let query = |what: &str| -> Option<Value> {
        let url = format!("http://127.0.0.1:{port}/api/v1/{what}");
        serde_json::from_str(&ureq::get(&url).call().ok()?.body_mut().read_to_string().ok()?).ok()
    };
    let value = |series: &str| Some(query(&format!("query?query={series}"))?["data"]["result"][0]["value"][1].clone());
    wait_until(LIMIT, || value("gcp_wif_jobs_served") == Some(json!("1")));
    assert_eq!(value("gcp_wif_exchanges_total"), Some(json!("1")));
    let rules = query("rules").unwrap();
    assert_eq!(rules["data"]["groups"][0]["rules"].as_array().unwrap().len(), 4, "{rules}");
    job.end(&site);
    wait_until(LIMIT, || value("gcp_wif_jobs_served") == Some(json!("0")));
    site.finish();
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server that ends with its test.
struct Server(Child);

impl Server {
    fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
