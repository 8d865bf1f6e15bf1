//! Prepares a step's enroot configuration, and reads the user's files for it as the user.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::job::issuance::{Issuance, LOCK};
use crate::job::node::{Host, Job};
use crate::job::processes::User;
use crate::plan::adc;
use crate::plan::enroot::credentials::LeftOut;
use crate::plan::enroot::source::{SUBDIRECTORIES, Search, Size, Source};
use crate::plan::enroot::{Mounts, Overlay, credentials, registries};
use crate::plan::environment::{self, Change};
use crate::plan::record::{Issued, JobRecord, StepPart};
use crate::plan::report::Failure;
use crate::policy::config::Delivery;
use crate::policy::facts::JobFacts;
use crate::policy::site::Site;
use crate::words::secret::Secret;
use crate::world::fs::{NewFile, NewTree, Turn};

/// The node's enroot configuration.
const SYSTEM: &str = "/etc/enroot/enroot.conf";

/// The answer of the process that has become the user.
#[derive(Serialize, Deserialize)]
pub(super) struct UsersOwn {
    /// The user's enroot configuration, or the problem with it.
    enroot: Result<Source, String>,
    /// Credentials that client libraries would prefer to the job's.
    adc: Option<PathBuf>,
}

impl UsersOwn {
    /// Returns the warning that client libraries would use other credentials than the job's.
    pub(super) fn warning(&self) -> Option<Failure> {
        self.adc.as_deref().map(Failure::of_users_credentials)
    }
}

impl Issuance<'_> {
    /// Creates the step's enroot configuration from the user's.
    pub(super) fn prepare_containers(
        &self,
        site: &Site,
        step: &str,
        users: &Result<UsersOwn, Failure>,
        issued: &Issued,
        changes: &[Change],
    ) -> Result<(), Failure> {
        let Site { config, configuration } = site;
        let (source, facts) = (&users.as_ref().map_err(Clone::clone)?.enroot, self.facts);
        let source = source.as_ref().map_err(|problem| Failure::of_enroot(problem))?;
        let hosts = config.registries.clone().unwrap_or_else(registries::of_google);
        let jobs = self.runtime.path_of_jobs();
        let subject_token = configuration.subject_token_file.parent().filter(|_| config.delivery == Delivery::Direct);
        let mounts = Mounts { jobs: &jobs, subject_token };
        let size = source.size();
        // A refresh can have replaced the token meanwhile.
        let (locked, record) = self.lock()?;
        let _turn = if size.is_large() { Some(self.turn_within_share(source, facts, step)?) } else { None };
        let issued = record.issued_for(issued.identity()).unwrap_or(issued);
        let overlay = Overlay::new(source, &hosts, issued.token.secret(), mounts, changes);
        match overlay.left_out {
            LeftOut::Nothing => {}
            LeftOut::Hosts(count) => self.log.log(&format!(
                "gcp-wif: files: .credentials would be too long for curl, so {count} registries are left out; set \
                 registries to those in use"
            )),
            LeftOut::All => self.log.log(&format!(
                "gcp-wif: files: the access token of job {} has {} bytes, which is too long for curl in .credentials, \
                 so no registry gets pull credentials",
                facts.job,
                issued.token.secret().expose().len()
            )),
        }
        let mut tree = NewTree { directories: &SUBDIRECTORIES, ..NewTree::default() };
        tree.files
            .push(("", NewFile { name: credentials::FILE, content: overlay.credentials.expose(), is_users: false }));
        for (directory, name, content) in &overlay.files {
            tree.files.push((directory, NewFile { name, content, is_users: false }));
        }
        tree.links
            .extend(overlay.links.iter().map(|(directory, name, target)| (*directory, name.as_str(), target.as_str())));
        let credentials = source.credentials.clone();
        let part = StepPart { identity: issued.identity().clone(), credentials, hosts, size };
        let part = Secret::new(serde_json::to_string(&part).unwrap_or_default());
        Ok(locked.publish_step(step, record.owner(), &tree, part.expose())?)
    }

    /// Waits for the turn to publish a large copy and checks the user's limit. Without the turn, two steps that start
    /// together would not see each other's copies.
    fn turn_within_share(&self, source: &Source, facts: &JobFacts, step: &str) -> Result<Turn, Failure> {
        let turn = self.runtime.turn(LOCK)?;
        source.check_share(self.copies(facts, step)).map_err(|error| Failure::of_enroot(&error.to_string()))?;
        Ok(turn)
    }

    /// Returns the sizes of the copies of the user's other steps on this node.
    fn copies(&self, facts: &JobFacts, step: &str) -> Vec<Size> {
        let mut copies = Vec::new();
        for job in self.runtime.jobs() {
            let mut parts = self.runtime.peek_parts(job);
            parts.retain(|(name, _)| (job, name.as_str()) != (facts.job, step));
            let is_users = || {
                let record = self.runtime.peek_record(job).as_deref().and_then(JobRecord::parse);
                record.is_some_and(|record| record.facts.uid == facts.uid)
            };
            if !parts.is_empty() && is_users() {
                let sizes = parts.iter().filter_map(|(_, part)| Some(StepPart::parse(part)?.size));
                copies.extend(sizes);
            }
        }
        copies
    }

    /// Reads the user's files in a process that has become the user, because root may lack access to the home directory
    /// and must not read files that the user cannot read. Looks for other credentials only if `clients_look`.
    pub(super) fn users_own(&self, host: &dyn Host, job: &Job<'_>, clients_look: bool) -> Result<UsersOwn, Failure> {
        let environment = host.environment();
        let config_path = environment::own_enroot_config_path(&|name| host.variable(name));
        let search = Search { environment: &environment, config_path, system: Path::new(SYSTEM), uid: job.uid };
        let (groups, mut answer) = ((job.groups)()?, Vec::new());
        let user = User { uid: job.uid, gid: job.gid, groups: &groups };
        self.node.processes.as_user(&user, &mut answer, &mut || {
            let adc = if clients_look { adc::users_own(&environment) } else { None };
            let enroot = Source::read(&search).map_err(|error| error.to_string());
            serde_json::to_vec(&UsersOwn { enroot, adc }).unwrap_or_default()
        })?;
        serde_json::from_slice(&zeroize::Zeroizing::new(answer))
            .map_err(|_| Failure::of_enroot("the user's enroot configuration could not be read"))
    }
}
