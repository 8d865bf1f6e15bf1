//! What unit tests share.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test ends with a panic")]

use std::collections::BTreeSet;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::job::processes::Processes;
use crate::plan::record::{Endpoint, Generation, ProcessId};
use crate::plan::report::Failure;
use crate::policy::config::Config;
use crate::policy::facts::JobFacts;
use crate::words::names::JobId;
use crate::words::secret::Secret;

/// A directory of a test's own, removed when it is dropped.
pub struct Directory(PathBuf);

/// Makes a new directory.
pub fn directory() -> Directory {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("gcp-wif-unit-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    Directory(path)
}

impl Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A JWT with this payload and no valid signature.
pub fn jwt(payload: &str) -> String {
    use base64::Engine;
    let part = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(payload), part("signature"))
}

/// Processes that do at once, in this one, what they are asked to.
pub struct FakeProcesses {
    /// The slurmd.
    pub generation: Generation,
    /// Jobs with a living slurmstepd.
    pub living: BTreeSet<JobId>,
    /// Ports that other programs take.
    pub foreign: BTreeSet<u16>,
}

impl Default for FakeProcesses {
    fn default() -> Self {
        let slurmd = ProcessId { pid: 1, start: 1 };
        Self {
            generation: Generation { boot: "boot".to_owned(), slurmd },
            living: BTreeSet::new(),
            foreign: BTreeSet::new(),
        }
    }
}

impl Processes for FakeProcesses {
    fn generation(&self) -> Generation {
        self.generation.clone()
    }

    fn living(&self) -> BTreeSet<JobId> {
        self.living.clone()
    }

    fn this(&self) -> ProcessId {
        ProcessId { pid: 9, start: 9 }
    }

    fn end(&self, _: ProcessId) {}

    fn detach(&self, work: &mut dyn FnMut()) {
        work();
    }

    fn endpoint(&self, taken: &BTreeSet<u16>) -> Result<Endpoint, Failure> {
        let port = (20_001..).find(|port| !taken.contains(port)).unwrap();
        Ok(Endpoint { port, handle: Secret::new("handle".to_owned()) })
    }

    fn wake_agent(&self, _: &Config) -> Result<BTreeSet<u16>, Failure> {
        Ok((0..=u16::MAX).filter(|port| !self.foreign.contains(port)).collect())
    }

    fn tell_agent(&self, _: &Path) {}

    fn as_user(&self, _: &JobFacts, answer: &mut Vec<u8>, work: &mut dyn FnMut() -> Vec<u8>) -> Result<(), Failure> {
        *answer = work();
        Ok(())
    }
}
