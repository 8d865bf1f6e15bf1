//! Checks of lines that people read in a terminal or a log.

use gcp_wif_core::plan::report::Failure;

/// Unicode's categories Cc, Cf, Zl and Zp (UnicodeData.txt), and the private use area. The list is independent of the
/// checked code, so that the two do not share an error.
const HIDDEN: [(u32, u32); 24] = [
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

/// The length limit of a problem: a sentence of the project, and a quoted text.
pub const LONGEST_PROBLEM: usize = 700;
/// The length limit of a line: a cause and an advice of up to 1200 characters each, and the text around them.
const LONGEST_LINE: usize = 2600;

/// Returns whether a terminal does not show a character, or shows others differently because of it.
pub fn is_hidden(c: char) -> bool {
    // Nearly all characters are ASCII, and this is called for millions.
    !matches!(c, ' '..='~') && HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
}

/// Checks a text that is part of a line.
pub fn check(text: &str, longest: usize) {
    assert!(!text.contains(is_hidden), "the text has a hidden character: {text:?}");
    let length = text.chars().count();
    assert!(length <= longest, "the text has {length} characters, more than {longest}: {text}");
}

/// Checks the message of a failure.
pub fn check_failure(failure: &Failure) {
    let line = failure.to_string();
    check(&line, LONGEST_LINE);
    assert!(line.starts_with("gcp-wif: "), "{line}");
}

/// Checks that a message contains no long word of a secret.
pub fn check_secret(message: &str, secret: &str) {
    let words = secret.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| word.len() >= 12);
    for word in words {
        assert!(!message.contains(word), "the message contains {word:?} of a secret: {message}");
    }
}
