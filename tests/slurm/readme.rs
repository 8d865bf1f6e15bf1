//! The README and the pages behind it: their commands are run, and the troubleshooting is held against the lines that
//! users read.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::google::{SERVICE_ACCOUNT, SUBJECT, ServiceAccount};
use crate::pages::block;
use crate::shell::without_cargo;
use crate::site::Site;
use crate::skipped::{is_installed, skip};

const README: &str = include_str!("../../README.md");
const READER: &str = "reader@my-project.iam.gserviceaccount.com";

/// The blocks of shell with this word behind `sh`, line by line.
pub fn commands(word: &str) -> Vec<&'static str> {
    block(&format!("sh {word}"))
}

#[test]
fn the_demo_shows_the_main_job_and_leaves_nothing() {
    for command in commands("here") {
        // What is shown holds for the first run as well.
        let output = without_cargo(Command::new("bash").args(["-c", command]).current_dir(root())).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        let shown = block("text demo").join("\n");
        assert_eq!(steady(&shown), steady(text.trim()), "the README shows:\n{shown}\nand the demo printed:\n{text}");
    }
}

/// What the demo prints, paragraph by paragraph, without what differs from run to run: times, sizes, the machine's
/// name, which of two nodes is first.
fn steady(text: &str) -> Vec<Vec<String>> {
    let paragraph = |text: &str| {
        let is_hostname = text.starts_with("alice$ srun hostname\n");
        let mut lines: Vec<String> = Vec::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            lines.push(match line.split_once(" until ") {
                Some((start, _)) if !line.starts_with("alice$") => start.to_owned(),
                _ if line.starts_with("-r-") || line.starts_with("drwx") => {
                    format!("{} {} {}", words[0], words[2], words[8])
                }
                _ if is_hostname && lines.len() == 1 => "the machine's name".to_owned(),
                _ => line.to_owned(),
            });
        }
        lines.sort();
        lines
    };
    text.split("\n\n").map(paragraph).collect()
}

#[test]
fn the_commands_for_users_work() {
    let site = Site::start();
    site.google.configure(|options| options.service_accounts.push(ServiceAccount::new(READER, &[SUBJECT])));
    site.configure(json!({"rules": [{"allow": [READER]}]}));
    fs::write(site.cluster.home("alice").join("job.sh"), "#!/bin/bash\nprintenv GCP_WIF_SERVICE_ACCOUNT\n").unwrap();
    for command in commands("cluster") {
        let run = site.cluster.as_user("alice").shell(command).run().ok();
        let expected = match command.split_once("printenv ").map(|(_, name)| name) {
            Some("GCP_WIF_SERVICE_ACCOUNT") if command.contains(READER) => READER,
            Some("GCP_WIF_SERVICE_ACCOUNT") => SERVICE_ACCOUNT,
            Some("GOOGLE_APPLICATION_CREDENTIALS") => "/credentials.json",
            _ => continue,
        };
        assert!(run.stdout.trim_end().ends_with(expected), "{command}: {}", run.stdout);
    }
    assert_eq!(site.cluster.wait_job("2"), crate::cluster::JobState::Completed);
    assert_eq!(site.cluster.job_output("2").trim(), SERVICE_ACCOUNT);
    site.finish();
}

#[test]
fn the_commands_of_the_installation_work() {
    // Over the machine's own /usr and /etc, in a mount namespace that ends with the shell.
    let overlay = "set -e; t=$1; mount -t tmpfs tmpfs $t; \
        for d in usr etc; do mkdir $t/$d $t/$d.work; \
        mount -t overlay overlay -o lowerdir=/$d,upperdir=$t/$d,workdir=$t/$d.work /$d; done";
    let check = "find $t/usr $t/etc -type f -printf '%P %m %U\\n' | sort; \
        cmp target/release/libspank_gcp_wif.so /usr/lib/x86_64-linux-gnu/slurm-wlm/spank_gcp_wif.so";
    let script = format!("{overlay}\n{}\n{check}", commands("install").join("\n"));
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-c", &script, "-"]).arg(directory.path()).current_dir(root());
    let output = without_cargo(&mut command).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(
        text,
        "bin/gcp-wif 755 0\nlib/x86_64-linux-gnu/slurm-wlm/spank_gcp_wif.so 644 0\nslurm/plugstack.conf.d/10-gcp-wif.conf 644 0\n"
    );
    let line = fs::read_to_string(root().join("plugstack.conf.d/10-gcp-wif.conf")).unwrap();
    assert_eq!(line, "optional spank_gcp_wif.so\n");
}

#[test]
fn the_runtime_directory_can_be_a_separate_file_system() {
    let site = Site::start();
    let node = site.cluster.node(1);
    let table = block("fstab").join("\n");
    let mount = "set -e; mkdir /run/gcp-wif; cat >/run/fstab; mount --fstab /run/fstab /run/gcp-wif";
    node.command(["sh", "-c", mount]).stdin(table.as_str()).run().ok();
    let (job, id) = site.running_job();
    let line = "cd /run/gcp-wif/jobs/*; stat -c %U status; findmnt -n -o TARGET --target status; df -h --output=size .";
    let told = node.command(["sh", "-c", line]).run().ok().stdout;
    assert_eq!(told.split_whitespace().collect::<Vec<_>>(), ["root", "/run/gcp-wif", "Size", "256M"]);
    assert!(node.job_dir(&id).join("access_token").exists());
    site.cancel(job);
    site.finish();
}

#[test]
fn the_commands_for_googles_side_work() {
    if !is_installed("gcloud") {
        skip("gcloud is not installed: the README's commands of the Google side");
        return;
    }
    let api = Api::start();
    let directory = tempfile::tempdir().unwrap();
    for command in commands("google") {
        let mut shell = Command::new("bash");
        shell.args(["-c", command]).current_dir(directory.path());
        for name in ["IAM", "SERVICEUSAGE", "CLOUDRESOURCEMANAGER"] {
            shell.env(format!("CLOUDSDK_API_ENDPOINT_OVERRIDES_{name}"), &api.url);
        }
        let output = shell
            .env("CLOUDSDK_CONFIG", directory.path())
            .env("CLOUDSDK_AUTH_ACCESS_TOKEN", "token")
            .env("CLOUDSDK_CORE_PROJECT", "my-project")
            .env("CLOUDSDK_CORE_DISABLE_PROMPTS", "1")
            .env("CLOUDSDK_CORE_DISABLE_USAGE_REPORTING", "1")
            .env("CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    let asked = api.asked.lock().unwrap().join("\n");
    for expected in [
        "sts.googleapis.com",
        "workloadIdentityPoolId=slurm",
        "workloadIdentityPoolProviderId=cluster",
        "\"google.subject\": \"assertion.sub\"",
        "roles/iam.workloadIdentityUser",
        "workloadIdentityPools/slurm/subject/system:serviceaccount:tenant-slurm:default",
        "roles/storage.objectViewer",
    ] {
        assert!(asked.contains(expected), "{expected} is not in\n{asked}");
    }
    let written = fs::read(directory.path().join("credential-configuration.json")).unwrap();
    let parsed = gcp_wif_core::exchange::credential_configuration::CredentialConfiguration::parse(&written);
    assert!(parsed.is_ok_and(|configuration| configuration.impersonation.is_some()));
}

/// An API that agrees to everything and remembers what it was asked.
struct Api {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Api {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&asked);
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let sink = Arc::clone(&sink);
                std::thread::spawn(move || answer(&stream, &sink));
            }
        });
        Self { url, asked }
    }
}

fn answer(stream: &TcpStream, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if reader.read_line(&mut head).ok()? == 0 {
                return None;
            }
            if let Some(value) = head[start..].to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8_lossy(&body).into_owned();
        let reply = match head.lines().next()? {
            line if line.contains(":getIamPolicy") => r#"{"etag": "BwXX", "version": 1}"#,
            line if line.contains(":setIamPolicy") => r#"{"etag": "BwXY", "version": 1}"#,
            line if line.contains("/serviceAccounts") => {
                r#"{"email": "job-runner@my-project.iam.gserviceaccount.com"}"#
            }
            _ => r#"{"name": "operations/1", "done": true, "response": {}}"#,
        };
        asked.lock().ok()?.push(format!("{head}{body}"));
        let mut writer = stream;
        let kind = "content-type: application/json";
        write!(writer, "HTTP/1.1 200 OK\r\n{kind}\r\ncontent-length: {}\r\n\r\n{reply}", reply.len()).ok()?;
    }
}

/// Each stage's section of the troubleshooting, by the stage.
fn sections() -> Vec<(&'static str, &'static str)> {
    let (_, troubleshooting) = README.split_once("\n## Troubleshooting\n").unwrap();
    let troubleshooting = troubleshooting.split("\n## ").next().unwrap();
    troubleshooting.split("\n### `").skip(1).filter_map(|section| section.split_once("`\n")).collect()
}

#[test]
fn the_troubleshooting_speaks_of_the_lines_that_users_read() {
    let mut lines = Vec::new();
    for entry in fs::read_dir(root().join("tests/golden")).unwrap().flatten() {
        let golden = fs::read_to_string(entry.path()).unwrap();
        lines.extend(golden.lines().filter_map(|line| line.strip_prefix("    gcp-wif: ")).map(str::to_owned));
    }
    let sections = sections();
    for line in &lines {
        let stage = line.split(": ").next().unwrap();
        assert!(sections.iter().any(|(name, _)| *name == stage), "no section for: {line}");
    }
    for (stage, section) in sections {
        let section = section.split("\n### ").next().unwrap();
        for entry in section.lines().filter_map(|line| line.strip_prefix("- ")) {
            let (quotes, _) = entry.split_once(": ").unwrap_or((entry, ""));
            for quote in quotes.split('`').skip(1).step_by(2) {
                let known = lines.iter().any(|line| line.starts_with(stage) && line.contains(quote));
                assert!(known, "no line of stage {stage} has: {quote}");
            }
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
