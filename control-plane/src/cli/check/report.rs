//! What was found, for people and for programs.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use crate::cli::Output;
use crate::cli::failure::Failure;
use crate::cli::table::{Room, wrapped};

/// Of the first line of a check, for its mark.
const MARK: usize = 2;
/// Of a command.
const INDENT: usize = 4;

/// Form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// For people: everything that was looked at
    #[value(alias = "wide")]
    Table,
    /// For people: what is not well
    Short,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
}

/// All sections in their order.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Nothing fails; there may be warnings.
    ok: bool,
    sections: Vec<Section>,
}

/// The checks of one subject.
#[derive(Debug, Serialize)]
pub(super) struct Section {
    name: &'static str,
    checks: Vec<Check>,
    /// Nobody answers who could be asked.
    #[serde(skip)]
    is_unreachable: bool,
}

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    outcome: Outcome,
    /// What was found, in one sentence.
    what: String,
    /// The command to type next.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// Well.
    Ok,
    /// Worth a look; nothing fails because of it now.
    Warning,
    /// Not well.
    Failed,
}

impl Outcome {
    /// Linkerd's marks.
    fn mark(self) -> (&'static str, Style) {
        match self {
            Self::Ok => ("√", AnsiColor::Green.on_default()),
            Self::Warning => ("‼", AnsiColor::Yellow.on_default()),
            Self::Failed => ("×", AnsiColor::Red.on_default().bold()),
        }
    }
}

impl Section {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, checks: Vec::new(), is_unreachable: false }
    }

    /// It is as it should be.
    pub(super) fn ok(&mut self, what: impl Into<String>) {
        self.checks.push(Check { outcome: Outcome::Ok, what: what.into(), next: None });
    }

    /// It is worth a look.
    pub(super) fn warns(&mut self, what: impl Into<String>, next: impl Into<String>) {
        self.checks.push(Check { outcome: Outcome::Warning, what: what.into(), next: Some(next.into()) });
    }

    /// It fails. Who reads this wants to know what to type.
    pub(super) fn fails(&mut self, what: impl Into<String>, next: impl Into<String>) {
        self.checks.push(Check { outcome: Outcome::Failed, what: what.into(), next: Some(next.into()) });
    }

    /// Nobody answers, so that nothing else can be asked.
    pub(super) fn unreachable(mut self, what: impl Into<String>, next: impl Into<String>) -> Self {
        self.fails(what, next);
        self.is_unreachable = true;
        self
    }

    /// Whether anything was found that is not well.
    pub(super) fn is_clean(&self) -> bool {
        self.checks.iter().all(|check| check.outcome == Outcome::Ok)
    }
}

impl Report {
    pub(super) fn new(sections: Vec<Section>) -> Self {
        let fails = sections.iter().flat_map(|section| &section.checks).any(|check| check.outcome == Outcome::Failed);
        Self { ok: !fails, sections }
    }

    pub(super) fn fails(&self) -> bool {
        !self.ok
    }

    pub(super) fn is_unreachable(&self) -> bool {
        self.sections.iter().any(|section| section.is_unreachable)
    }

    pub(super) fn print(&self, form: Form) -> Result<(), Failure> {
        match form {
            Form::Table => write!(anstream::stdout(), "{}", self.text(Room::of_stdout(), |_| true))?,
            Form::Short => {
                write!(anstream::stdout(), "{}", self.text(Room::of_stdout(), |outcome| outcome != Outcome::Ok))?;
            }
            Form::Json => Output::Json.print(self, |_| String::new())?,
            Form::Yaml => Output::Yaml.print(self, |_| String::new())?,
        }
        Ok(())
    }

    /// The checks that are to be shown, below the name of their section, and one line about all of them.
    fn text(&self, room: Room, shows: impl Fn(Outcome) -> bool) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        for section in &self.sections {
            let shown = section.checks.iter().filter(|check| shows(check.outcome)).collect::<Vec<_>>();
            if shown.is_empty() {
                continue;
            }
            let _ = writeln!(text, "{}\n{}", section.name, "-".repeat(section.name.chars().count()));
            for Check { outcome, what, next } in shown {
                let (mark, style) = outcome.mark();
                for (at, line) in wrapped(&on_one_line(what), room.beside(MARK)).iter().enumerate() {
                    let _ = match at {
                        0 => writeln!(text, "{style}{mark}{style:#} {line}"),
                        _ => writeln!(text, "{:MARK$}{line}", ""),
                    };
                }
                let next = next.as_ref().map(|next| command(&on_one_line(next), room.beside(INDENT)));
                for line in next.into_iter().flatten() {
                    let _ = writeln!(text, "{:INDENT$}{line}", "");
                }
            }
            text.push('\n');
        }
        let count = |outcome| {
            let checks = self.sections.iter().flat_map(|section| &section.checks);
            checks.filter(|check| check.outcome == outcome).count()
        };
        let (_, style) = if self.ok { Outcome::Ok.mark() } else { Outcome::Failed.mark() };
        let verdict = if self.ok { "Nothing fails" } else { "Something fails" };
        let (failed, warnings, ok) = (count(Outcome::Failed), count(Outcome::Warning), count(Outcome::Ok));
        let _ = writeln!(text, "{style}{verdict}{style:#}: {failed} ×, {warnings} ‼, {ok} √");
        text
    }
}

/// A command in lines that fit, as a shell reads them together again: broken with `\` at spaces, never inside of quotes
/// or a comment. What cannot be broken stays as long as it is.
fn command(text: &str, width: usize) -> Vec<String> {
    if text.chars().count() <= width {
        return vec![text.to_owned()];
    }
    // For ` \` behind all but the last line.
    let width = width.saturating_sub(2);
    let mut lines = vec![String::new()];
    for word in words(text) {
        let used = lines.last().map_or(0, |line| line.chars().count());
        if used > 0 && used + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    let last = lines.len() - 1;
    lines.iter_mut().take(last).for_each(|line| line.push_str(" \\"));
    lines
}

/// The parts of a command between which it may be broken.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut begin, mut quote) = (0, None);
    for (at, character) in text.char_indices() {
        match (quote, character) {
            (None, '\'' | '"') => quote = Some(character),
            (None, '#') => break,
            (None, ' ') => {
                words.extend(text.get(begin..at).filter(|word| !word.is_empty()));
                begin = at + 1;
            }
            (Some(open), character) if open == character => quote = None,
            (None | Some(_), _) => {}
        }
    }
    words.extend(text.get(begin..));
    words
}

/// What a peer said has no say about the terminal.
fn on_one_line(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut one = Section::new("one");
        one.ok("it is there");
        one.warns("it is old", "renew it");
        let mut other = Section::new("the other");
        other.ok("well");
        Report::new(vec![one, other])
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn everything_is_shown_below_its_section() {
        let expected = "\
one
---
√ it is there
‼ it is old
    renew it

the other
---------
√ well

Nothing fails: 0 ×, 1 ‼, 2 √
";
        assert_eq!(plain(&report().text(Room::Columns(80), |_| true)), expected);
    }

    #[test]
    fn the_short_form_leaves_out_what_is_well() {
        let expected = "one\n---\n‼ it is old\n    renew it\n\nNothing fails: 0 ×, 1 ‼, 2 √\n";
        assert_eq!(plain(&report().text(Room::Columns(80), |outcome| outcome != Outcome::Ok)), expected);
    }

    #[test]
    fn sentences_are_wrapped_and_commands_stay_commands() {
        let mut section = Section::new("it");
        section.fails("it refuses its listeners: no such port", "leno config listeners shop.default --address here");
        let expected = "\
it
--
× it refuses its listeners: no
  such port
    leno config listeners \\
    shop.default --address \\
    here

Something fails: 1 ×, 0 ‼, 0 √
";
        assert_eq!(plain(&Report::new(vec![section]).text(Room::Columns(30), |_| true)), expected);
        for (text, lines) in [
            ("curl -s a", vec!["curl -s a"]),
            ("grep 'a b c d' somewhere", vec!["grep \\", "'a b c d' \\", "somewhere"]),
            ("a b c # why this is to be done", vec!["a b c \\", "# why this is to be done"]),
        ] {
            assert_eq!(command(text, 12), lines, "{text}");
        }
    }

    #[test]
    fn a_failure_fails_the_whole_and_control_characters_do_nothing() {
        let mut section = Section::new("it");
        section.fails("it said \u{1b}[2J\nno", "type this");
        assert!(!section.is_clean());
        let report = Report::new(vec![section]);
        assert!(report.fails() && !report.is_unreachable());
        assert!(plain(&report.text(Room::Columns(80), |_| true)).contains("× it said  [2J no\n    type this\n"));
        let gone = Report::new(vec![Section::new("it").unreachable("nobody answers", "start it")]);
        assert!(gone.fails() && gone.is_unreachable());
    }
}
