//! Compares lines that users read with the files in `tests/golden`. `BLESS=1` rewrites the files.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::site::Site;

/// Collects lines, then compares them.
pub struct Golden {
    name: &'static str,
    seen: String,
}

impl Golden {
    /// The golden file `tests/golden/NAME.txt`.
    pub fn new(name: &'static str) -> Self {
        Self { name, seen: String::new() }
    }

    /// Adds a case with the line that the user read, without the parts that differ between runs.
    pub fn add(&mut self, case: &str, line: &str, site: &Site) {
        writeln!(self.seen, "{case}\n    {}", stable(line, site)).expect("a string can be written to");
    }

    /// Panics with the first difference unless the file has the same lines.
    #[track_caller]
    pub fn check(self) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{}.txt", self.name));
        if std::env::var_os("BLESS").is_some() {
            fs::create_dir_all(path.parent().expect("the path has a parent")).expect("tests/golden can be made");
            fs::write(&path, &self.seen).expect("the golden file can be written");
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        let (mut seen, mut expected) = (self.seen.lines(), golden.lines());
        let mut case = "";
        loop {
            let pair = (seen.next(), expected.next());
            if pair == (None, None) {
                break;
            }
            assert_eq!(pair.0, pair.1, "{} differs (left: seen, right: golden), case: {case}", path.display());
            case = pair.0.filter(|line| !line.starts_with(' ')).unwrap_or(case);
        }
    }
}

/// Replaces what differs between runs by names: ports, project numbers, times, and the release of Slurm.
fn stable(line: &str, site: &Site) -> String {
    let line = line.replace(&site.cluster.dir().display().to_string(), "CLUSTER");
    let line = line.replace(site.google.audience().trim_start_matches('/'), "iam.googleapis.com/PROVIDER");
    let mut stable = String::new();
    let mut rest = line.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, digits) = rest.split_at(start);
        let (number, after) = digits.split_at(digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()));
        stable.push_str(before);
        stable.push_str(match number.len() {
            _ if after.starts_with(" seconds ago") => "SOME",
            4.. if stable.ends_with("127.0.0.1:") => "PORT",
            7.. => "NUMBER",
            _ => number,
        });
        rest = after;
    }
    stable.push_str(rest);
    // The tests can run with any release of Slurm.
    for before in ["this node has ", "the headers of "] {
        stable = without_release(&stable, before);
    }
    stable.replace(env!("CARGO_PKG_VERSION"), "VERSION")
}

fn without_release(text: &str, behind: &str) -> String {
    match text.split_once(behind) {
        Some((before, after)) => {
            format!("{before}{behind}RELEASE{}", after.trim_start_matches(|c| "0123456789.".contains(c)))
        }
        None => text.to_owned(),
    }
}
