//! Proxy exceptions: requests to a job's port must not go to a proxy.
//!
//! HTTP clients send requests for `http://127.0.0.1` to the proxy too, unless `no_proxy` or `NO_PROXY` excepts the
//! address. Most clients prefer one of the two names and read the other only if the first is not set.
#![forbid(unsafe_code)]

use super::Environment;
use crate::words::secret::Secret;

/// The address at which the agent serves jobs.
const ADDRESS: &str = "127.0.0.1";

/// The variables that name a proxy.
const PROXIES: [&str; 6] = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// Returns the exception variables that a job needs, or none. `own` returns a variable as the user has set it.
pub(super) fn exceptions(own: &dyn Fn(&str) -> Option<String>) -> Environment {
    let own = |name: &str| own(name).filter(|value| !value.is_empty());
    if !PROXIES.iter().any(|name| own(name).is_some()) {
        return Environment::new();
    }
    let mut exceptions = Environment::new();
    for (name, other) in [("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")] {
        let value = own(name);
        // A client that used to fall back to the other name must find the same entries under this one.
        let extended = with_address(&value.clone().or_else(|| own(other)).unwrap_or_default());
        if value.as_deref() != Some(&extended) {
            exceptions.insert(name, Secret::new(extended));
        }
    }
    exceptions
}

/// Returns the list with the address added, unless it already excepts the address.
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
    fn the_address_is_added_to_the_users_exceptions_under_both_names() {
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
