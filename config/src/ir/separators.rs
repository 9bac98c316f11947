//! What stands in a path, means nothing to HTTP, and separates segments all the same for some servers.
//!
//! `/files/a%2f..%2fsecret` is one segment to a proxy (RFC 3986 §2.2) and three to a server that decodes before it splits;
//! `/admin;x` is `/admin` to a servlet container. No normalisation is right for both, so a careful route refuses such a
//! path, and an app that needs them (a file name as one segment, matrix parameters) says so.

use std::fmt;

use serde::{Serialize, Serializer};

/// Some of `%2f`, `%5c` and `;`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Separators(u8);

/// Each by itself, as a person writes it.
const WORDS: [(Separators, &str); 3] =
    [(Separators::ESCAPED_SLASH, "%2f"), (Separators::ESCAPED_BACKSLASH, "%5c"), (Separators::SEMICOLON, ";")];

impl Separators {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// `%2f`.
    pub const ESCAPED_SLASH: Self = Self(1);
    /// `%5c`.
    pub const ESCAPED_BACKSLASH: Self = Self(2);
    /// `;`.
    pub const SEMICOLON: Self = Self(4);
    /// All of them.
    pub const ALL: Self = Self(7);

    /// The one that a word means, in upper or lower case.
    pub fn parse(word: &str) -> Option<Self> {
        WORDS.iter().find(|(_, known)| known.eq_ignore_ascii_case(word)).map(|(one, _)| *one)
    }

    /// Those of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are not among `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those that both have.
    #[must_use]
    pub const fn shared(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each by itself, as a person writes it.
    pub fn words(self) -> impl Iterator<Item = &'static str> {
        WORDS.into_iter().filter(move |(one, _)| !self.shared(*one).is_empty()).map(|(_, word)| word)
    }
}

impl fmt::Display for Separators {
    /// `%2f %5c ;`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.words().enumerate() {
            if at > 0 {
                f.write_str(" ")?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

impl Serialize for Separators {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.words())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_means_one_of_them() {
        let all = WORDS.iter().fold(Separators::NONE, |all, (_, word)| all.and(Separators::parse(word).expect(word)));
        assert_eq!((all, all.to_string().as_str()), (Separators::ALL, "%2f %5c ;"));
        assert_eq!(Separators::parse("%2F"), Some(Separators::ESCAPED_SLASH));
        assert_eq!(Separators::parse("/"), None);
        assert_eq!(Separators::ALL.without(Separators::SEMICOLON).to_string(), "%2f %5c");
    }
}
