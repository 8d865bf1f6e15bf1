//! `.credentials`, a netrc file that enroot passes to curl.
#![forbid(unsafe_code)]

use crate::words::google::RegistryHost;
use crate::words::secret::Secret;

/// The file's name in enroot's configuration directory.
pub const FILE: &str = ".credentials";

/// The user name with which Artifact Registry accepts an access token.
const LOGIN: &str = "oauth2accesstoken";

/// curl's limit for a netrc file, in bytes (`lib/netrc.c`, MAX_NETRC_FILE).
const LONGEST: usize = 128 << 10;
/// curl's limit for a line, in bytes, including its end. curl 7.88 skips a longer line (`netrcbuffer`). Later releases
/// refuse the whole file if a word is this long (MAX_NETRC_TOKEN), so that no login in it works.
const LONGEST_LINE: usize = 4095;

/// The registries that are left out because curl could not read their lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// All registries have a line.
    Nothing,
    /// This number of registries has no line, because the file would be too long.
    Hosts(usize),
    /// No registry has a line, because the token is too long.
    All,
}

/// Returns the user's lines, unchanged, followed by a line for each host that they do not name, within curl's limits.
///
/// curl stops its search at a `default` entry, so the new lines come before it. A `macdef` extends to the next blank
/// line, so one is added.
pub fn merge(users: &Secret, hosts: &[RegistryHost], token: &Secret) -> (Secret, LeftOut) {
    let text = users.expose();
    let own = Own::read(text);
    let (before, after) = text.split_at(own.default_entry);
    let mut merged = String::with_capacity(text.len() + hosts.len() * (token.expose().len() + 80));
    merged.push_str(before);
    if !before.is_empty() && !before.ends_with('\n') {
        merged.push('\n');
    }
    if own.ends_in_macro {
        merged.push('\n');
    }
    let (mut left_out, mut is_line_too_long) = (0, false);
    for host in hosts.iter().filter(|host| !own.machines.iter().any(|own| own == host.as_str())) {
        let line = format!("machine {} login {LOGIN} password {}\n", host.as_str(), token.expose());
        if line.len() > LONGEST_LINE {
            is_line_too_long = true;
        } else if merged.len() + line.len() + after.len() < LONGEST {
            merged.push_str(&line);
        } else {
            left_out += 1;
        }
    }
    merged.push_str(after);
    let left_out = match left_out {
        _ if is_line_too_long => LeftOut::All,
        0 => LeftOut::Nothing,
        count => LeftOut::Hosts(count),
    };
    (Secret::new(merged), left_out)
}

/// What the user's file has, as curl reads it (`lib/netrc.c`).
struct Own {
    /// The hosts that have an entry, which may go over several lines.
    machines: Vec<String>,
    /// Where a `default` entry begins, else the end. The end of another entry may be on the same line.
    default_entry: usize,
    /// Whether a macro goes on until the end.
    ends_in_macro: bool,
}

impl Own {
    fn read(text: &str) -> Self {
        let mut own = Self { machines: Vec::new(), default_entry: text.len(), ends_in_macro: false };
        let (mut at, mut before) = (0, String::new());
        for line in text.split_inclusive('\n') {
            // A macro ends with an empty line.
            if own.ends_in_macro {
                own.ends_in_macro = !line.starts_with(['\n', '\r']);
            } else {
                for (place, word) in words(line) {
                    let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
                    before = match before.as_str() {
                        "machine" => {
                            own.machines.push(word.to_ascii_lowercase());
                            String::new()
                        }
                        // A value, even if it reads like a keyword.
                        "login" | "password" | "account" => String::new(),
                        _ if is("default") => {
                            own.default_entry = own.default_entry.min(at + place);
                            String::new()
                        }
                        _ if is("macdef") => {
                            own.ends_in_macro = true;
                            break;
                        }
                        _ => word.to_ascii_lowercase(),
                    };
                }
            }
            at += line.len();
        }
        own
    }
}

/// The words of a line up to a comment, and where they begin. Blanks and `#` can be in quotes.
fn words(line: &str) -> Vec<(usize, String)> {
    let (mut words, mut rest) = (Vec::new(), line.trim_start());
    while !rest.is_empty() && !rest.starts_with('#') {
        let place = line.len() - rest.len();
        let (mut word, mut escaped) = (String::new(), false);
        let quoted = rest.strip_prefix('"');
        let mut characters = quoted.unwrap_or(rest).chars();
        for character in characters.by_ref() {
            match character {
                _ if escaped => {
                    escaped = false;
                    word.push(character);
                }
                '\\' if quoted.is_some() => escaped = true,
                '"' if quoted.is_some() => break,
                _ if quoted.is_none() && character.is_whitespace() => break,
                _ => word.push(character),
            }
        }
        words.push((place, word));
        rest = characters.as_str().trim_start();
    }
    words
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
    fn the_users_lines_come_first_and_keep_their_hosts() {
        for (users, expected) in [
            ("", format!("{EU}{US}")),
            ("machine nvcr.io login a password b", format!("machine nvcr.io login a password b\n{EU}{US}")),
            ("macdef x\nput y", format!("macdef x\nput y\n\n{EU}{US}")),
            ("macdef x\nput y\n\n", format!("macdef x\nput y\n\n{EU}{US}")),
            (
                "macdef x\ndefault y\nmachine eu.gcr.io\n\n",
                format!("macdef x\ndefault y\nmachine eu.gcr.io\n\n{EU}{US}"),
            ),
            ("machine \"eu.gcr.io\" login \"a # b\"", format!("machine \"eu.gcr.io\" login \"a # b\"\n{US}")),
            ("Machine EU.gcr.io\nDefault login c", format!("Machine EU.gcr.io\n{US}Default login c")),
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
            (
                "machine x login a\npassword b default login c password d\n",
                format!("machine x login a\npassword b \n{EU}{US}default login c password d\n"),
            ),
        ] {
            assert_eq!(merged(users), expected, "{users:?}");
        }
    }

    #[test]
    fn the_file_stays_short_enough_for_curl() {
        let hosts = crate::plan::enroot::registries::of_google();
        let merged = |length: usize| merge(&Secret::new(String::new()), &hosts, &Secret::new("x".repeat(length)));
        assert_eq!(merged(1200).1, LeftOut::Nothing);
        let (text, left_out) = merged(4000);
        assert!(text.expose().len() < LONGEST, "{}", text.expose().len());
        let named: Vec<&str> = text.expose().lines().filter_map(|line| line.split(' ').nth(1)).collect();
        let first: Vec<&str> = hosts.iter().map(RegistryHost::as_str).take(32).collect();
        assert_eq!((named, left_out), (first, LeftOut::Hosts(hosts.len() - 32)));
    }

    #[test]
    fn a_token_that_curl_cannot_read_does_not_break_the_users_logins() {
        const OWN: &str = "machine nvcr.io login a password b\n";
        let host = [RegistryHost::try_from("gcr.io".to_owned()).unwrap()];
        let longest = LONGEST_LINE - "machine gcr.io login oauth2accesstoken password \n".len();
        let merged = |bytes| merge(&Secret::new(OWN.to_owned()), &host, &Secret::new("x".repeat(bytes)));
        assert_eq!(merged(longest).1, LeftOut::Nothing);
        let (text, left_out) = merged(longest + 1);
        assert_eq!((text.expose(), left_out), (OWN, LeftOut::All));
    }
}
