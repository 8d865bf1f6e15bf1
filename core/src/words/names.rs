//! Slurm's job and step IDs, the error for invalid names, and the escaping of untrusted text for messages.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

/// The error for a text that is not a valid name of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidName {
    /// What was expected, for example `a service account's email`.
    pub expected: &'static str,
    /// The text as given, escaped and clipped.
    pub given: String,
}

/// The number of characters of the text that the error quotes.
const QUOTED: usize = 80;

impl InvalidName {
    pub(super) fn new(expected: &'static str, given: &str) -> Self {
        Self { expected, given: clip(given, QUOTED) }
    }
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not {}", self.given, self.expected)
    }
}

impl std::error::Error for InvalidName {}

/// Makes untrusted text safe for a log line or a terminal. Escapes what a terminal does not show as itself: control
/// characters, marks that reorder or hide text, blanks other than the space, combining marks without a letter. Truncates
/// before the text that is written exceeds `limit` characters, with `...` at the end.
pub fn clip(text: &str, limit: usize) -> String {
    let (mut out, mut length) = (String::new(), 0_usize);
    for c in text.chars() {
        let escaped = (!is_shown(c)).then(|| c.escape_default());
        length = length.saturating_add(escaped.as_ref().map_or(1, ExactSizeIterator::len));
        if length > limit {
            out.push_str("...");
            break;
        }
        match escaped {
            Some(escaped) => out.extend(escaped),
            None => out.push(c),
        }
    }
    out
}

/// Whether a terminal shows a character as itself, by the standard library's tables of Unicode.
pub(super) fn is_shown(c: char) -> bool {
    matches!(c, '"' | '\'' | '\\') || c.escape_debug().len() == 1
}

/// A Slurm job ID. Each component of a heterogeneous job and each array task has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId(pub u32);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Slurm step ID. The highest ones are reserved for special steps (`SLURM_BATCH_SCRIPT` and others in
/// `slurm/slurm.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepId(pub u32);

impl StepId {
    /// The extern step (`SLURM_EXTERN_CONT`), which contains the job's external processes. No user command runs in it.
    pub const EXTERN: Self = Self(0xffff_fffc);
    const BATCH: Self = Self(0xffff_fffb);
    const INTERACTIVE: Self = Self(0xffff_fffa);
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::EXTERN => f.write_str("extern"),
            Self::BATCH => f.write_str("batch"),
            Self::INTERACTIVE => f.write_str("interactive"),
            Self(number) => number.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clipped_text_cannot_move_the_cursor() {
        assert_eq!(clip("a\n\u{1b}[31mb\u{202e}", 80), "a\\n\\u{1b}[31mb\\u{202e}");
        assert_eq!(clip("abcdef", 3), "abc...");
        assert_eq!(clip("abc", 3), "abc");
    }

    #[test]
    fn clipped_text_looks_as_it_is() {
        for (text, expected) in [
            ("\"it's\" \\ é 東京 🦀", "\"it's\" \\ é 東京 🦀"),
            ("a\u{7f}\u{9b}2Jb", "a\\u{7f}\\u{9b}2Jb"),
            ("\u{200e}\u{200f}\u{61c}\u{2066}", "\\u{200e}\\u{200f}\\u{61c}\\u{2066}"),
            ("a\u{200b}\u{ad}\u{feff}b", "a\\u{200b}\\u{ad}\\u{feff}b"),
            ("\u{2028}\u{2029}\u{85}", "\\u{2028}\\u{2029}\\u{85}"),
            ("\u{e0041}\u{fff9}\u{a0}", "\\u{e0041}\\u{fff9}\\u{a0}"),
        ] {
            assert_eq!(clip(text, 80), expected);
        }
    }

    #[test]
    fn escapes_count_as_they_are_written() {
        assert_eq!(clip("\u{1b}\u{1b}\u{1b}", 12), "\\u{1b}\\u{1b}...");
        assert_eq!(clip("a\u{e0041}", 9), "a...");
        assert!(clip(&"\u{e0041}".repeat(1000), 300).len() <= 303);
    }
}
