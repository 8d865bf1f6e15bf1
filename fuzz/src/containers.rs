//! The fuzz targets for enroot's files.

use gcp_wif_core::plan::enroot::credentials::{LeftOut, merge};
use gcp_wif_core::plan::enroot::source::{Expanded, assignments, expanded, is_expandable};
use gcp_wif_core::words::google::RegistryHost;
use gcp_wif_core::words::secret::Secret;

use crate::fixtures::TOKEN;

const HOSTS: [&str; 2] = ["eu.gcr.io", "us.gcr.io"];

/// Checks the merge of a user's `.credentials`.
pub(crate) fn netrc(bytes: &[u8]) {
    let Ok(users) = std::str::from_utf8(bytes) else { return };
    let hosts = HOSTS.map(|host| RegistryHost::try_from(host.to_owned()).unwrap());
    let (merged, left_out) = merge(&Secret::new(users.to_owned()), &hosts, &Secret::new(TOKEN.to_owned()));
    let merged = merged.expose();
    // The user's text must be complete and in order. The job's entries are inserted into it.
    let ours = |host: &str| format!("machine {host} login oauth2accesstoken password {TOKEN}\n");
    let mut rest = merged.to_owned();
    for host in HOSTS.into_iter().filter(|host| !users.contains(&ours(host))) {
        rest = rest.replacen(&ours(host), "", 1);
    }
    assert_eq!(rest.replace('\n', ""), users.replace('\n', ""));
    assert!(merged.len() < 128 << 10 || left_out != LeftOut::Nothing || users.len() >= 127 << 10);
    // The user's logins must not change.
    for host in HOSTS.into_iter().chain(users.split_whitespace()).take(50) {
        let before = lookup(users, host, true);
        // For the job's registries, the job's entries precede the user's default entry.
        let is_default = HOSTS.contains(&host) && lookup(users, host, false).is_none();
        if before.is_some() && !is_default {
            assert_eq!(lookup(merged, host, true), before, "{host}: {merged}");
        }
    }
    // A second merge must change nothing.
    if left_out == LeftOut::Nothing && users.is_empty() {
        assert_eq!(merge(&Secret::new(merged.to_owned()), &hosts, &Secret::new("T".to_owned())).0.expose(), merged);
    }
}

/// Returns the login and password that curl finds for a host (`parsenetrc` in `lib/netrc.c` of curl 7.88): those of the
/// first matching entry that has both, or of the default entry, if that counts.
fn lookup(text: &str, host: &str, default_counts: bool) -> Option<(String, String)> {
    let (mut login, mut password, mut state) = (None, None, State::Nothing);
    for line in text.lines() {
        if matches!(state, State::Macro) {
            if !line.trim_end_matches('\r').is_empty() {
                continue;
            }
            state = State::Nothing;
        }
        for word in words(line)? {
            let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
            state = match state {
                State::Nothing if is("macdef") => State::Macro,
                State::Nothing | State::Valid if is("machine") => State::Machine,
                State::Nothing if default_counts && is("default") => State::Valid,
                State::Nothing => State::Nothing,
                State::Macro if word.is_empty() => State::Nothing,
                State::Macro => State::Macro,
                State::Machine if is(host) => State::Valid,
                State::Machine => State::Nothing,
                State::Valid if is("login") => State::Login,
                State::Valid if is("password") => State::Password,
                State::Valid => State::Valid,
                State::Login => {
                    login.get_or_insert(word);
                    State::Valid
                }
                State::Password => {
                    password.get_or_insert(word);
                    State::Valid
                }
            };
            if let (State::Valid, Some(login), Some(password)) = (&state, &login, &password) {
                return Some((login.clone(), password.clone()));
            }
        }
    }
    None
}

/// The parser's state between two words.
enum State {
    /// Not in a matching entry.
    Nothing,
    /// In a macro, which ends with an empty line. On the line of `macdef`, an empty word ends it too.
    Macro,
    /// After `machine`.
    Machine,
    /// In a matching entry.
    Valid,
    /// After `login` in a matching entry.
    Login,
    /// After `password` in a matching entry.
    Password,
}

/// Returns the words of a line, or `None` if a quote is not closed, which is an error in curl.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut rest) = (Vec::new(), line.trim_start());
    while !rest.is_empty() && !rest.starts_with('#') {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (mut word, mut characters) = (String::new(), quoted.chars());
            loop {
                match characters.next()? {
                    '"' => break,
                    '\\' => word.push(characters.next()?),
                    character => word.push(character),
                }
            }
            words.push(word);
            rest = characters.as_str().trim_start();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            words.push(rest.get(..end)?.to_owned());
            rest = rest.get(end..)?.trim_start();
        }
    }
    Some(words)
}

/// Checks the expansion of values in a node's enroot.conf.
pub(crate) fn enroot_conf(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let variables = [("HOME", "/home/alice"), ("EMPTY", ""), ("B", "a  b "), ("GLOB", "/*")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for value in assignments(&text).take(20) {
        assert!(!value.is_empty() && !value.contains('\n') && text.contains(value));
        match expanded(value, &variables, 61001) {
            Expanded::To(path) => {
                // The expansion of an unquoted value must have no characters that are special in a shell.
                if !value.contains(['\'', '"', '\\']) {
                    assert!(
                        !path.contains(['`', '$', ';', '&', '|', '<', '>', '(', ')', '*', '?', '{']),
                        "{value}: {path}"
                    );
                }
                assert!(!value.contains("$(") || value.contains(['\'', '\\']), "{value}");
            }
            Expanded::Unset => assert!(value.contains('$'), "{value}"),
            Expanded::NeedsShell => {}
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        if value.chars().all(plain) {
            assert!(
                is_expandable(value) && expanded(value, &variables, 0) == Expanded::To(value.to_owned()),
                "{value}"
            );
        }
    }
}
