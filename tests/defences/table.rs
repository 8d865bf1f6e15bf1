//! Each defence, and how it is taken out: a change of the code without which an attack or a fault does harm, and the
//! tests that must see it.
//!
//! The changed texts are short and of code alone, so that they go on fitting.

mod agent;
mod files;
mod google;
mod input;
mod life;

/// A defence that can be taken out.
#[derive(Debug)]
pub struct Defence {
    /// Its name, for the command line.
    pub name: &'static str,
    /// What the code does no longer.
    pub without: &'static str,
    /// How. More than one where a second defence stands behind the first.
    pub edits: &'static [Edit],
    /// The tests that fail then, below `tests/slurm/`.
    pub red: &'static [&'static str],
}

/// A text of a file, which it has once, and what takes its place.
#[derive(Debug)]
pub struct Edit {
    /// The file.
    pub file: &'static str,
    /// The text as it is.
    pub was: &'static str,
    /// The text as it becomes.
    pub becomes: &'static str,
}

const fn edit(file: &'static str, was: &'static str, becomes: &'static str) -> Edit {
    Edit { file, was, becomes }
}

/// All of them.
pub fn all() -> Vec<&'static Defence> {
    [files::DEFENCES, input::DEFENCES, google::DEFENCES, agent::DEFENCES, life::DEFENCES]
        .into_iter()
        .flatten()
        .collect()
}
