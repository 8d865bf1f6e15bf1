//! `.credentials`, a netrc file that enroot hands to curl.
#![forbid(unsafe_code)]

use crate::words::google::RegistryHost;
use crate::words::secret::Secret;

/// Its name in enroot's configuration directory.
pub const FILE: &str = ".credentials";

/// The user name under which Artifact Registry takes an access token.
const LOGIN: &str = "oauth2accesstoken";

/// The longest netrc file that curl reads (`lib/netrc.c`, MAX_NETRC_FILE).
const LONGEST: usize = 128 << 10;

/// The user's lines, unchanged and first, then a line for each host that the user has none for. Also returns how many
/// hosts are left out because the file would be too long for curl.
///
/// A `default` entry ends the search of netrc, so ours go before it; a `macdef` goes on until a blank line.
pub fn merge(users: &Secret, hosts: &[RegistryHost], token: &Secret) -> (Secret, usize) {
    let text = users.expose();
    let (before, after) = text.split_at(default_entry(text));
    let mut merged = String::with_capacity(text.len() + hosts.len() * (token.expose().len() + 80));
    merged.push_str(before);
    if !before.is_empty() && !before.ends_with('\n') {
        merged.push('\n');
    }
    if before.contains("macdef") {
        merged.push('\n');
    }
    let own = machines(text);
    let mut left_out = 0;
    for host in hosts.iter().filter(|host| !own.contains(&host.as_str())) {
        let line = format!("machine {} login {LOGIN} password {}\n", host.as_str(), token.expose());
        if merged.len() + line.len() + after.len() < LONGEST {
            merged.push_str(&line);
        } else {
            left_out += 1;
        }
    }
    merged.push_str(after);
    (Secret::new(merged), left_out)
}

/// Where the line of a `default` entry begins, else the end.
fn default_entry(text: &str) -> usize {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.split_whitespace().next() == Some("default") {
            return at;
        }
        at += line.len();
    }
    text.len()
}

/// The hosts that have an entry. netrc's entries may go over several lines.
fn machines(text: &str) -> Vec<&str> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut words = lines.flat_map(str::split_whitespace);
    let mut machines = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "machine" => machines.extend(words.next()),
            // What follows is a value, even if it reads like a keyword.
            "login" | "password" | "account" => drop(words.next()),
            _ => {}
        }
    }
    machines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(users: &str) -> String {
        let hosts = ["eu.gcr.io", "us.gcr.io"].map(|host| RegistryHost::try_from(host.to_owned()).unwrap());
        merge(&Secret::new(users.to_owned()), &hosts, &Secret::new("T".to_owned())).0.expose().to_owned()
    }

    const EU: &str = "machine eu.gcr.io login oauth2accesstoken password T\n";
    const US: &str = "machine us.gcr.io login oauth2accesstoken password T\n";

    #[test]
    fn the_users_lines_come_first_and_his_hosts_are_his() {
        for (users, expected) in [
            ("", format!("{EU}{US}")),
            ("machine nvcr.io login a password b", format!("machine nvcr.io login a password b\n{EU}{US}")),
            ("macdef x\nput y", format!("macdef x\nput y\n\n{EU}{US}")),
            ("# machine eu.gcr.io\n", format!("# machine eu.gcr.io\n{EU}{US}")),
            ("machine eu.gcr.io login a password b\n", format!("machine eu.gcr.io login a password b\n{US}")),
            (
                "machine\teu.gcr.io\n  login a\n  password $(x)\n",
                format!("machine\teu.gcr.io\n  login a\n  password $(x)\n{US}"),
            ),
            (
                "machine x login machine password eu.gcr.io\n",
                format!("machine x login machine password eu.gcr.io\n{EU}{US}"),
            ),
            (
                "machine x login a password b\ndefault login c password d\n",
                format!("machine x login a password b\n{EU}{US}default login c password d\n"),
            ),
        ] {
            assert_eq!(merged(users), expected, "{users:?}");
        }
    }

    #[test]
    fn the_file_stays_short_enough_for_curl() {
        let hosts: Vec<_> = (0..52).map(|n| RegistryHost::try_from(format!("r{n}.pkg.dev")).unwrap()).collect();
        let merged = |length: usize| merge(&Secret::new(String::new()), &hosts, &Secret::new("x".repeat(length)));
        assert_eq!(merged(1200).1, 0);
        let (text, left_out) = merged(4000);
        assert!(text.expose().len() < LONGEST && left_out == 20, "{left_out}");
    }
}
