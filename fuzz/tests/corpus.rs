//! Runs each fuzz target with the inputs of its corpus.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

use gcp_wif_fuzz::TARGETS;

/// The limits of a target's corpus.
const MOST_INPUTS: usize = 60;
const MOST_BYTES: usize = 100_000;

#[test]
fn no_input_of_the_corpus_violates_an_invariant() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let (mut inputs, mut bytes) = (0, 0);
        for entry in fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}")) {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            (inputs, bytes) = (inputs + 1, bytes + input.len());
            assert!(catch_unwind(|| target(&input)).is_ok(), "{} violates an invariant", path.display());
        }
        assert!((3..=MOST_INPUTS).contains(&inputs) && bytes <= MOST_BYTES, "{name}: {inputs} inputs, {bytes} bytes");
        target(&[]);
    }
}

#[test]
fn every_corpus_has_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let names = fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let targets = TARGETS.map(|(name, _)| name.to_owned());
    assert_eq!(names.collect::<BTreeSet<_>>(), BTreeSet::from(targets));
}
