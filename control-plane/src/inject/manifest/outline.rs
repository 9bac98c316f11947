//! Which lines of a document are which part of it.
//!
//! Enough of YAML to find one's way in what people write for Kubernetes: mappings and lists by indentation. Whatever else
//! there is (braces, anchors, several lines of text) is one closed [`Block::Other`]. It may be wrong about a text that
//! YAML can be clever enough to be; so it is only used for places that are shown to people, and for edits that are read
//! again afterwards.

use std::ops::Range;

/// A document's lines, and what they are.
#[derive(Debug)]
pub(super) struct Outline<'a> {
    /// With their ends.
    pub(super) lines: Vec<&'a str>,
    /// The whole.
    pub(super) root: Block,
}

/// A part of a document.
#[derive(Debug)]
pub(super) enum Block {
    /// A mapping with a key per line; never empty.
    Map(Vec<Entry>),
    /// A list with a dash per entry.
    List(List),
    /// Something that is left as a whole.
    Other,
}

/// An entry of a mapping.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Up to where the next begins, without comments and empty lines before that.
    pub(super) lines: Range<usize>,
    /// Where the key begins in its line, in bytes.
    pub(super) column: usize,
    pub(super) value: Block,
}

/// A list.
#[derive(Debug)]
pub(super) struct List {
    /// The line under the list's own key.
    pub(super) start: usize,
    /// Where the dashes are.
    pub(super) column: usize,
    pub(super) items: Vec<Item>,
}

/// An entry of a list.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) lines: Range<usize>,
    pub(super) value: Block,
}

impl<'a> Outline<'a> {
    /// Of one document without separators.
    pub(super) fn of(text: &'a str) -> Self {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let root = block(&lines, 0..lines.len());
        Self { lines, root }
    }

    /// The line, from 0, at which a path stands; a number is an index.
    pub(super) fn line_of(&self, path: &[&str]) -> Option<usize> {
        let mut block = &self.root;
        let mut line = None;
        for step in path {
            (line, block) = match block {
                Block::Map(entries) => {
                    let entry = entries.iter().find(|entry| entry.key == *step)?;
                    (Some(entry.lines.start), &entry.value)
                }
                Block::List(list) => {
                    let item = list.items.get(step.parse::<usize>().ok()?)?;
                    (Some(item.lines.start), &item.value)
                }
                Block::Other => return None,
            };
        }
        line
    }
}

/// What stands in some lines of its own.
fn block(lines: &[&str], range: Range<usize>) -> Block {
    let Some((line, column, content)) = range.clone().find_map(|line| {
        let (column, content) = significant(lines.get(line)?)?;
        Some((line, column, content))
    }) else {
        return Block::Other;
    };
    match is_dash(content) {
        true => list(lines, range, column),
        false => map(lines, line, range.end, column),
    }
}

/// A mapping whose first key is at `column` of the line `first`, perhaps behind a dash.
fn map(lines: &[&str], first: usize, end: usize, column: usize) -> Block {
    let mut entries = Vec::new();
    let mut line = first;
    while line < end {
        let Some((key, rest)) = lines.get(line).and_then(|text| key(text.get(column..)?)) else { return Block::Other };
        let next = (line + 1..end).find(|next| {
            lines.get(*next).and_then(|text| significant(text)).is_some_and(|(indent, content)| {
                // A list may stand under its key without being indented.
                indent <= column && !(indent == column && rest.is_empty() && is_dash(content))
            })
        });
        let until = next.unwrap_or(end);
        if next.and_then(|next| significant(lines.get(next)?)).is_some_and(|(indent, _)| indent < column) {
            return Block::Other;
        }
        let is_text = rest.starts_with(['|', '>']);
        let own = line + 1..last(lines, line + 1..until, is_text.then_some(column));
        let value = if rest.is_empty() { block(lines, own.clone()) } else { Block::Other };
        entries.push(Entry { key, lines: line..own.end, column, value });
        line = until;
    }
    Block::Map(entries)
}

fn list(lines: &[&str], range: Range<usize>, column: usize) -> Block {
    let is_item =
        |line: &usize| lines.get(*line).and_then(|text| significant(text)).is_some_and(|(indent, _)| indent <= column);
    let starts: Vec<usize> = range.clone().filter(is_item).collect();
    let mut items = Vec::new();
    for (index, start) in starts.iter().enumerate() {
        let until = starts.get(index + 1).copied().unwrap_or(range.end);
        let Some((indent, content)) = lines.get(*start).and_then(|text| significant(text)) else { return Block::Other };
        if indent != column || !is_dash(content) {
            return Block::Other;
        }
        let end = last(lines, start + 1..until, None);
        let inner = content.get(1..).unwrap_or_default();
        let inside = column + 1 + (inner.len() - inner.trim_start().len());
        let value = match without_comment(inner.trim()) {
            "" => block(lines, start + 1..end),
            content if is_dash(content) => Block::Other,
            content if key(content).is_some() => map(lines, *start, end, inside),
            _ => Block::Other,
        };
        items.push(Item { lines: *start..end, value });
    }
    Block::List(List { start: range.start, column, items })
}

/// Behind the last line that says something. The lines of a text (`|`) that is indented by more than `text` do, whatever
/// they look like.
fn last(lines: &[&str], range: Range<usize>, text: Option<usize>) -> usize {
    let says = |line: &usize| {
        let Some(content) = lines.get(*line) else { return false };
        let indent = content.len() - content.trim_start_matches(' ').len();
        significant(content).is_some() || text.is_some_and(|column| !content.trim().is_empty() && indent > column)
    };
    range.clone().rev().find(says).map_or(range.start, |line| line + 1)
}

/// Indentation and content of a line that says something.
fn significant(line: &str) -> Option<(usize, &str)> {
    let content = line.trim_start_matches(' ');
    let indent = line.len() - content.len();
    let content = content.trim_end();
    (!content.is_empty() && !content.starts_with('#')).then_some((indent, content))
}

fn is_dash(content: &str) -> bool {
    content == "-" || content.starts_with("- ")
}

/// A key, and what stands behind its colon, without a comment.
fn key(content: &str) -> Option<(String, &str)> {
    let content = content.trim_end();
    let (key, rest) = match content.chars().next()? {
        quote @ ('"' | '\'') => {
            let (key, rest) = content.get(1..)?.split_once(quote)?;
            if key.contains('\\') {
                return None;
            }
            (key, rest.trim_start().strip_prefix(':')?)
        }
        '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '%' | '@' | '`' | '#' | ',' | '?' => return None,
        _ => {
            let colon = content.match_indices(':').map(|(at, _)| at).find(|at| {
                content.get(at + 1..).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
            })?;
            (content.get(..colon)?.trim_end(), content.get(colon + 1..)?)
        }
    };
    let ends = rest.is_empty() || rest.starts_with([' ', '\t']);
    ends.then(|| (key.to_owned(), without_comment(rest.trim())))
}

fn without_comment(rest: &str) -> &str {
    if rest.starts_with('#') { "" } else { rest }
}
