//! Tokens that a job's clients request.

use super::*;
use crate::exchange::Purpose;
use crate::job::requested::{Had, Requested};
use crate::plan::report::Blame;
use crate::policy::grant::Grant;
use crate::words::google::Scope;

const AUDIENCE: Purpose<'_> = Purpose::IdToken("https://example.org");
/// The age up to which a token of an hour is handed out.
const HANDED_OUT: i64 = 3240;

fn scope(name: &str) -> Scope {
    format!("https://www.googleapis.com/auth/{name}").try_into().unwrap()
}

/// A machine with a job.
fn running() -> Machine {
    let machine = Machine::new(r#", "delivery": "agent""#);
    machine.prolog(&wanted());
    machine
}

/// Returns what a client of a job gets, with the log lines.
fn ask_for(
    machine: &Machine,
    facts: &JobFacts,
    scopes: &[&str],
    purpose: Purpose<'_>,
) -> (Result<String, Failure>, Vec<String>) {
    let (host, runtime, record) = (FakeHost::default(), machine.runtime(), machine.record());
    let grant = record.issued[0].grant.for_scopes(scopes.iter().map(|name| scope(name)).collect());
    let result = machine.serve(|node| {
        let requested =
            Requested { node, log: &host, runtime: &runtime, facts, run: record.run, grant: &grant, purpose };
        match requested.had()? {
            Had::Token(token) => Ok(token),
            Had::Failure(failure) => Err(failure),
            Had::Ending(living) => requested.obtain().or_else(|failure| living.ok_or(failure)),
        }
    });
    (result.map(|token| token.secret().expose().to_owned()), host.log.take())
}

fn ask(machine: &Machine, scopes: &[&str], purpose: Purpose<'_>) -> Result<String, Failure> {
    ask_for(machine, &facts(), scopes, purpose).0
}

fn exchanges(machine: &Machine) -> u32 {
    machine.google.exchanges.get()
}

#[test]
fn each_set_of_scopes_and_each_audience_causes_one_exchange() {
    let machine = running();
    let drive = ask(&machine, &["drive", "bigquery"], Purpose::AccessToken).unwrap();
    for order in [["drive", "bigquery"], ["bigquery", "drive"]] {
        assert_eq!(ask(&machine, &order, Purpose::AccessToken).as_ref(), Ok(&drive));
    }
    assert_eq!(machine.google.grants.borrow()[1].scopes(), [scope("drive"), scope("bigquery")]);
    let id = ask(&machine, &[], AUDIENCE).unwrap();
    assert_eq!(ask(&machine, &[], AUDIENCE).as_ref(), Ok(&id));
    assert!(id.ends_with("for https://example.org"), "{id}");
    assert!(ask(&machine, &[], Purpose::IdToken("https://example.com")).unwrap() != id);
    assert!(ask(&machine, &["drive"], Purpose::AccessToken).unwrap() != drive);
    // One for the job's token, and four more.
    assert_eq!(exchanges(&machine), 5);
    // Another job of the same user shares the tokens; another user's job does not.
    let another = |uid| JobFacts { job: JobId(8), uid, ..facts() };
    assert_eq!(ask_for(&machine, &another(61001), &[], AUDIENCE).0.as_ref(), Ok(&id));
    assert!(ask_for(&machine, &another(61002), &[], AUDIENCE).0.unwrap() != id);
}

#[test]
fn a_token_is_handed_out_until_shortly_before_its_expiry_and_during_an_outage_until_its_expiry() {
    for purpose in [Purpose::AccessToken, AUDIENCE] {
        let machine = running();
        let first = ask(&machine, &["drive"], purpose).unwrap();
        machine.wait(HANDED_OUT);
        assert_eq!(ask(&machine, &["drive"], purpose).as_ref(), Ok(&first));
        machine.wait(1);
        machine.google.fails.set(true);
        for _ in 0..2 {
            assert_eq!(ask(&machine, &["drive"], purpose).as_ref(), Ok(&first));
        }
        // The failure holds for ten seconds.
        assert_eq!(exchanges(&machine), 3);
        machine.wait(3600 - HANDED_OUT - 1);
        let failure = ask(&machine, &["drive"], purpose).unwrap_err();
        assert_eq!(failure.cause, "no answer");
        machine.google.fails.set(false);
        machine.wait(10);
        assert!(ask(&machine, &["drive"], purpose).unwrap() != first);
    }
}

#[test]
fn a_revoked_grant_ends_open_id_tokens_at_once_and_access_tokens_at_their_expiry() {
    let machine = running();
    let (id, drive) = (ask(&machine, &[], AUDIENCE).unwrap(), ask(&machine, &["drive"], Purpose::AccessToken));
    machine.configure(r#", "delivery": "agent", "rules": [{"users": ["bob"]}]"#);
    let refused = ask(&machine, &[], AUDIENCE).unwrap_err();
    assert_eq!(refused.blame, Blame::User, "{refused}");
    assert_eq!(ask(&machine, &["drive"], Purpose::AccessToken), drive);
    machine.wait(HANDED_OUT + 1);
    assert_eq!(ask(&machine, &["drive"], Purpose::AccessToken), drive);
    assert!(ask(&machine, &["bigquery"], Purpose::AccessToken).is_err());
    assert_eq!(exchanges(&machine), 3, "Google was asked in spite of the rules");
    machine.wait(3600);
    assert!(ask(&machine, &["drive"], Purpose::AccessToken).is_err());
    machine.configure(r#", "delivery": "agent""#);
    assert!(ask(&machine, &[], AUDIENCE).unwrap() != id);
}

#[test]
fn the_number_of_a_users_kept_tokens_is_limited() {
    let machine = running();
    let ask = |number: usize| ask(&machine, &[], Purpose::IdToken(&format!("https://{number}.example")));
    // One is the job's access token.
    for number in 1..256 {
        ask(number).unwrap();
    }
    let refused = ask(256).unwrap_err();
    assert!(refused.to_string().contains("256 of your tokens"), "{refused}");
    ask(1).unwrap();
    assert_eq!((exchanges(&machine), machine.runtime().kept().len()), (256, 256));
    assert!(ask_for(&machine, &JobFacts { uid: 61002, ..facts() }, &[], AUDIENCE).0.is_ok());
    machine.wait(3600);
    machine.serve(|node| crate::job::obtain::sweep(node.clock, &machine.runtime()));
    ask(256).unwrap();
}

#[test]
fn each_exchange_for_a_client_is_logged_with_scopes_or_audience() {
    let machine = running();
    let lines = |scopes: &[&str], purpose| ask_for(&machine, &facts(), scopes, purpose).1;
    let line = lines(&["drive"], Purpose::AccessToken).concat();
    let field = " identity=site@p.iam.gserviceaccount.com scopes=https://www.googleapis.com/auth/drive source=google ";
    assert!(line.contains(field) && line.contains("outcome=issued"), "{line}");
    assert!(lines(&["drive"], Purpose::AccessToken).is_empty());
    let line = lines(&[], Purpose::IdToken("a b\n=c")).concat();
    assert!(line.contains(" audience=a_b_=c source=google ") && !line.contains('\n'), "{line}");
    machine.google.fails.set(true);
    let line = lines(&["bigquery"], Purpose::AccessToken).concat();
    assert!(line.contains("outcome=failed") && line.ends_with("error=\"no answer\""), "{line}");
}

#[test]
fn a_clients_exchange_uses_the_jobs_grant() {
    let machine = running();
    ask(&machine, &["drive"], Purpose::AccessToken).unwrap();
    let grants = machine.google.grants.borrow();
    let [own, other]: &[Grant; 2] = grants[..].try_into().unwrap();
    assert_eq!(own.for_scopes(vec![scope("drive")]), *other);
}
