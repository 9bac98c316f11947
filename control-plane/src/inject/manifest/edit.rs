//! A document with another value, and with as much of its text as possible.

use std::ops::Range;

use serde_json::{Map, Value};

use super::documents::parse;
use super::outline::{Block, Entry, List, Outline};

/// `text`, which says `old`, so that it says `new`.
pub(super) fn changed(text: &str, old: &Value, new: &Value) -> String {
    if old == new {
        return text.to_owned();
    }
    let edited = by_lines(text, old, new).filter(|edited| parse(edited).is_ok_and(|value| value == *new));
    edited.unwrap_or_else(|| anew(text, new))
}

/// Lines to take out, and what comes in their place.
#[derive(Debug)]
struct Edit {
    lines: Range<usize>,
    text: String,
}

fn by_lines(text: &str, old: &Value, new: &Value) -> Option<String> {
    let outline = Outline::of(text);
    let mut edits = Vec::new();
    differ(&outline, &outline.root, old, new, &mut edits)?;
    // Stable: what is put in at one place stays in its order.
    edits.sort_by_key(|edit| edit.lines.start);
    let ending = if outline.lines.first().is_some_and(|line| line.ends_with("\r\n")) { "\r\n" } else { "\n" };
    let mut written = String::with_capacity(text.len() * 2);
    let mut line = 0;
    let keep = |written: &mut String, range: Range<usize>| {
        for line in outline.lines.get(range).into_iter().flatten() {
            written.push_str(line);
        }
    };
    for edit in edits {
        keep(&mut written, line..edit.lines.start);
        if !edit.text.is_empty() && !written.is_empty() && !written.ends_with('\n') {
            written.push_str(ending);
        }
        written.push_str(&edit.text.replace('\n', ending));
        line = edit.lines.end;
    }
    keep(&mut written, line..outline.lines.len());
    Some(written)
}

/// The edits that make `new` of a block that is `old`; `None` where lines alone cannot do it.
fn differ(outline: &Outline<'_>, block: &Block, old: &Value, new: &Value, edits: &mut Vec<Edit>) -> Option<()> {
    match (block, old, new) {
        (Block::Map(entries), Value::Object(old), Value::Object(new)) => maps(outline, entries, old, new, edits),
        (Block::List(list), Value::Array(old), Value::Array(new)) => lists(outline, list, old, new, edits),
        _ => None,
    }
}

fn maps(
    outline: &Outline<'_>,
    entries: &[Entry],
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    edits: &mut Vec<Edit>,
) -> Option<()> {
    for entry in entries {
        match (old.get(&entry.key)?, new.get(&entry.key)) {
            (old, Some(new)) if old == new => {}
            (old, Some(new)) => {
                let mut inner = Vec::new();
                match differ(outline, &entry.value, old, new, &mut inner) {
                    Some(()) => edits.append(&mut inner),
                    None => {
                        let head = outline.lines.get(entry.lines.start)?.get(..entry.column)?;
                        edits.push(Edit { lines: entry.lines.clone(), text: entry_text(head, &entry.key, new)? });
                    }
                }
            }
            (_, None) => {
                let head = outline.lines.get(entry.lines.start)?.get(..entry.column)?;
                // The dash of a list stands before it.
                if !head.trim().is_empty() {
                    return None;
                }
                edits.push(Edit { lines: entry.lines.clone(), text: String::new() });
            }
        }
    }
    let last = entries.last()?;
    let head = " ".repeat(last.column);
    let added = new.iter().filter(|(key, _)| !old.contains_key(*key));
    for (key, value) in added {
        edits.push(Edit { lines: last.lines.end..last.lines.end, text: entry_text(&head, key, value)? });
    }
    Some(())
}

/// Entries with a name are one if the name is; injection only puts in, takes out and changes.
fn lists(outline: &Outline<'_>, list: &List, old: &[Value], new: &[Value], edits: &mut Vec<Edit>) -> Option<()> {
    if list.items.len() != old.len() || new.is_empty() {
        return None;
    }
    let is_same = |old: &Value, new: &Value| match (old.get("name"), new.get("name")) {
        (Some(old), Some(new)) => old == new,
        _ => old == new,
    };
    let mut pairs = list.items.iter().zip(old).peekable();
    let mut behind = list.start;
    for new in new {
        let stays = pairs.clone().any(|(_, old)| is_same(old, new));
        if !stays {
            edits.push(Edit { lines: behind..behind, text: item_text(list.column, new)? });
            continue;
        }
        for (item, old) in pairs.by_ref() {
            behind = item.lines.end;
            if !is_same(old, new) {
                edits.push(Edit { lines: item.lines.clone(), text: String::new() });
                continue;
            }
            if old != new {
                let mut inner = Vec::new();
                match differ(outline, &item.value, old, new, &mut inner) {
                    Some(()) => edits.append(&mut inner),
                    None => edits.push(Edit { lines: item.lines.clone(), text: item_text(list.column, new)? }),
                }
            }
            break;
        }
    }
    edits.extend(pairs.map(|(item, _)| Edit { lines: item.lines.clone(), text: String::new() }));
    Some(())
}

/// `head` stands before the key; further lines are indented by as much.
fn entry_text(head: &str, key: &str, value: &Value) -> Option<String> {
    let entry = Map::from_iter([(key.to_owned(), value.clone())]);
    let text = serde_yaml::to_string(&entry).ok()?;
    Some(indented(head, &" ".repeat(head.len()), &text))
}

fn item_text(column: usize, value: &Value) -> Option<String> {
    let text = serde_yaml::to_string(value).ok()?;
    let indent = " ".repeat(column);
    Some(indented(&format!("{indent}- "), &format!("{indent}  "), &text))
}

fn indented(first: &str, others: &str, text: &str) -> String {
    let lines = text.lines().enumerate().map(|(index, line)| match (index, line) {
        (0, line) => format!("{first}{line}\n"),
        (_, "") => "\n".to_owned(),
        (_, line) => format!("{others}{line}\n"),
    });
    lines.collect()
}

/// Written anew, in the form that it had.
#[expect(clippy::expect_used, reason = "what was read as JSON can be written")]
fn anew(text: &str, new: &Value) -> String {
    let is_json = text.trim_start().starts_with('{') && serde_json::from_str::<Value>(text).is_ok();
    let written = match is_json {
        true => serde_json::to_string_pretty(new).map(|text| text + "\n").ok(),
        false => serde_yaml::to_string(new).ok(),
    };
    let begins = if text.starts_with("---") { "---\n" } else { "" };
    format!("{begins}{}", written.expect("invariant: JSON values can be written"))
}
