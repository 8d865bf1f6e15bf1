//! The fuzz targets for the plugin's options and clients' scopes.

use gcp_wif_core::plan::report::Failure;
use gcp_wif_core::policy::request::{Options, Request};
use gcp_wif_core::words::google::Scope;
use gcp_wif_core::words::names::JobId;
use gcp_wif_core::world::fs::Place;

use crate::fixtures::{FEDERATED, IMPERSONATES, grant};
use crate::line;

/// Checks options. The first line has the flags of the step and, after a space, of the job: `+` for `--gcp-wif`, `-`
/// for `--no-gcp-wif`, and `0` for no `--gcp-wif-service-account`. The rest is the value of
/// `--gcp-wif-service-account`.
pub(crate) fn option(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (flags, value) = text.split_once('\n').unwrap_or(("", &text));
    let (step, job) = flags.split_once(' ').unwrap_or((flags, ""));
    let options = |flags: &str| Options {
        wanted: flags.contains('+'),
        refused: flags.contains('-'),
        service_account: (!flags.contains('0')).then(|| value.to_owned()),
    };
    let (step, job) = (options(step), options(job));
    for request in [step.request(), Request::of_step(&step, &job, None), Request::of_step(&step, &job, Some(&job))] {
        match request {
            Err(error) => {
                line::check(&error.to_string(), line::LONGEST_PROBLEM);
                line::check_failure(&Failure::from(error));
            }
            Ok(Request::Wanted { service_account: Some(email) }) => {
                assert_eq!(email.as_str(), value);
                assert!(value.len() <= 254 && !value.contains(['/', '\0', '\n', ' ', '$']), "{value:?}");
                // The email becomes the name of a directory.
                let place = Place { job: JobId(7), below: Some(email) };
                let text = serde_json::to_string(&place).unwrap();
                assert_eq!(serde_json::from_str::<Place>(&text).unwrap(), place);
            }
            Ok(_) => {}
        }
    }
}

/// Checks a list of scopes from a client.
pub(crate) fn scopes(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match gcp_wif::fuzzing::scopes(&text) {
        Err(problem) => line::check(&problem, line::LONGEST_PROBLEM),
        Ok(scopes) => {
            for scope in &scopes {
                line::check(scope.as_str(), 256);
                assert!(!scope.as_str().contains([' ', ',', '"', '\\']), "{scope:?}");
            }
            let joined: Vec<&str> = scopes.iter().map(Scope::as_str).collect();
            assert_eq!(gcp_wif::fuzzing::scopes(&joined.join(" ")).as_ref(), Ok(&scopes));
            for site in [&*FEDERATED, &*IMPERSONATES] {
                let granted = grant(site).for_scopes(scopes.clone());
                assert!(!granted.scopes().is_empty());
                assert_eq!(granted.identity(), grant(site).identity());
            }
        }
    }
}
