//! Expands a value of enroot.conf as bash would, without running bash.
//!
//! enroot runs `eval echo VALUE` under `set -u`, as the user and in the user's environment, which can redefine `echo`.
//! This module supports the part of the shell language that paths need:
//!
//! ```text
//! word     = ( text | \CHARACTER | 'text' | "quoted" | variable )*, after ~ or ~/
//! quoted   = ( text | \" | \\ | \$ | \` | variable )*
//! variable = $NAME | ${NAME} | ${NAME:-word}
//! ```
//! As with `echo`, blanks between words become one, including those in an unquoted variable. Everything else needs a
//! shell. The crate shellexpand is not used: it has neither quotes nor nested defaults, and it silently keeps what it
//! does not know.
#![forbid(unsafe_code)]

use std::iter::Peekable;
use std::str::Chars;

/// Why a value is not expanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unexpanded {
    /// It uses a variable that is not set, so enroot gets no value either.
    Unset,
    /// Only a shell can expand it.
    NeedsShell,
}

/// Returns the value of a variable, or `None` if it is not set.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Result<Option<String>, Unexpanded>;

/// Expands a value.
///
/// # Errors
/// When a variable is not set, or the value needs a shell.
pub(super) fn expand(value: &str, variable: Variable<'_>) -> Result<String, Unexpanded> {
    let mut expansion =
        Expansion { rest: value.chars().peekable(), variable, words: Words::default(), is_unset: false };
    expansion.part(Part { quoted: false, end: None, is_used: true })?;
    if expansion.is_unset { Err(Unexpanded::Unset) } else { Ok(expansion.words.text) }
}

/// A part of a value, up to a closing character.
#[derive(Clone, Copy)]
struct Part {
    /// Whether it is in double quotes.
    quoted: bool,
    /// The closing character; `None` for the whole value.
    end: Option<char>,
    /// Whether it becomes part of the result. An unused default does not.
    is_used: bool,
}

struct Expansion<'a> {
    rest: Peekable<Chars<'a>>,
    variable: Variable<'a>,
    words: Words,
    is_unset: bool,
}

impl Expansion<'_> {
    fn part(&mut self, part: Part) -> Result<(), Unexpanded> {
        let Part { quoted, end, is_used } = part;
        let mut is_first = true;
        while let Some(character) = self.rest.next() {
            if Some(character) == end {
                return Ok(());
            }
            match character {
                '$' => self.parameter(part)?,
                '\\' => self.escaped(part)?,
                '"' if !quoted => {
                    self.words.quote("", is_used);
                    self.part(Part { quoted: true, end: Some('"'), is_used })?;
                }
                '\'' if !quoted => self.literal(is_used)?,
                '~' if !quoted && is_first => self.home(part)?,
                ' ' | '\t' if !quoted => self.words.split(is_used),
                '#' if !quoted && is_first => return Err(Unexpanded::NeedsShell),
                '`' => return Err(Unexpanded::NeedsShell),
                // A quote in a default that is itself in quotes.
                '"' => return Err(Unexpanded::NeedsShell),
                _ if !quoted && ";&|<>()*?[{}\n".contains(character) => return Err(Unexpanded::NeedsShell),
                _ => self.words.quote(character.encode_utf8(&mut [0; 4]), is_used),
            }
            // For the tilde, a default counts as one word even if it contains blanks.
            is_first = end.is_none() && [' ', '\t'].contains(&character);
        }
        if end.is_none() { Ok(()) } else { Err(Unexpanded::NeedsShell) }
    }

    /// Parses the character after a backslash.
    fn escaped(&mut self, part: Part) -> Result<(), Unexpanded> {
        let character = self.rest.next().ok_or(Unexpanded::NeedsShell)?;
        let is_escape = !part.quoted || "$`\"\\".contains(character) || part.end == Some(character);
        if !is_escape {
            self.words.quote("\\", part.is_used);
        }
        self.words.quote(character.encode_utf8(&mut [0; 4]), part.is_used);
        Ok(())
    }

    /// Parses the text after a single quote.
    fn literal(&mut self, is_used: bool) -> Result<(), Unexpanded> {
        self.words.quote("", is_used);
        loop {
            match self.rest.next().ok_or(Unexpanded::NeedsShell)? {
                '\'' => return Ok(()),
                character => self.words.quote(character.encode_utf8(&mut [0; 4]), is_used),
            }
        }
    }

    /// Expands a tilde at the beginning of a word.
    fn home(&mut self, part: Part) -> Result<(), Unexpanded> {
        let is_alone = match self.rest.peek().copied() {
            None | Some('/') => true,
            Some(next) => Some(next) == part.end || (part.end.is_none() && [' ', '\t'].contains(&next)),
        };
        // Otherwise it is another user's home, or one from the user database.
        let home = (self.variable)("HOME")?.filter(|_| is_alone).ok_or(Unexpanded::NeedsShell)?;
        self.words.quote(&home, part.is_used);
        Ok(())
    }

    /// Parses the parameter after a dollar sign.
    fn parameter(&mut self, part: Part) -> Result<(), Unexpanded> {
        let is_in_braces = self.rest.next_if_eq(&'{').is_some();
        let name = self.name()?;
        let value = (self.variable)(&name)?;
        if !is_in_braces || self.rest.next_if_eq(&'}').is_some() {
            self.is_unset |= value.is_none() && part.is_used;
            return self.value(&value.unwrap_or_default(), part);
        }
        if (self.rest.next(), self.rest.next()) != (Some(':'), Some('-')) {
            return Err(Unexpanded::NeedsShell);
        }
        let value = value.filter(|value| !value.is_empty());
        self.part(Part { end: Some('}'), is_used: part.is_used && value.is_none(), ..part })?;
        self.value(&value.unwrap_or_default(), part)
    }

    fn name(&mut self) -> Result<String, Unexpanded> {
        let mut name = String::new();
        while let Some(next) = self.rest.next_if(|next| next.is_ascii_alphanumeric() || *next == '_') {
            name.push(next);
        }
        // Without a name, it is a special parameter of the shell.
        if name.starts_with(|first: char| !first.is_ascii_digit()) { Ok(name) } else { Err(Unexpanded::NeedsShell) }
    }

    fn value(&mut self, value: &str, part: Part) -> Result<(), Unexpanded> {
        if part.quoted {
            self.words.quote(value, part.is_used);
            return Ok(());
        }
        for character in value.chars() {
            match character {
                ' ' | '\t' | '\n' => self.words.split(part.is_used),
                '*' | '?' | '[' if part.is_used => return Err(Unexpanded::NeedsShell),
                _ => self.words.quote(character.encode_utf8(&mut [0; 4]), part.is_used),
            }
        }
        Ok(())
    }
}

/// The words, joined as `echo` prints them.
#[derive(Default)]
struct Words {
    text: String,
    has_word: bool,
    is_split: bool,
}

impl Words {
    /// Appends to the last word. Even an empty text starts a word.
    fn quote(&mut self, text: &str, is_used: bool) {
        if is_used {
            if self.is_split && self.has_word {
                self.text.push(' ');
            }
            self.text.push_str(text);
            (self.has_word, self.is_split) = (true, false);
        }
    }

    /// Ends the last word.
    fn split(&mut self, is_used: bool) {
        self.is_split |= is_used;
    }
}

#[cfg(test)]
mod tests;
