//! Where a value stands inside a document: `spec.http[2].route[0].weight`.

use std::fmt;

/// A path from the top of a document, built from the outside in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Path(String);

/// One step of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Into a mapping.
    Key(String),
    /// Into a list.
    Index(usize),
}

impl Path {
    /// The document itself.
    pub fn root() -> Self {
        Self::default()
    }

    /// One field further. Keys that are no plain words are quoted: `headers["x.y"]`.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        Self(match (plain, self.0.is_empty()) {
            (true, true) => key.to_owned(),
            (true, false) => format!("{}.{key}", self.0),
            (false, _) => format!("{}[{}]", self.0, quoted(key)),
        })
    }

    /// One entry further.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// As it is shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The steps of a path that [`Self::key`] and [`Self::index`] made; what cannot be read ends it.
    pub(crate) fn steps(path: &str) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut rest = path;
        loop {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            if rest.is_empty() {
                return steps;
            }
            if let Some(inside) = rest.strip_prefix('[') {
                match bracket(inside) {
                    Some((step, after)) => {
                        steps.push(step);
                        rest = after;
                    }
                    None => return steps,
                }
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (key, after) = rest.split_at(end);
                steps.push(Step::Key(key.to_owned()));
                rest = after;
            }
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn quoted(key: &str) -> String {
    format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What stands behind `[`: an index or a quoted key, and what follows the `]`.
fn bracket(inside: &str) -> Option<(Step, &str)> {
    let Some(text) = inside.strip_prefix('"') else {
        let (index, after) = inside.split_once(']')?;
        return Some((Step::Index(index.parse().ok()?), after));
    };
    let mut key = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => key.push(chars.next()?.1),
            '"' => return Some((Step::Key(key), text.get(at.saturating_add(1)..)?.strip_prefix(']')?)),
            _ => key.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_as_it_was_written() {
        let path =
            Path::root().key("spec").key("http").index(2).key("headers").key("x.\"y\\").key("set").key("end-user");
        assert_eq!(path.as_str(), r#"spec.http[2].headers["x.\"y\\"].set.end-user"#);
        let key = |text: &str| Step::Key(text.to_owned());
        assert_eq!(
            Path::steps(path.as_str()),
            [key("spec"), key("http"), Step::Index(2), key("headers"), key("x.\"y\\"), key("set"), key("end-user")]
        );
    }

    #[test]
    fn what_is_no_path_ends_quietly() {
        for text in ["[", "[x]", "[\"", "a[1", "..", "a..b"] {
            let _ = Path::steps(text);
        }
        assert!(Path::steps("").is_empty());
    }
}
