//! Checks the clock, and performs a real exchange.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::report::Report;
use gcp_wif_core::exchange::run;
use gcp_wif_core::exchange::subject_token::SubjectToken;
use gcp_wif_core::exchange::{Exchange, Leg, Wanted};
use gcp_wif_core::plan::report::{Failure, Stage};
use gcp_wif_core::policy::site::Site;
use gcp_wif_core::words::google::{Identity, ServiceAccountEmail};
use gcp_wif_core::words::secret::Secret;
use gcp_wif_core::words::time::rfc3339;
use gcp_wif_core::world::clock::{Clock, SystemClock};
use gcp_wif_core::world::http::Client;

/// The time limit of the request for Google's time.
const PATIENCE: Duration = Duration::from_secs(10);
/// The tolerated clock difference, in seconds. With a larger one, tokens look expired or not yet valid.
const TOLERANCE: i64 = 30;

/// The parameters of the exchange.
pub(super) struct Try<'a> {
    pub(super) site: Option<&'a Site>,
    pub(super) client: Option<&'a Client>,
    pub(super) subject_token: Option<&'a SubjectToken>,
    pub(super) service_account: Option<ServiceAccountEmail>,
}

/// Checks the clock and performs an exchange. Returns the access token for further checks.
pub(super) fn check(report: &mut Report<'_, '_>, attempt: &Try<'_>) -> Option<Secret> {
    match attempt.site.zip(attempt.client) {
        Some((site, client)) => clock(report, site, client),
        None => report.skip(Stage::TokenExchange, "clock", "needs configurations and certificates"),
    }
    match (attempt.site, attempt.client, attempt.subject_token) {
        (Some(site), Some(client), Some(token)) => {
            let asked = attempt.service_account.clone().map(Identity::ServiceAccount);
            exchange(report, site, client, token, &asked.unwrap_or_else(|| site.default_identity()))
        }
        _ => {
            report.skip(Stage::TokenExchange, "exchange", "needs configurations, certificates and the subject token");
            report.skip(Stage::Impersonation, "access token", "needs the token exchange");
            None
        }
    }
}

fn clock(report: &mut Report<'_, '_>, site: &Site, client: &Client) {
    const NAME: &str = "clock";
    const STAGE: Stage = Stage::TokenExchange;
    let limit = site.config.timeout().min(PATIENCE);
    let Some(theirs) = client.time_at(&site.configuration.token_url, limit) else {
        return report.skip(STAGE, NAME, format_args!("{} sends no time", site.configuration.token_url));
    };
    let ahead = SystemClock.now().saturating_sub(theirs.unix_timestamp());
    if ahead.abs() <= TOLERANCE {
        report.ok(STAGE, NAME, "agrees with Google's");
    } else {
        let way = if ahead > 0 { "ahead of" } else { "behind" };
        report.warn(
            STAGE,
            NAME,
            format_args!("this node's is {} seconds {way} Google's; synchronize it with chrony or ntpd", ahead.abs()),
        );
    }
}

fn exchange(
    report: &mut Report<'_, '_>,
    site: &Site,
    client: &Client,
    token: &SubjectToken,
    identity: &Identity,
) -> Option<Secret> {
    let (exchange_name, impersonation_name) = ("exchange", "access token");
    let configuration = &site.configuration;
    let reason = "gcp-wif doctor".to_owned();
    let scopes = site.config.scopes();
    let wanted = Wanted { identity, scopes: &scopes, lifetime: configuration.lifetime() };
    let mut exchange = Exchange::new(configuration, token, wanted, reason);
    let result = run::run(&mut exchange, client, &SystemClock, site.config.timeout());
    let exchanged = !matches!(&result, Err(error) if error.leg == Leg::TokenExchange);
    if exchanged {
        report.ok(Stage::TokenExchange, exchange_name, &configuration.token_url);
    }
    match result {
        Ok(access_token) => {
            let until = rfc3339(access_token.expires_at);
            match identity {
                Identity::ServiceAccount(email) => {
                    report.ok(Stage::Impersonation, impersonation_name, format_args!("{email}, until {until}"));
                }
                Identity::Federated => report.skip(
                    Stage::Impersonation,
                    impersonation_name,
                    format_args!("direct federation: the federated token is the access token, until {until}"),
                ),
            }
            Some(access_token.token)
        }
        Err(error) => {
            let failure = Failure::of_exchange(&error, configuration, token.claims(), identity, SystemClock.now());
            report.failure(if exchanged { impersonation_name } else { exchange_name }, failure, "");
            if !exchanged {
                report.skip(Stage::Impersonation, impersonation_name, "needs the token exchange");
            }
            None
        }
    }
}
