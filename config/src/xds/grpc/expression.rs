//! Regular expressions for RE2. Leno's have a richer syntax, and a client that meets one it cannot read refuses its whole
//! table at best; grpc-js, which compiles expressions when it uses them, ends its process.
//!
//! The test is on the safe side: what is let through compiles in every RE2, and some that would compile are not.

use std::iter::Peekable;
use std::str::Chars;

/// RE2: the largest count of a repetition.
const MOST_REPEATS: u32 = 1000;
/// Letters that mean the same after a backslash in both.
const ESCAPES: &str = "abdfnrstvwxzABDSWpP";
/// Flags that both have.
const FLAGS: &str = "imsU-";

/// The first thing in a pattern that RE2 may not have; the pattern compiles by our own rules.
pub(super) fn unknown_to_re2(pattern: &str) -> Option<&'static str> {
    let mut rest = pattern.chars().peekable();
    while let Some(next) = rest.next() {
        let found = match next {
            '\\' => escape(&mut rest),
            '[' => class(&mut rest),
            '(' => group(&mut rest),
            '{' => repetition(&mut rest),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// After a backslash.
fn escape(rest: &mut Peekable<Chars<'_>>) -> Option<&'static str> {
    let letter = rest.next()?;
    if letter.is_ascii_alphanumeric() && !ESCAPES.contains(letter) || matches!(letter, '<' | '>') {
        return Some("an escape like `\\u` or `\\<`");
    }
    match letter {
        'b' | 'B' if rest.peek() == Some(&'{') => Some("a word boundary like `\\b{start}`"),
        'p' | 'P' if rest.next_if_eq(&'{').is_some() => {
            let name = rest.by_ref().take_while(|next| *next != '}').collect::<String>();
            (name.len() > 2).then_some("a Unicode property by its long name")
        }
        'x' if rest.next_if_eq(&'{').is_some() => {
            rest.by_ref().find(|next| *next == '}');
            None
        }
        _ => None,
    }
}

/// After `[`.
fn class(rest: &mut Peekable<Chars<'_>>) -> Option<&'static str> {
    rest.next_if_eq(&'^');
    let mut before = rest.next_if_eq(&']');
    loop {
        let next = rest.next()?;
        match next {
            ']' => return None,
            '\\' => match escape(rest) {
                None => {}
                found => return found,
            },
            '[' if rest.peek() == Some(&':') => {
                rest.by_ref().find(|next| *next == ']');
            }
            '[' => return Some("a set within a set"),
            '&' | '-' | '~' if before == Some(next) => return Some("an operation on sets like `&&`"),
            _ => {}
        }
        before = Some(next);
    }
}

/// After `(`.
fn group(rest: &mut Peekable<Chars<'_>>) -> Option<&'static str> {
    rest.next_if_eq(&'?')?;
    if rest.next_if_eq(&'P').is_some() {
        return None;
    }
    let flags = rest.by_ref().take_while(|next| !matches!(next, ':' | ')')).collect::<String>();
    match flags.chars().all(|flag| FLAGS.contains(flag)) {
        true => None,
        false => Some("a flag like `(?x)` or a name like `(?<name>…)`"),
    }
}

/// After `{`.
fn repetition(rest: &mut Peekable<Chars<'_>>) -> Option<&'static str> {
    let counts = rest.by_ref().take_while(|next| *next != '}').collect::<String>();
    let too_many = |count: &str| count.trim().parse::<u32>().is_ok_and(|count| count > MOST_REPEATS);
    counts.split(',').any(too_many).then_some("more than 1000 repetitions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_re2_has_passes_and_what_it_may_not_have_is_named() {
        let fine = [
            "",
            "/a.*",
            r"/leno\.Greeter/(Unary|Name)",
            "(?i)/a(?:b|c)",
            "(?P<name>a)",
            r"[a-z\d_.-]+",
            "[]a]",
            "[^]a-]",
            "[[:alpha:]_]",
            r"\pL\p{Lu}",
            r"\x{10FFFF}\x41",
            "a{3}b{1,1000}",
            r"a\{2000}",
            "(?s-i:a)",
            r"\bword\b",
        ];
        for pattern in fine {
            assert_eq!(unknown_to_re2(pattern), None, "{pattern}");
        }
        let foreign = [
            "(?x)/a b",
            "(?<name>a)",
            "[a-z&&[^b]]",
            "[a--b]",
            "[a~~b]",
            "[[a]b]",
            r"\u{41}",
            r"\<word\>",
            r"\b{start}",
            r"\p{Alphabetic}",
            r"[\p{Greek}]",
            "a{1001}",
            "a{1,2000}",
            "(?R)a",
        ];
        for pattern in foreign {
            assert!(crate::ir::Regex::new(pattern).is_ok(), "ours takes {pattern}");
            assert!(unknown_to_re2(pattern).is_some(), "{pattern}");
        }
    }
}
