//! A user's first credentials on a node: the plugin's exchange against the script that operators run today.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io};

use gcp_wif_core::exchange::Purpose;
use gcp_wif_core::job::node::{Exchanger, Limits, TokenRequest};
use gcp_wif_core::job::worker::Worker;
use gcp_wif_core::policy::facts::JobFacts;
use gcp_wif_core::policy::grant::Grant;
use gcp_wif_core::policy::site::Site as Configuration;
use gcp_wif_core::words::names::JobId;
use serde_json::json;

use crate::cluster::{ALICE, Plugin};
use crate::distant::Distant;
use crate::google::{Claims, Google, Options, ProjectedVolume, SERVICE_ACCOUNT, Source};
use crate::processes::kill_agent;
use crate::rows::Row;
use crate::samples::{Rounds, in_turns, rounded};
use crate::shell::Shell;
use crate::site::Site;
use crate::sites::{self, Prolog};

const ROUNDS: Rounds = Rounds { warm_up: 3, counted: 40, pause: Duration::from_millis(50) };
const COLD_ROUNDS: Rounds = Rounds { warm_up: 2, counted: 15, pause: Duration::from_millis(100) };
const BUDGET: Duration = Duration::from_secs(17);

/// The argument of the bench's own process that makes exchanges.
pub const EXCHANGES: &str = "--exchanges=";

pub fn run() -> Vec<Row> {
    vec![exchange(), cold()]
}

/// The exchange alone. Both measurements begin in a running process and end when it has the access token.
fn exchange() -> Row {
    let google = Google::start(Options::default());
    let distant = Distant::new(&google);
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    let volume = ProjectedVolume::new(at("tokens"), &google.subject_token(&Claims::default()));
    let source = Source::file(volume.token());
    fs::write(at("ca.pem"), &distant.certificates).expect("the certificates");
    fs::write(at("credential.json"), distant.credential_configuration(&google, &source)).expect("the configuration");
    let config = json!({"credential_configuration": at("credential.json"), "ca_certificates": at("ca.pem")});
    fs::write(at("gcp-wif.json"), config.to_string()).expect("the configuration");

    let mut hook = Hook::start(&at("gcp-wif.json"));
    let mut seed = Command::new("sh");
    seed.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/seed.sh"))
        .env("AUDIENCE", google.audience())
        .env("SERVICE_ACCOUNT", SERVICE_ACCOUNT)
        .env("TOKEN_PATH", volume.token())
        .env("STS", distant.sts_url())
        .env("IAM", distant.iam_url())
        .env("CURL_CA_BUNDLE", at("ca.pem"));
    let mut script = || {
        let begun = Instant::now();
        let output = seed.output().expect("sh runs");
        let taken = begun.elapsed();
        let token = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(google.access_tokens().last() == Some(&token), "{}", String::from_utf8_lossy(&output.stderr));
        taken.as_secs_f64() * 1000.0
    };
    let [ours, theirs] = in_turns(ROUNDS, [&mut || hook.exchange(), &mut script]);
    let ratio = ours.median() / theirs.median();
    Row {
        line: "first",
        what: "first exchange, https, 20 ms round trip, against the script of today".to_owned(),
        measured: format!("{ratio:.2} ({:.0} ms against {:.0} ms)", ours.median(), theirs.median()),
        spread: format!(
            "p10 {:.0} against {:.0} ms, p90 {:.0} against {:.0} ms",
            ours.quantile(0.1),
            theirs.quantile(0.1),
            ours.quantile(0.9),
            theirs.quantile(0.9)
        ),
        to_reach: "0.60",
        is_told: true,
        numbers: json!({"own_ms": ours.json(), "other_ms": theirs.json(), "ratio": rounded(ratio)}),
    }
}

/// A process that makes exchanges as the hooks do: its only thread forks a child for each exchange.
struct Hook {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Hook {
    fn start(config: &Path) -> Self {
        let mut child = Command::new(env::current_exe().expect("a program"))
            .arg(format!("{EXCHANGES}{}", config.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the bench runs");
        let stdin = child.stdin.take().expect("stdin is a pipe");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        Self { child, stdin, stdout }
    }

    fn exchange(&mut self) -> f64 {
        writeln!(self.stdin).expect("it listens");
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).expect("it answers");
        answer.trim().parse().unwrap_or_else(|_| panic!("the exchange failed: {answer}"))
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The other end of [`Hook`]: an exchange for each line, and how many milliseconds it took.
pub fn exchanges(config: &Path) {
    for _ in io::stdin().lines() {
        let begun = Instant::now();
        let result = Configuration::load(config).map_err(|error| error.to_string()).and_then(|site| {
            let facts = facts();
            let grant = Grant::decide(&site, &facts, None).map_err(|denial| denial.to_string())?;
            let request = TokenRequest { site: &site, grant: &grant, purpose: Purpose::AccessToken, facts: &facts };
            let limits = Limits { budget: BUDGET, patience: Duration::ZERO };
            Worker.exchange(request, limits).map_err(|failure| failure.to_string())
        });
        match result {
            Ok(_) => println!("{}", begun.elapsed().as_secs_f64() * 1000.0),
            Err(problem) => println!("{problem}"),
        }
    }
}

/// What slurmd says about one of alice's jobs.
fn facts() -> JobFacts {
    let user = Some("alice".to_owned());
    JobFacts { job: JobId(7), uid: ALICE, gid: ALICE, user, groups: Vec::new(), placement: None }
}

/// A whole job on a node that has no agent and no credentials, compared with a job that asks for none.
fn cold() -> Row {
    let site = Site::with(sites::settings(Plugin::Optional, Prolog::AtFirstStep));
    let distant = Distant::new(&site.google);
    distant.serve(&site);
    let node = site.cluster.node(1);
    let [mut with, mut without] = [(); 2].map(|()| Shell::start(&site.cluster));
    let mut run = || {
        kill_agent(&node);
        node.command(["rm", "-rf", "/run/gcp-wif"]).run().ok();
        with.time("srun -w n1 --gcp-wif true")
    };
    let [own, other] = in_turns(COLD_ROUNDS, [&mut run, &mut || without.time("srun -w n1 true")]);
    let (measured, spread, numbers) = own.against(&other);
    let what = "srun --gcp-wif true on a cold node, https, 20 ms round trip, against srun true".to_owned();
    Row { line: "first", what, measured, spread, to_reach: "", numbers, is_told: false }
}
