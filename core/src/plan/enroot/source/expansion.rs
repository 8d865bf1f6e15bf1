//! A value of enroot.conf as bash would expand it, without bash.
//!
//! enroot runs `eval echo VALUE` under `set -u`, as the user and in the user's environment, which may redefine `echo`.
//! Of that language this knows what a path is made of:
//!
//! ```text
//! word     = ( text | \CHARACTER | 'text' | "quoted" | variable )*, after ~ or ~/
//! quoted   = ( text | \" | \\ | \$ | \` | variable )*
//! variable = $NAME | ${NAME} | ${NAME:-word}
//! ```
//! Blanks between words become one, as in `echo`, also those of a variable outside of quotes. All else needs a shell.
//! The crate shellexpand has no quotes, no default in a default, and leaves what it does not know as it is.
#![forbid(unsafe_code)]

use std::iter::Peekable;
use std::str::Chars;

/// Why a value has no expansion here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unexpanded {
    /// It has a variable that is not set, for which enroot has no value either.
    Unset,
    /// Only a shell can tell.
    NeedsShell,
}

/// What a variable is: none if it is not set.
pub(super) type Variable<'a> = &'a dyn Fn(&str) -> Result<Option<String>, Unexpanded>;

/// Expands a value.
///
/// # Errors
/// When it has no expansion here.
pub(super) fn expand(value: &str, variable: Variable<'_>) -> Result<String, Unexpanded> {
    let mut expansion =
        Expansion { rest: value.chars().peekable(), variable, words: Words::default(), is_unset: false };
    expansion.part(Part { quoted: false, end: None, is_used: true })?;
    if expansion.is_unset { Err(Unexpanded::Unset) } else { Ok(expansion.words.text) }
}

/// A part of a value that ends with a character of its own.
#[derive(Clone, Copy)]
struct Part {
    /// Whether it is in double quotes.
    quoted: bool,
    /// Its last character, if the value goes on behind it.
    end: Option<char>,
    /// Whether it goes into the expansion: a default may not.
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
                // A quote within a default within quotes.
                '"' => return Err(Unexpanded::NeedsShell),
                _ if !quoted && ";&|<>()*?[{}\n".contains(character) => return Err(Unexpanded::NeedsShell),
                _ => self.words.quote(character.encode_utf8(&mut [0; 4]), is_used),
            }
            // A default is one word for the tilde, whatever blanks are in it.
            is_first = end.is_none() && [' ', '\t'].contains(&character);
        }
        if end.is_none() { Ok(()) } else { Err(Unexpanded::NeedsShell) }
    }

    /// What follows a backslash.
    fn escaped(&mut self, part: Part) -> Result<(), Unexpanded> {
        let character = self.rest.next().ok_or(Unexpanded::NeedsShell)?;
        let is_escape = !part.quoted || "$`\"\\".contains(character) || part.end == Some(character);
        if !is_escape {
            self.words.quote("\\", part.is_used);
        }
        self.words.quote(character.encode_utf8(&mut [0; 4]), part.is_used);
        Ok(())
    }

    /// What follows a single quote.
    fn literal(&mut self, is_used: bool) -> Result<(), Unexpanded> {
        self.words.quote("", is_used);
        loop {
            match self.rest.next().ok_or(Unexpanded::NeedsShell)? {
                '\'' => return Ok(()),
                character => self.words.quote(character.encode_utf8(&mut [0; 4]), is_used),
            }
        }
    }

    /// What follows a tilde at the beginning of a word.
    fn home(&mut self, part: Part) -> Result<(), Unexpanded> {
        let is_alone = match self.rest.peek().copied() {
            None | Some('/') => true,
            Some(next) => Some(next) == part.end || (part.end.is_none() && [' ', '\t'].contains(&next)),
        };
        // Else another user's home, or the one of the user database.
        let home = (self.variable)("HOME")?.filter(|_| is_alone).ok_or(Unexpanded::NeedsShell)?;
        self.words.quote(&home, part.is_used);
        Ok(())
    }

    /// What follows a dollar sign.
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
        // None at all is a parameter of the shell's own.
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

/// Words as `echo` prints them.
#[derive(Default)]
struct Words {
    text: String,
    has_word: bool,
    is_split: bool,
}

impl Words {
    /// Adds to the last word, which is there then, be it empty.
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
