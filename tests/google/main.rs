//! `embedded-google DIRECTORY`: one instance of the embedded Google, for a demonstration.
//!
//! Writes into DIRECTORY `ca.pem`, `address` (the http base), `credential-configuration.json` and
//! `tokens/` (a projected volume whose token is minted again at 80 % of its life, as the kubelet
//! does), prints one line when ready, and serves until its standard input ends or it is killed.

#![allow(clippy::print_stderr)]

#[path = "mod.rs"]
mod google;

use std::error::Error;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{env, fs, thread};

use google::{Bucket, Claims, Format, Google, Options, ProjectedVolume, SERVICE_ACCOUNT, SUBJECT, Source};

const USAGE: &str = "\
usage: embedded-google [OPTION...] DIRECTORY
  --issue-lifetime SECONDS   life of each subject token (3607)
  --access-lifetime SECONDS  greatest life of an access token (3600)
  --bucket NAME              the bucket with two objects (demo-bucket)
  --service-account EMAIL    the one that exists
  --subject SUBJECT          the subject of the tokens, which may impersonate it
  --source-file PATH         where the node sees the token (/var/run/secrets/tokens/token)
  --direct                   configuration without impersonation
  --https                    endpoints over https, trusted by ca.pem
  --mode MODE                octal mode of the token's file (600)
  --detached                 keep serving when standard input ends";

struct Arguments {
    directory: PathBuf,
    issue_lifetime: i64,
    detached: bool,
    mode: u32,
    subject: String,
    source: Source,
    options: Options,
}

fn arguments() -> Result<Arguments, Box<dyn Error>> {
    let mut options = Options::default();
    let mut source = Source::file("/var/run/secrets/tokens/token").format(Format::Text);
    let (mut directory, mut issue_lifetime, mut mode, mut detached) = (None, 3607, 0o600, false);
    let (mut bucket, mut email) = ("demo-bucket".to_owned(), SERVICE_ACCOUNT.to_owned());
    let (mut subject, mut direct) = (SUBJECT.to_owned(), false);
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--issue-lifetime" => issue_lifetime = value()?.parse()?,
            "--access-lifetime" => options.access_token_life = Some(value()?.parse()?),
            "--bucket" => bucket = value()?,
            "--service-account" => email = value()?,
            "--subject" => subject = value()?,
            "--source-file" => source.file = value()?.into(),
            "--direct" => direct = true,
            "--https" => source.secure = true,
            "--mode" => mode = u32::from_str_radix(&value()?, 8)?,
            "--detached" => detached = true,
            _ if word.starts_with('-') || directory.is_some() => return Err(USAGE.into()),
            _ => directory = Some(PathBuf::from(word)),
        }
    }
    let objects = [("hello.txt", "hello from the embedded Google\n"), ("data/part-0.csv", "a,b\n1,2\n")];
    options.buckets = vec![Bucket::new(&bucket, &objects, &[&email, &subject])];
    options.service_accounts = vec![google::ServiceAccount::new(&email, &[&subject])];
    options.registry_readers = vec![email.clone(), subject.clone()];
    source.service_account = (!direct).then_some(email);
    let directory = directory.ok_or(USAGE)?;
    Ok(Arguments { directory, issue_lifetime, detached, mode, subject, source, options })
}

fn run() -> Result<(), Box<dyn Error>> {
    let Arguments { directory, issue_lifetime, detached, mode, subject, source, options } = arguments()?;
    fs::create_dir_all(&directory)?;
    let google = Google::start(options);
    let claims = Claims::default().subject(&subject).expires_in(issue_lifetime);
    let volume = directory.join("tokens");
    if volume.exists() {
        fs::remove_dir_all(&volume)?;
    }
    let volume = ProjectedVolume::with_mode(volume, &google.subject_token(&claims), mode);
    fs::write(directory.join("ca.pem"), google.ca_certificate())?;
    fs::write(directory.join("registry.pem"), google.registry_certificate())?;
    fs::write(directory.join("credential-configuration.json"), google.credential_configuration_text(&source))?;
    // Written last and moved into place, so that a reader that sees it also sees the others.
    let address = directory.join("address");
    fs::write(address.with_extension("new"), google.http_url())?;
    fs::rename(address.with_extension("new"), &address)?;
    let mut output = std::io::stdout();
    writeln!(output, "ready: {} {}", google.http_url(), google.https_url())?;
    output.flush()?;

    let (end, ended) = mpsc::channel::<()>();
    let keep = end.clone();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(end);
    });
    let keep = detached.then_some(keep);
    let interval = Duration::from_secs(u64::try_from(issue_lifetime.max(2) * 4 / 5)?);
    while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(interval) {
        volume.rotate(&google.subject_token(&claims));
    }
    drop(keep);
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("embedded-google: {error}");
            ExitCode::from(2)
        }
    }
}
