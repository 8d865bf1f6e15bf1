//! A job behind a proxy: what is for its port of the agent must not go there.
//!
//! Clients send a request to `http://127.0.0.1` to the proxy as well, unless `no_proxy` or `NO_PROXY` excepts the
//! address. Most of them prefer one of the two names and look at the other one only where that is not set.
#![forbid(unsafe_code)]

use super::Environment;
use crate::words::secret::Secret;

/// Where the agent serves jobs.
const ADDRESS: &str = "127.0.0.1";

/// The variables that name a proxy.
const PROXIES: [&str; 6] = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// The exceptions that a job needs besides the user's own, whose variables `own` gives; nothing where it needs none.
pub(super) fn exceptions(own: &dyn Fn(&str) -> Option<String>) -> Environment {
    let own = |name: &str| own(name).filter(|value| !value.is_empty());
    if !PROXIES.iter().any(|name| own(name).is_some()) {
        return Environment::new();
    }
    let mut exceptions = Environment::new();
    for (name, other) in [("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")] {
        let value = own(name);
        // A client that now finds this name must find in it what it has found under the other one.
        let extended = with_address(&value.clone().or_else(|| own(other)).unwrap_or_default());
        if value.as_deref() != Some(&extended) {
            exceptions.insert(name, Secret::new(extended));
        }
    }
    exceptions
}

/// The list with the address, if it does not except that one already.
fn with_address(list: &str) -> String {
    let separators = [',', ' ', '\t'];
    let has_address = list.trim() == "*" || list.split(separators).any(|entry| entry == ADDRESS);
    match list.trim_end_matches(separators) {
        _ if has_address => list.to_owned(),
        "" => ADDRESS.to_owned(),
        entries => format!("{entries},{ADDRESS}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_added_to_what_the_user_has_under_either_name() {
        const PROXY: (&str, &str) = ("https_proxy", "http://proxy:3128");
        let (lower, upper) = (|value| ("no_proxy", value), |value| ("NO_PROXY", value));
        for (own, expected) in [
            (vec![], vec![]),
            (vec![lower("a")], vec![]),
            (vec![("https_proxy", "")], vec![]),
            (vec![PROXY], vec![upper("127.0.0.1"), lower("127.0.0.1")]),
            (vec![("ALL_PROXY", "x"), lower("a, b,")], vec![upper("a, b,127.0.0.1"), lower("a, b,127.0.0.1")]),
            (vec![PROXY, upper("a b")], vec![upper("a b,127.0.0.1"), lower("a b,127.0.0.1")]),
            (vec![PROXY, upper("a"), lower("")], vec![upper("a,127.0.0.1"), lower("a,127.0.0.1")]),
            (vec![PROXY, upper("a"), lower("b")], vec![upper("a,127.0.0.1"), lower("b,127.0.0.1")]),
            (vec![PROXY, upper("127.0.0.1,a")], vec![lower("127.0.0.1,a")]),
            (vec![PROXY, upper("127.0.0.10")], vec![upper("127.0.0.10,127.0.0.1"), lower("127.0.0.10,127.0.0.1")]),
            (vec![PROXY, upper("*"), lower("*")], vec![]),
        ] {
            let exceptions = exceptions(&|name| own.iter().find(|own| own.0 == name).map(|own| own.1.to_owned()));
            let seen: Vec<_> = exceptions.iter().map(|(name, value)| (*name, value.expose())).collect();
            assert_eq!(seen, expected, "{own:?}");
        }
    }
}
