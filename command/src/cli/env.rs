//! `gcp-wif env`: prints the current job's variables, for a shell that Slurm did not start.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::plugstack::Plugstack;
use super::{Screen, Status};
use gcp_wif_core::plan::environment::{self, ACCESS_TOKEN_FILE, CREDENTIALS_FILE, Change, Environment, STATUS_FILE};
use gcp_wif_core::policy::config::{Adc, Config, DEFAULT_RUNTIME_DIR};
use gcp_wif_core::words::google::ServiceAccountEmail;
use gcp_wif_core::words::names::{JobId, clip};
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::world::fs::read_limited;
use gcp_wif_core::world::proc::ProcFs;

/// The size limit of the files, in bytes. A token has at most 12 KiB, a credential configuration less.
const LONGEST: u64 = 64 << 10;
/// A variable of the step, which a shell inside the step keeps.
const KEPT: &str = "ENROOT_CONFIG_PATH";
/// The keys of the status file with their variables.
const STATUS: [(&str, &str); 2] =
    [("identity", "GCP_WIF_SERVICE_ACCOUNT"), ("expiry", "GOOGLE_OAUTH_ACCESS_TOKEN_EXPIRES_AT")];
const METADATA: [&str; 3] = ["GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"];

/// Print the current job's variables, for a shell that was started by ssh: eval "$(gcp-wif env)"
///
/// The job is the one in SLURM_JOB_ID, or else the one in whose cgroup this shell runs, or else your only job with
/// credentials on this node. Run it as the job's user.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The site configuration [default: the one that plugstack.conf names, or /etc/slurm/gcp-wif.json]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: Arguments, json: bool, screen: &mut Screen<'_>) -> Status {
    let plugstack = Plugstack::of_node().ok();
    // Users may be unable to read the site configuration. Then the default runtime directory and the project in the
    // identity's email are used.
    let config = Config::load(&super::config_path(arguments.config, plugstack.as_ref())).ok();
    let runtime_dir = config.as_ref().map_or(Path::new(DEFAULT_RUNTIME_DIR), |config| &config.runtime_dir);
    let variable = |name: &str| std::env::var(name).ok();
    let shell = Shell { jobs: &runtime_dir.join("jobs"), proc: &ProcFs::default(), variable: &variable };
    let found = shell.job().and_then(|job| Ok((job, shell.environment(job, config.as_ref())?)));
    match found {
        Ok((job, environment)) => {
            let changes = environment::changes(&environment, true, &variable);
            if json {
                screen.json(&object(job, &changes));
            } else {
                changes.iter().for_each(|change| screen.line(&statement(change)));
            }
            Status::Success
        }
        Err(problem) => {
            screen.complain(&format!("gcp-wif env: {}", clip(&problem, 1200)));
            Status::Failure
        }
    }
}

/// The shell that runs the command.
struct Shell<'a> {
    /// The directory with all jobs' directories.
    jobs: &'a Path,
    proc: &'a ProcFs,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl Shell<'_> {
    /// Finds the shell's job.
    fn job(&self) -> Result<JobId, String> {
        for name in ["SLURM_JOB_ID", "SLURM_JOBID"] {
            if let Some(text) = (self.variable)(name).filter(|text| !text.is_empty()) {
                let number = text.parse().map_err(|_| format!("{name}: \"{}\" is not a job ID", clip(&text, 40)));
                return number.map(JobId);
            }
        }
        if let Some(job) = self.proc.own_cgroups().and_then(|text| cgroup_job(&text)) {
            return Ok(job);
        }
        let choices = self.choices();
        let mut rest = choices.iter().copied();
        match (rest.next(), rest.next()) {
            (Some(job), None) => Ok(job),
            (None, _) => {
                Err("you have no job with credentials on this node; set SLURM_JOB_ID (squeue --me)".to_owned())
            }
            _ => {
                let choices = choices.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(format!("several of your jobs have credentials on this node; set SLURM_JOB_ID to one of {choices}"))
            }
        }
    }

    /// Returns the jobs of this user's processes that have credentials here. Users cannot list the jobs' directory.
    fn choices(&self) -> BTreeSet<JobId> {
        let me = rustix::process::geteuid().as_raw();
        let own = self.proc.pids().into_iter().filter(|pid| self.proc.owner(*pid) == Some(me));
        own.filter_map(|pid| environ_job(&self.proc.environment(pid)?))
            .filter(|job| self.directory(*job).join(ACCESS_TOKEN_FILE).exists())
            .collect()
    }

    fn directory(&self, job: JobId) -> PathBuf {
        self.jobs.join(job.to_string())
    }

    /// Builds the variables of the job's steps, as far as the user can read their values.
    fn environment(&self, job: JobId, config: Option<&Config>) -> Result<Environment, String> {
        let mut directory = self.directory(job);
        let mut environment = Environment::new();
        // A step with another identity than the job's keeps it.
        let own = (self.variable)("GCP_WIF_ACCESS_TOKEN_FILE").map(PathBuf::from);
        if let Some(step) = own.as_deref().and_then(Path::parent).filter(|step| step.starts_with(&directory)) {
            directory = step.to_owned();
            let kept = (self.variable)(KEPT).filter(|_| environment::is_ours(KEPT, self.variable));
            environment.extend(kept.map(|value| (KEPT, Secret::new(value))));
        }
        let read = |name: &str| {
            let refused =
                |why: &dyn std::fmt::Display| format!("job {job} has no credentials for you on this node: {why}");
            let bytes = read_limited(&directory.join(name), LONGEST).map_err(|error| refused(&error))?;
            String::from_utf8(bytes).map(Secret::new).map_err(|_| refused(&"they are not text"))
        };
        let path = |name: &str| Secret::new(directory.join(name).to_string_lossy().into_owned());
        environment.insert("GOOGLE_OAUTH_ACCESS_TOKEN", read(ACCESS_TOKEN_FILE)?);
        environment.insert("GCP_WIF_ACCESS_TOKEN_FILE", path(ACCESS_TOKEN_FILE));
        environment.insert("CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE", path(CREDENTIALS_FILE));
        if let Some(address) = metadata_address(read(CREDENTIALS_FILE)?.expose(), &directory) {
            environment.extend(METADATA.map(|name| (name, Secret::new(address.clone()))));
        }
        let status = read(STATUS_FILE)?;
        let told = |key: &str| status.expose().lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        for (key, name) in STATUS {
            environment.extend(told(key).map(|value| (name, Secret::new(value.to_owned()))));
        }
        if told("adc") != Some(&Adc::Metadata.to_string()) {
            environment.insert("GOOGLE_APPLICATION_CREDENTIALS", path(CREDENTIALS_FILE));
        }
        let identity = environment.get("GCP_WIF_SERVICE_ACCOUNT");
        let identitys = || ServiceAccountEmail::parse(identity?.expose()).ok()?.project();
        if let Some(project) = config.and_then(|config| config.project.clone()).or_else(identitys) {
            environment.extend(environment::PROJECT.map(|name| (name, Secret::new(project.clone()))));
        }
        Ok(environment)
    }
}

/// Returns the address at which the agent serves the job, if it does. In this case, the subject token file is in the
/// job's directory.
fn metadata_address(credentials: &str, directory: &Path) -> Option<String> {
    let value: Value = serde_json::from_str(credentials).ok()?;
    let source = Path::new(value.pointer("/credential_source/file")?.as_str()?);
    let address = value.get("token_url")?.as_str()?.strip_prefix("http://")?.split('/').next()?;
    source.starts_with(directory).then(|| address.to_owned())
}

/// Finds the path component `job_123` in the cgroups of a process, in version 1 or 2.
fn cgroup_job(text: &str) -> Option<JobId> {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).find_map(|part| part.strip_prefix("job_")?.parse().ok().map(JobId))
}

fn environ_job(environ: &[u8]) -> Option<JobId> {
    let mut entries = environ.split(|byte| *byte == 0);
    let value = entries.find_map(|entry| entry.strip_prefix(b"SLURM_JOB_ID="))?;
    std::str::from_utf8(value).ok()?.parse().ok().map(JobId)
}

fn statement(change: &Change) -> String {
    match change {
        Change::Set(name, value) => format!("export {name}='{}'", value.expose().replace('\'', "'\\''")),
        Change::Unset(name) => format!("unset {name}"),
    }
}

fn object(job: JobId, changes: &[Change]) -> Value {
    let (mut environment, mut unset) = (serde_json::Map::new(), Vec::new());
    for change in changes {
        match change {
            Change::Set(name, value) => drop(environment.insert((*name).to_owned(), json!(value.expose()))),
            Change::Unset(name) => unset.push(*name),
        }
    }
    json!({"job": job, "environment": environment, "unset": unset})
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_job_is_found_in_both_cgroup_versions() {
        for (text, job) in [
            ("0::/system.slice/slurmstepd.scope/job_123/step_extern/user/task_0\n", Some(123)),
            ("9:pids:/\n8:memory:/slurm/uid_1000/job_42/step_0/task_0\n", Some(42)),
            ("0::/user.slice/user-1000.slice/session-1.scope\n", None),
            ("0::/jobs/job_x/myjob_5\n", None),
            ("job_5\n", None),
        ] {
            assert_eq!(cgroup_job(text), job.map(JobId), "{text}");
        }
    }

    #[test]
    fn without_a_job_id_the_users_processes_tell_the_job() {
        let directory = gcp_wif_core::testing::directory();
        let (jobs, proc) = (directory.join("jobs"), directory.join("proc"));
        let with_credentials = |job: &str| {
            fs::create_dir_all(jobs.join(job)).unwrap();
            fs::write(jobs.join(job).join("access_token"), "t").unwrap();
        };
        let process = |pid: &str, environ: &str| {
            fs::create_dir_all(proc.join(pid)).unwrap();
            fs::write(proc.join(pid).join("environ"), environ).unwrap();
        };
        let shell = Shell { jobs: &jobs, proc: &ProcFs::at(&proc), variable: &|_| None };
        assert!(shell.job().unwrap_err().contains("set SLURM_JOB_ID (squeue --me)"));
        process("10", "A=B\0SLURM_JOB_ID=7\0");
        process("11", "SLURM_JOB_ID=7\0");
        process("12", "SLURM_JOB_ID=8\0");
        process("13", "XSLURM_JOB_ID=9\0");
        with_credentials("7");
        with_credentials("9");
        assert_eq!(shell.job(), Ok(JobId(7)));
        with_credentials("8");
        assert!(shell.job().unwrap_err().ends_with("set SLURM_JOB_ID to one of 7, 8"));
        let named = |name: &str| (name == "SLURM_JOBID").then(|| "8".to_owned());
        assert_eq!(Shell { variable: &named, ..shell }.job(), Ok(JobId(8)));
        let wrong = |name: &str| (name == "SLURM_JOB_ID").then(|| "8/..".to_owned());
        assert!(Shell { variable: &wrong, ..shell }.job().unwrap_err().contains("is not a job ID"));
    }

    #[test]
    fn a_step_keeps_its_identity() {
        let directory = gcp_wif_core::testing::directory();
        let below = directory.join("7/b@p.iam.gserviceaccount.com");
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join("access_token"), "second").unwrap();
        fs::write(below.join("credentials.json"), "{}").unwrap();
        let status = "state=fresh\nidentity=b@p.iam.gserviceaccount.com\nexpiry=2026-11-23T18:00:00Z\n";
        fs::write(below.join("status"), status).unwrap();
        let file = below.join("access_token").display().to_string();
        let own = |name: &str| (name == "GCP_WIF_ACCESS_TOKEN_FILE").then(|| file.clone());
        let shell = Shell { jobs: &directory, proc: &ProcFs::at(&directory), variable: &own };
        let environment = shell.environment(JobId(7), None).unwrap();
        assert_eq!(environment["GOOGLE_OAUTH_ACCESS_TOKEN"].expose(), "second");
        assert_eq!(environment["GCP_WIF_SERVICE_ACCOUNT"].expose(), "b@p.iam.gserviceaccount.com");
        assert_eq!(environment["GOOGLE_OAUTH_ACCESS_TOKEN_EXPIRES_AT"].expose(), "2026-11-23T18:00:00Z");
        assert!(shell.environment(JobId(70), None).unwrap_err().starts_with("job 70 has no credentials for you"));
    }

    #[test]
    fn the_agents_address_is_read_from_the_jobs_credentials() {
        let text = |file: &str| {
            json!({"token_url": "http://127.0.0.1:4321/v1/token", "credential_source": {"file": file}}).to_string()
        };
        let address = |file: &str| metadata_address(&text(file), Path::new("/run/gcp-wif/jobs/7"));
        assert_eq!(address("/run/gcp-wif/jobs/7/handle"), Some("127.0.0.1:4321".to_owned()));
        assert_eq!(address("/var/run/secrets/tokens/token"), None);
        assert_eq!(address("/run/gcp-wif/jobs/70/handle"), None);
    }

    #[test]
    fn quotes_in_values_are_escaped() {
        let change = Change::Set("GCP_WIF_SERVICE_ACCOUNT", Secret::new("a'; rm -rf ~; '".to_owned()));
        assert_eq!(statement(&change), r"export GCP_WIF_SERVICE_ACCOUNT='a'\''; rm -rf ~; '\'''");
    }
}
