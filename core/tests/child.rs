//! The child process that keeps risky work away from Slurm's own processes.
//!
//! A binary of its own: a forked child holds every lock that other tests of its process hold.

use std::time::Duration;

use gcp_wif_core::world::sys::{ChildError, in_child};
use rustix::process::{Signal, getpid, kill_process};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_long_answer_arrives_whole() {
    assert_eq!(in_child(LIMIT, || vec![b'x'; 200_000]), Ok(vec![b'x'; 200_000]));
}

#[test]
fn a_child_that_is_killed_is_named() {
    let killed = in_child(LIMIT, || {
        let _ = kill_process(getpid(), Signal::KILL);
        Vec::new()
    });
    assert_eq!(killed, Err(ChildError::Died("signal 9".to_owned())));
}

#[test]
fn a_child_that_panics_is_named() {
    assert_eq!(in_child(LIMIT, || panic!("on purpose")), Err(ChildError::Died("exit status 1".to_owned())));
}

#[test]
fn a_child_without_an_answer_is_named() {
    assert_eq!(in_child(LIMIT, Vec::new), Err(ChildError::Died("exit status 0".to_owned())));
}

#[test]
fn a_child_that_hangs_is_ended() {
    let hanging = in_child(Duration::from_millis(50), || {
        std::thread::sleep(LIMIT);
        Vec::new()
    });
    assert_eq!(hanging, Err(ChildError::Timeout));
}
