//! Tables for people: aligned, coloured by meaning, and no wider than the terminal.
//!
//! A table that a terminal folds is no table any more. So what is too wide is cut with `…`, or wrapped where the column
//! says so, beginning with the widest column; never the first one, by which rows are told apart, and never a title. What
//! is not needed at a glance is shown by `-o wide` alone, which cuts nothing. What is wrapped is broken at spaces, else
//! where names have a joint (`default/reviews`), and in the middle of a part only when nothing else can give any more.
//!
//! Colours are always written; [`anstream`] takes them out again where nobody wants them (`--color`, `NO_COLOR`,
//! `CLICOLOR_FORCE`, `TERM=dumb`, no terminal).

use clap::builder::styling::{AnsiColor, Style};

/// Between two columns.
const GAP: usize = 2;
/// No column is made narrower than this, unless all that stands in it is.
const NARROWEST: usize = 8;
/// Behind these a word may be broken.
const JOINTS: &str = "/.:|,-";
/// For what there is nothing to say of.
const NOTHING: &str = "-";

/// How wide a table may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// All columns, nothing cut (`-o wide`).
    Unbounded,
    /// So many characters.
    Columns(usize),
}

impl Room {
    /// Of a terminal that does not say how wide it is.
    const USUAL: usize = 80;

    /// What is left of it beside so many characters.
    pub(crate) fn beside(self, taken: usize) -> usize {
        match self {
            Self::Unbounded => usize::MAX,
            Self::Columns(columns) => columns.saturating_sub(taken).max(NARROWEST),
        }
    }

    /// That of standard output: `COLUMNS` where it is set, else what the terminal says, else 80.
    pub(crate) fn of_stdout() -> Self {
        let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.trim().parse().ok());
        let seen = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
        Self::Columns(said.or_else(seen).filter(|columns| *columns > 0).unwrap_or(Self::USUAL))
    }
}

/// What the cells of a column have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    /// Numbers stand at the right edge.
    is_number: bool,
    /// Only `-o wide` shows it.
    is_extra: bool,
    /// What is too long goes on in the next line.
    is_wrapped: bool,
}

impl Column {
    /// Text, cut where there is no room for it.
    pub(crate) const fn text(title: &'static str) -> Self {
        Self { title, is_number: false, is_extra: false, is_wrapped: false }
    }

    /// Numbers, at the right edge.
    pub(crate) const fn number(title: &'static str) -> Self {
        Self { is_number: true, ..Self::text(title) }
    }

    /// Shown by `-o wide` alone.
    pub(crate) const fn extra(self) -> Self {
        Self { is_extra: true, ..self }
    }

    /// Sentences: wrapped rather than cut.
    pub(crate) const fn wrapped(self) -> Self {
        Self { is_wrapped: true, ..self }
    }
}

/// What a cell means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
    Faint,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Doubtful => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Faint => Style::new().dimmed(),
        }
    }
}

/// One value of a row. Control characters are escaped: much of what is shown was said by a peer.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// What it says.
    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    fn new(text: &str, tone: Tone) -> Self {
        if text.is_empty() {
            return Self::nothing();
        }
        let mut clean = String::with_capacity(text.len());
        for character in text.chars() {
            match character.is_control() {
                true => clean.extend(character.escape_default()),
                false => clean.push(character),
            }
        }
        Self { text: clean, tone }
    }

    /// There is nothing to say.
    pub(crate) fn nothing() -> Self {
        Self { text: NOTHING.to_owned(), tone: Tone::Faint }
    }

    /// As it should be.
    pub(crate) fn good(text: impl AsRef<str>) -> Self {
        Self::new(text.as_ref(), Tone::Good)
    }

    /// Worth a look.
    pub(crate) fn doubtful(text: impl AsRef<str>) -> Self {
        Self::new(text.as_ref(), Tone::Doubtful)
    }

    /// Wrong.
    pub(crate) fn bad(text: impl AsRef<str>) -> Self {
        Self::new(text.as_ref(), Tone::Bad)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(&text, Tone::Plain)
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        Self::new(text, Tone::Plain)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::new(&number.to_string(), Tone::Plain)
    }
}

/// Nothing where there is nothing.
impl<C: Into<Cell>> From<Option<C>> for Cell {
    fn from(cell: Option<C>) -> Self {
        cell.map_or_else(Self::nothing, Into::into)
    }
}

/// Columns and rows.
#[derive(Debug, Clone)]
pub(crate) struct Table<const COLUMNS: usize> {
    columns: [Column; COLUMNS],
    rows: Vec<[Cell; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// No rows yet.
    pub(crate) const fn new(columns: [Column; COLUMNS]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row at the end.
    pub(crate) fn push(&mut self, row: [Cell; COLUMNS]) {
        self.rows.push(row);
    }

    /// Whether there is no row.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Titles and rows, a line end behind each line.
    pub(crate) fn render(&self, room: Room) -> String {
        let shown: Vec<usize> =
            (0..COLUMNS).filter(|at| room == Room::Unbounded || !self.column(*at).is_extra).collect();
        let mut widths: Vec<Width> = shown.iter().map(|at| self.width(*at)).collect();
        if let Room::Columns(limit) = room {
            fit(&mut widths, limit);
        }
        let titles = shown.iter().map(|at| vec![self.column(*at).title.to_owned()]);
        let mut text = String::new();
        self.lines(&mut text, &shown, &widths, &titles.collect::<Vec<_>>(), |_| Style::new().bold());
        for row in &self.rows {
            let cells = shown.iter().zip(&widths).filter_map(|(at, width)| {
                let Cell { text, .. } = row.get(*at)?;
                Some(match self.column(*at).is_wrapped {
                    true => wrapped(text, width.given),
                    false => vec![cut(text, width.given)],
                })
            });
            let style = |at: usize| row.get(at).map_or_else(Style::new, |cell| cell.tone.style());
            self.lines(&mut text, &shown, &widths, &cells.collect::<Vec<_>>(), style);
        }
        text
    }

    fn column(&self, at: usize) -> Column {
        self.columns.get(at).copied().unwrap_or(Column::text(""))
    }

    fn width(&self, at: usize) -> Width {
        let title = self.column(at).title.chars().count();
        let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.text.chars().count());
        let given = cells.fold(title, usize::max);
        if at == 0 {
            return Width { given, decent: given, least: given };
        }
        let least = given.min(title.max(NARROWEST));
        let decent = match self.column(at).is_wrapped {
            true => self
                .rows
                .iter()
                .filter_map(|row| row.get(at))
                .map(|cell| longest_part(&cell.text))
                .fold(least, usize::max),
            false => least,
        };
        Width { given, decent: decent.min(given), least }
    }

    /// Writes the lines of one row, whose cells may have several.
    fn lines(
        &self,
        text: &mut String,
        shown: &[usize],
        widths: &[Width],
        cells: &[Vec<String>],
        style: impl Fn(usize) -> Style,
    ) {
        let height = cells.iter().map(Vec::len).max().unwrap_or_default();
        for line in 0..height {
            // Spaces are written only before something: no line ends with one.
            let mut owed = 0;
            for ((at, width), cell) in shown.iter().zip(widths).zip(cells) {
                let part = cell.get(line).map_or("", String::as_str);
                let rest = width.given.saturating_sub(part.chars().count());
                let (before, after) = if self.column(*at).is_number { (rest, 0) } else { (0, rest) };
                if !part.is_empty() {
                    let style = style(*at);
                    text.extend(std::iter::repeat_n(' ', owed + before));
                    text.push_str(&format!("{style}{part}{style:#}"));
                    owed = after + GAP;
                } else {
                    owed += width.given + GAP;
                }
            }
            text.push('\n');
        }
    }
}

/// Of a column.
#[derive(Debug, Clone, Copy)]
struct Width {
    given: usize,
    /// Below this, words are broken within their parts.
    decent: usize,
    least: usize,
}

/// Takes from the widest column, again and again, until all fit or none can give any more.
fn fit(widths: &mut [Width], limit: usize) {
    let gaps = GAP * widths.len().saturating_sub(1);
    let mut over = (widths.iter().map(|width| width.given).sum::<usize>() + gaps).saturating_sub(limit);
    for keeps in [|width: &Width| width.decent, |width: &Width| width.least] {
        while over > 0 {
            // The last of those that are equally wide: it is the least important one.
            let widest = widths.iter_mut().filter(|width| width.given > keeps(width)).max_by_key(|width| width.given);
            let Some(widest) = widest else { break };
            widest.given -= 1;
            over -= 1;
        }
    }
}

/// The text, or as much of it as fits before a `…`.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The longest stretch of a text within which nothing may be broken.
fn longest_part(text: &str) -> usize {
    let parts = text.split_inclusive(|character: char| character == ' ' || JOINTS.contains(character));
    parts.map(|part| part.trim_end().chars().count()).max().unwrap_or_default()
}

/// A sentence below a title, a line end behind each line; what is too long goes on a little further in.
pub(crate) fn below(sentence: &str, room: Room) -> String {
    const FIRST: &str = "  ";
    const OTHERS: &str = "    ";
    let lines = wrapped(sentence, room.beside(OTHERS.len()));
    let line = |(at, line): (usize, &String)| format!("{}{line}\n", if at == 0 { FIRST } else { OTHERS });
    lines.iter().enumerate().map(line).collect()
}

/// How many columns a text takes on a terminal, which shows nothing of what colours it.
fn columns(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(|shown| shown.chars().count()).sum()
}

/// The text in lines that fit, broken at spaces where there are any. It may be coloured.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let (taken, used) = (columns(word), lines.last().map_or(0, |line| columns(line)));
        let mut word: Vec<char> = word.chars().collect();
        let space = usize::from(used > 0);
        if used > 0 && used + space + taken > width {
            lines.push(String::new());
        } else if let Some(line) = lines.last_mut().filter(|_| space > 0) {
            line.push(' ');
        }
        // A word that is longer than a line is broken at a joint, or anywhere.
        while taken > width && word.len() > width {
            let joint = word.iter().take(width).rposition(|character| JOINTS.contains(*character)).filter(|at| *at > 0);
            let rest = word.split_off(joint.map_or(width, |at| at + 1));
            if let Some(line) = lines.last_mut() {
                line.extend(word);
            }
            lines.push(String::new());
            word = rest;
        }
        if let Some(line) = lines.last_mut() {
            line.extend(word);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Table<4> {
        let columns =
            [Column::text("NAME"), Column::number("RPS"), Column::text("CLUSTER"), Column::text("VERSION").extra()];
        let mut table = Table::new(columns);
        let long = "outbound|9080|v1|reviews.default.svc.cluster.local";
        table.push(["productpage-1.default".into(), 7.into(), long.into(), "v1".into()]);
        table.push(["shop".into(), 12_345.into(), Cell::bad("lost"), Cell::nothing()]);
        table
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn wide_shows_all_columns_uncut() {
        let expected = "\
NAME                     RPS  CLUSTER                                             VERSION
productpage-1.default      7  outbound|9080|v1|reviews.default.svc.cluster.local  v1
shop                   12345  lost                                                -
";
        assert_eq!(plain(&example().render(Room::Unbounded)), expected);
    }

    #[test]
    fn the_widest_column_is_cut_until_the_table_fits() {
        let expected = "\
NAME                     RPS  CLUSTER
productpage-1.default      7  outbound|9080|v1|review…
shop                   12345  lost
";
        assert_eq!(plain(&example().render(Room::Columns(54))), expected);
    }

    #[test]
    fn the_first_column_and_titles_are_never_cut() {
        let expected = "\
NAME                     RPS  CLUSTER
productpage-1.default      7  outboun…
shop                   12345  lost
";
        assert_eq!(plain(&example().render(Room::Columns(1))), expected);
    }

    #[test]
    fn sentences_are_wrapped_in_their_column() {
        let mut table = Table::new([Column::text("PROXY"), Column::text("LAST NACK").wrapped(), Column::text("AGE")]);
        table.push(["shop".into(), "clusters: no such thing as outlier".into(), "1s".into()]);
        let expected = "\
PROXY  LAST NACK       AGE
shop   clusters: no    1s
       such thing as
       outlier
";
        assert_eq!(plain(&table.render(Room::Columns(26))), expected);
    }

    #[test]
    fn names_are_broken_at_their_joints_while_another_column_can_give() {
        let mut table = Table::new([Column::text("HOST"), Column::text("MATCH"), Column::text("RULE").wrapped()]);
        table.push(["reviews".into(), "path with a prefix".into(), "VirtualService default/productpage-v1".into()]);
        let expected = "\
HOST     MATCH       RULE
reviews  path with…  VirtualService
                     default/
                     productpage-v1
";
        assert_eq!(plain(&table.render(Room::Columns(35))), expected);
    }

    #[test]
    fn colours_take_no_room() {
        let text = format!("{0}one two{0:#} three", Style::new().bold());
        assert_eq!(wrapped(&text, 7).iter().map(|line| plain(line)).collect::<Vec<_>>(), ["one two", "three"]);
    }

    #[test]
    fn a_sentence_below_a_title_goes_on_further_in() {
        assert_eq!(below("one two three", Room::Columns(12)), "  one two\n    three\n");
        assert_eq!(below("one two three", Room::Unbounded), "  one two three\n");
    }

    #[test]
    fn words_without_spaces_are_broken_and_lose_nothing() {
        for (text, lines) in [
            ("", vec![""]),
            ("abc", vec!["abc"]),
            ("abcdefgh", vec!["abcd", "efgh"]),
            ("ab cdefghi j", vec!["ab", "cdef", "ghi", "j"]),
            ("ab c", vec!["ab c"]),
            ("a/bc/defgh", vec!["a/", "bc/", "defg", "h"]),
        ] {
            assert_eq!(wrapped(text, 4), lines, "{text}");
        }
    }

    #[test]
    fn every_table_that_can_fits_its_room() {
        let table = example();
        for limit in 40..100 {
            let text = plain(&table.render(Room::Columns(limit)));
            assert!(text.lines().all(|line| line.chars().count() <= limit), "{limit}\n{text}");
        }
    }

    #[test]
    fn colours_tell_what_a_cell_means_and_control_characters_do_nothing() {
        let mut table = Table::new([Column::text("A"), Column::text("B")]);
        table.push([Cell::good("ok"), Cell::from("\u{1b}[31mred\n")]);
        let text = table.render(Room::Unbounded);
        assert!(text.contains("\u{1b}[32mok\u{1b}[0m"), "{text:?}");
        assert_eq!(plain(&text), "A   B\nok  \\u{1b}[31mred\\n\n");
        assert_eq!(Cell::from("").text, "-");
    }
}
