//! The defences. Each entry has the edits that remove a defence from the code, and the tests that must fail then.
//!
//! The replaced texts are short and contain no comments, so that most changes of the code do not affect them.

mod agent;
mod files;
mod google;
mod input;
mod life;

/// A defence against an attack or a fault.
#[derive(Debug)]
pub struct Defence {
    /// The name, for the command line.
    pub name: &'static str,
    /// The property that the defence ensures.
    pub property: &'static str,
    /// The edits that remove the defence. Several if another defence would take its place.
    pub edits: &'static [Edit],
    /// The tests below `tests/slurm/` that must fail without the defence.
    pub must_fail: &'static [&'static str],
}

/// A replacement of a text that occurs exactly once in a file.
#[derive(Debug)]
pub struct Edit {
    /// The file.
    pub file: &'static str,
    /// The original text.
    pub was: &'static str,
    /// The new text.
    pub becomes: &'static str,
}

const fn edit(file: &'static str, was: &'static str, becomes: &'static str) -> Edit {
    Edit { file, was, becomes }
}

/// Returns all defences.
pub fn all() -> Vec<&'static Defence> {
    [files::DEFENCES, input::DEFENCES, google::DEFENCES, agent::DEFENCES, life::DEFENCES]
        .into_iter()
        .flatten()
        .collect()
}
