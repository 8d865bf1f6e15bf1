//! What lines for people must be.

use gcp_wif_core::plan::report::Failure;

/// Characters of other categories than letters, marks, numbers, punctuation, symbols and the space: Unicode's Cc, Cf, Zl
/// and Zp (UnicodeData.txt). A list of its own, so that it does not share an error with the code that it checks.
const UNFIT: [(u32, u32); 24] = [
    (0x0, 0x1f),
    (0x7f, 0x9f),
    (0xad, 0xad),
    (0x600, 0x605),
    (0x61c, 0x61c),
    (0x6dd, 0x6dd),
    (0x70f, 0x70f),
    (0x890, 0x891),
    (0x8e2, 0x8e2),
    (0x180e, 0x180e),
    (0x200b, 0x200f),
    (0x2028, 0x202e),
    (0x2060, 0x2064),
    (0x2066, 0x206f),
    (0xfeff, 0xfeff),
    (0xfff9, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0001, 0xe0001),
    (0xe0020, 0xe007f),
    (0xe000, 0xf8ff),
];

/// The longest problem of one part: a name or a sentence of ours, and what it quotes.
pub const LONGEST_PROBLEM: usize = 700;
/// The longest line: a cause and an advice of 1200 characters, and what is around them.
const LONGEST_LINE: usize = 2600;

/// Whether a terminal does not show a character, or a character changes how it shows others.
pub fn is_unfit(c: char) -> bool {
    UNFIT.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
}

/// Checks a text that goes into a line.
pub fn check(text: &str, longest: usize) {
    assert!(!text.contains(is_unfit), "it has a character that a terminal does not show: {text:?}");
    let length = text.chars().count();
    assert!(length <= longest, "it has {length} characters: {text}");
}

/// Checks what a user reads of a failure.
pub fn check_failure(failure: &Failure) {
    let line = failure.to_string();
    check(&line, LONGEST_LINE);
    assert!(line.starts_with("gcp-wif: "), "{line}");
}

/// Checks that a message has no long word of a secret text.
pub fn check_secret(message: &str, secret: &str) {
    let words = secret.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 12);
    for word in words {
        assert!(!message.contains(word), "it tells {word:?}: {message}");
    }
}
