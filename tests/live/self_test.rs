//! `ci/live`, with another embedded Google as the real one.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../google/mod.rs"]
mod google;
#[path = "mod.rs"]
mod live;
#[path = "../shell.rs"]
mod shell;

use std::fs;
use std::path::Path;
use std::process::Command;

use google::{Claims, Endpoint, Fault, Google, Options, SERVICE_ACCOUNT, ServiceAccount, Source, Times};
use serde_json::Value;
use shell::without_cargo;
use tempfile::TempDir;

/// The largest number of requests in a run.
const MOST: usize = 25;

/// A Google in the role of the real one, and the files of a permitted user.
struct World {
    google: Google,
    directory: TempDir,
}

impl World {
    fn start(service_account: Option<&str>) -> Self {
        let world = Self { google: Google::start(Options::default()), directory: tempfile::tempdir().unwrap() };
        world.write("token", &world.google.subject_token(&Claims::default()));
        let expired = Claims::default().issued_in(-7200).expires_in(-3600);
        world.write("expired", &world.google.subject_token(&expired));
        let mut source = Source::file(world.path("token"));
        source.service_account = service_account.map(str::to_owned);
        world.write("configuration.json", &world.google.credential_configuration_text(&source));
        world
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.path().join(name), text).unwrap();
    }

    fn walk(&self, options: &[&str]) -> Run {
        let configuration = self.path("configuration.json");
        let run = run(&[options, &[&*configuration]].concat());
        for secret in self.google.tokens() {
            assert!(!run.output.contains(&secret) && !run.errors.contains(&secret), "a token is printed");
        }
        // The embedded Google's tokens are not known here, but they have the same form.
        for text in [&run.output, &run.errors] {
            assert!(!text.contains("ya29.") && !text.contains("eyJ"), "a token is printed");
        }
        run
    }
}

struct Run {
    status: u8,
    output: String,
    errors: String,
}

impl Run {
    /// The lines with this prefix, without it.
    fn lines(&self, beginning: &str) -> Vec<&str> {
        self.output.lines().filter_map(|line| line.strip_prefix(beginning)).map(str::trim_start).collect()
    }
}

fn run(words: &[&str]) -> Run {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let status = live::run(words.iter().map(|&word| word.to_owned()), &mut output, &mut errors);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Run { status, output: text(output), errors: text(errors) }
}

#[test]
fn nothing_differs_from_a_google_that_is_the_same() {
    let world = World::start(Some(SERVICE_ACCOUNT));
    let run = world.walk(&["--expired-token", &world.path("expired")]);
    assert_eq!((run.status, run.errors.as_str()), (0, ""), "{}", run.output);
    assert_eq!(run.lines("differs"), Vec::<&str>::new());
    assert_eq!(run.lines("skipped"), ["introspection without a client: no token_info_url"]);
    assert!(run.output.ends_with("\n26 paths: 25 same, 0 differ, 1 skipped\n"), "{}", run.output);
    // Each line is true: the real one was asked, in as many ways, and most of them were refused.
    let requests = world.google.requests();
    assert_eq!(requests.len(), MOST);
    let succeeded: Vec<&str> =
        requests.iter().filter(|request| request.status == Some(200)).map(|request| &*request.target).collect();
    let account = format!("/v1/projects/-/serviceAccounts/{SERVICE_ACCOUNT}");
    let [access, identity] = ["generateAccessToken", "generateIdToken"].map(|method| format!("{account}:{method}"));
    assert_eq!(succeeded, ["/v1/token", "/v1/token", &access, &identity]);
    for status in [400, 401, 404, 405] {
        assert!(requests.iter().any(|request| request.status == Some(status)), "{status}");
    }
}

/// What differs, and the rest of the run, where the real Google says nothing at these endpoints: so the embedded one's
/// words are printed.
#[track_caller]
fn assert_told(silent: &[Endpoint], expected: &[(&str, &str)]) -> Run {
    let world = World::start(Some(SERVICE_ACCOUNT));
    for endpoint in silent {
        world.google.inject(*endpoint, Fault::answer("{}"), Times::Forever);
    }
    let run = world.walk(&["--expired-token", &world.path("expired")]);
    let differs = run.lines("differs");
    for (path, words) in expected {
        let line = differs.iter().find(|line| line.starts_with(&format!("{path}: ")));
        assert!(line.is_some_and(|line| line.contains(words)), "{path}: {differs:?}");
    }
    assert_eq!(run.status, 1);
    run
}

#[test]
fn each_refusal_is_provoked_by_what_its_path_says() {
    let run = assert_told(
        &[Endpoint::Sts],
        &[
            ("token exchange, another grant_type", "Invalid value for \\\"grant_type\\\""),
            ("token exchange, another requested_token_type", "Invalid value for \\\"requested_token_type\\\""),
            ("token exchange, another subject_token_type", "Invalid value for \\\"subject_token_type\\\""),
            ("token exchange, malformed audience", "error embedded \"invalid_request\""),
            ("token exchange, unknown provider", "error embedded \"invalid_target\""),
            ("token exchange, unknown pool", "error embedded \"invalid_target\""),
            ("token exchange, no scope", "error embedded \"invalid_scope\""),
            ("token exchange, unknown scope", "error embedded \"invalid_scope\""),
            ("token exchange, altered subject token", "Unable to verify the ID Token signature."),
            ("token exchange, badly signed subject token", "Unable to verify the ID Token signature."),
            ("token exchange, expired subject token", "ID Token issued at NUMBER is stale to sign-in."),
            ("token exchange, GET", "status embedded \"405\""),
        ],
    );
    // Without a federated token, no other request is possible.
    assert!(run.lines("skipped").contains(&"generateIdToken: no federated token"), "{}", run.output);
    assert_told(
        &[Endpoint::Impersonation, Endpoint::IdToken],
        &[
            ("generateAccessToken", "accessToken: text"),
            ("generateAccessToken, unknown service account", "Not found; Gaia id not found for email EMAIL"),
            ("generateAccessToken, no scope", "Request contains an invalid argument."),
            ("generateAccessToken, unknown scope", "Request contains an invalid argument."),
            ("generateAccessToken, 3601 seconds", "can not have lifetimes of more than 1 hour"),
            ("generateAccessToken, 43201 seconds", "can not have lifetimes of more than 1 hour"),
            ("generateAccessToken, no authorization", "reason embedded \"CREDENTIALS_MISSING of googleapis.com\""),
            ("generateAccessToken, a bearer token of nobody's", "ACCESS_TOKEN_TYPE_UNSUPPORTED of googleapis.com"),
            ("generateAccessToken, a project in the path", "error embedded \"INVALID_ARGUMENT\""),
            ("generateIdToken", "text embedded \"token: text\""),
            ("generateIdToken, no audience", "error embedded \"INVALID_ARGUMENT\""),
        ],
    );
}

#[test]
fn direct_federation_is_compared_as_far_as_possible() {
    let world = World::start(None);
    let run = world.walk(&[]);
    assert_eq!((run.status, run.errors.as_str()), (0, ""), "{}", run.output);
    assert!(run.lines("same").contains(&"introspection without a client"), "{}", run.output);
    assert!(run.lines("skipped").contains(&"generateAccessToken: direct federation"), "{}", run.output);
    assert!(run.lines("skipped").contains(&"token exchange, expired subject token: no --expired-token"));
}

/// Says no to a wrong grant_type in other words.
fn deviate(body: &mut Value) {
    if body["error_description"] == "Invalid value for \"grant_type\"." {
        body["error_description"] = "No such grant.".into();
    }
}

#[test]
fn each_deviation_is_named_and_nothing_else() {
    let world = World::start(Some(SERVICE_ACCOUNT));
    world.google.inject(Endpoint::Sts, Fault::Edit(deviate), Times::N(4));
    world.google.inject(Endpoint::Impersonation, Fault::status(503), Times::Once);
    let without_token = |body: &mut Value| *body = serde_json::json!({"idToken": body["token"]});
    world.google.inject(Endpoint::IdToken, Fault::Edit(without_token), Times::Once);
    let run = world.walk(&[]);
    assert_eq!(run.status, 1);
    assert_eq!(
        run.lines("differs"),
        [
            "token exchange, another grant_type: text embedded \"Invalid value for \\\"grant_type\\\".\" \
             Google \"No such grant.\"",
            "generateAccessToken: status embedded \"200\" Google \"503\"; error embedded none Google \"UNAVAILABLE\"; \
             text embedded \"accessToken: text, expireTime=0000-00-00T00:00:00Z\" \
             Google \"The service is currently unavailable.\"",
            "generateIdToken: text embedded \"token: text\" Google \"idToken: text\"",
        ]
    );
    assert!(run.output.ends_with(" 3 differ, 2 skipped\n"), "{}", run.output);
}

#[test]
fn a_token_that_google_quotes_is_left_out() {
    let world = World::start(Some(SERVICE_ACCOUNT));
    let token = fs::read_to_string(world.path("token")).unwrap();
    let body =
        serde_json::json!({"error": "invalid_grant", "error_description": format!("no: {token}, {}", &token[1..])});
    let quoting = Fault::Answer { status: 400, content_type: "text/html".to_owned(), body: body.to_string().into() };
    world.google.inject(Endpoint::Sts, quoting, Times::Once);
    let run = world.walk(&[]);
    assert!(run.lines("differs")[0].contains("Google \"no: TOKEN, TOKEN\""), "{}", run.output);
    assert!(!run.output.contains(token.rsplit('.').next().unwrap()), "{}", run.output);
}

#[test]
fn a_quota_that_is_used_up_is_waited_for() {
    let world = World::start(Some(SERVICE_ACCOUNT));
    world.google.inject(Endpoint::Sts, Fault::throttled(Some("1")), Times::N(2));
    let run = world.walk(&["--expired-token", &world.path("expired")]);
    assert_eq!(run.status, 0, "{}", run.output);
    assert_eq!(world.google.requests().len(), MOST + 2);
}

#[test]
fn a_google_that_does_not_answer_differs() {
    let world = World::start(Some(SERVICE_ACCOUNT));
    world.google.inject(Endpoint::IdToken, Fault::Hangup, Times::N(2));
    let run = world.walk(&[]);
    assert_eq!(run.status, 1);
    assert!(run.lines("differs")[0].starts_with("generateIdToken: status embedded \"200\" Google \"no answer: "));
}

#[test]
fn a_token_for_another_audience_or_with_a_longer_life_is_no_difference() {
    let world = World::start(Some(SERVICE_ACCOUNT));
    world.google.configure(|options| {
        options.allowed_audiences = vec!["https://kubernetes.example".to_owned()];
        let account = ServiceAccount { extended_lifetime: true, ..ServiceAccount::new(SERVICE_ACCOUNT, &["*"]) };
        options.service_accounts = vec![account];
    });
    world.write("token", &world.google.subject_token(&Claims::default().audience("https://kubernetes.example")));
    let source = Source::file(world.path("token")).lifetime(7200);
    world.write("configuration.json", &world.google.credential_configuration_text(&source));
    let run = world.walk(&[]);
    assert_eq!(run.status, 0, "{}", run.output);
}

#[test]
fn the_server_proves_who_it_is() {
    let world = World::start(Some(SERVICE_ACCOUNT));
    world.write("ca.pem", world.google.ca_certificate());
    let source = Source::file(world.path("token")).secure();
    world.write("configuration.json", &world.google.credential_configuration_text(&source));
    let run = world.walk(&["--ca-certificates", &world.path("ca.pem")]);
    assert_eq!(run.status, 0, "{}", run.output);
    assert!(world.google.requests().iter().all(|request| request.secure));
    let run = world.walk(&[]);
    assert_eq!(run.status, 1);
    assert!(run.lines("differs")[0].contains("Google \"no answer: "), "{}", run.output);
    assert_eq!(world.google.requests().len(), MOST - 1, "a token is shown to nobody who does not prove it");
}

#[test]
fn wrong_usage_is_reported() {
    const USAGE: &str = "ci/live: usage: ci/live [OPTION...] CREDENTIAL_CONFIGURATION\n";
    for words in [&[][..], &["--nonsense", "x"], &["a", "b"]] {
        let run = run(words);
        assert_eq!((run.status, run.output.as_str(), run.errors.as_str()), (2, "", USAGE), "{words:?}");
    }
    let help = run(&["--help"]);
    assert!(help.status == 0 && help.output.contains("  ci/live /etc/slurm/credential-configuration.json\n"));
    let world = World::start(None);
    let absent = world.walk(&["--subject-token", &world.path("absent")]);
    assert!(absent.status == 2 && absent.errors.contains("absent: No such file"), "{}", absent.errors);
    let text = fs::read_to_string(world.path("configuration.json")).unwrap();
    world.write("configuration.json", &text.replace("http://127.0.0.1", "http://sts.example"));
    let plain = world.walk(&[]);
    assert!(plain.status == 2 && plain.errors.contains("an https URL"), "{}", plain.errors);
    assert!(world.google.requests().is_empty());
}

#[test]
fn the_documented_command_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let (_, block) = readme.split_once("```sh live\n").unwrap();
    let (command, _) = block.split_once("\n```").unwrap();
    let world = World::start(Some(SERVICE_ACCOUNT));
    let command = command.replace("/etc/slurm/credential-configuration.json", &world.path("configuration.json"));
    let output = without_cargo(Command::new("bash").args(["-c", &command]).current_dir(root)).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.ends_with(" 0 differ, 2 skipped\n"), "{text}");
    assert_eq!(world.google.requests().len(), MOST - 1);
    let status = |arguments: &str| {
        without_cargo(Command::new("bash").args(["-c", arguments]).current_dir(root)).output().unwrap()
    };
    assert_eq!(status("ci/live").status.code(), Some(2));
}
