//! `leno top`: what is asked of whom right now, counted from taps.
//!
//! On a terminal the table is drawn anew every second. Elsewhere, and with `--once`, what was seen in a while is printed
//! once, so that a script gets one table.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::Output;
use super::failure::Failure;
use super::mesh_view::{millis, percent};
use super::table::{Cell, Column, Room, Table};
use super::tap::lines::{Line, Taps};
use super::tap::seen::Seen;
use super::tap::{Direction, Wish};

/// Between two pictures.
const REFRESH: Duration = Duration::from_secs(1);
/// Rows that are told apart; what comes beyond is counted as `other`.
const ROWS: usize = 1000;
/// Lines of a terminal that does not say how many it has.
const USUAL_LINES: usize = 24;
/// The top left corner, and nothing on the screen.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// `leno top`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    wish: Wish,
    /// Which way, seen from the proxies; `outbound` shows calls to what has no sidecar
    #[arg(long, value_enum, default_value_t = Direction::Inbound)]
    direction: Direction,
    /// Print once and end, as where there is no terminal
    #[arg(long)]
    once: bool,
    /// For how long; without a terminal and with --once 10 s unless it is said, else until ctrl-c
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: Option<u64>,
    /// End after so many requests
    #[arg(long, value_name = "NUMBER")]
    max: Option<u64>,
    /// Form of what is printed once
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What requests are counted by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Key {
    source: String,
    destination: String,
    method: String,
    path: String,
}

/// What was seen of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    #[serde(flatten)]
    key: Key,
    count: u64,
    best_ms: f64,
    worst_ms: f64,
    last_ms: f64,
    /// Share of those that did not fail, 0 to 1.
    success: f64,
    #[serde(skip)]
    failures: u64,
}

/// All rows.
#[derive(Debug, Default)]
struct Board {
    rows: BTreeMap<Key, Row>,
    seen: u64,
    /// Not shown by the proxies.
    dropped: u64,
}

/// Counts until ctrl-c, or until the time is over.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(arguments))
}

async fn watch(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let is_live = std::io::stdout().is_terminal() && !arguments.once && arguments.output.is_for_people();
    let usual = if is_live { 3600 } else { 10 };
    let duration = Duration::from_secs(arguments.duration.unwrap_or(usual));
    let query = arguments.wish.query(arguments.direction, duration, &[]);
    let mut taps = Taps::open(&arguments.wish, &query).await?;
    let mut board = Board::default();
    let end = Instant::now() + duration;
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while arguments.max.is_none_or(|max| board.seen < max) {
        tokio::select! {
            line = taps.next() => match line {
                Some(line) => board.take(&line)?,
                None => break,
            },
            _ = refresh.tick(), if is_live => draw(&board, &taps.names())?,
            _ = tokio::signal::ctrl_c() => break,
            () = sleep_until(end) => break,
        }
    }
    match is_live {
        true => draw(&board, &taps.names())?,
        false => arguments.output.print(&board.sorted(), |room| board.table(room, usize::MAX))?,
    }
    taps.outcome()?;
    Ok(ExitCode::SUCCESS)
}

/// One picture: no longer than the screen.
fn draw(board: &Board, names: &str) -> anyhow::Result<()> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let lines = size.map_or(USUAL_LINES, |size| usize::from(size.ws_row)).saturating_sub(4);
    let mut stdout = anstream::stdout();
    write!(stdout, "{CLEAR}{} requests at {names}", board.seen)?;
    if board.dropped > 0 {
        write!(stdout, ", {} more came too fast to be told", board.dropped)?;
    }
    write!(stdout, "; ctrl-c ends\n\n{}", board.table(Room::of_stdout(), lines))?;
    Ok(stdout.flush()?)
}

impl Board {
    fn take(&mut self, line: &Line) -> anyhow::Result<()> {
        let seen: Seen =
            serde_json::from_str(&line.text).with_context(|| format!("{} says what is not understood", line.proxy))?;
        match seen.dropped {
            Some(dropped) => self.dropped += dropped,
            None => self.count(&seen),
        }
        Ok(())
    }

    fn count(&mut self, seen: &Seen) {
        self.seen += 1;
        // The port of a caller without a sidecar is another one each time.
        let source = seen.source.name();
        let source = match source.parse::<std::net::SocketAddr>() {
            Ok(address) => address.ip().to_string(),
            Err(_) => source.to_owned(),
        };
        let method = seen.method.clone().unwrap_or_else(|| "TCP".to_owned());
        let mut key =
            Key { source, destination: seen.destination.name().to_owned(), method, path: seen.plain_path().to_owned() };
        if self.rows.len() >= ROWS && !self.rows.contains_key(&key) {
            key.path = "other".to_owned();
            key.method = "-".to_owned();
        }
        let row = self.rows.entry(key.clone()).or_insert_with(|| Row::new(key, seen.duration_ms));
        row.take(seen);
    }

    /// The most frequent first.
    fn sorted(&self) -> Vec<Row> {
        let mut rows = self.rows.values().cloned().collect::<Vec<_>>();
        rows.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.key.cmp(&other.key)));
        rows
    }

    fn table(&self, room: Room, lines: usize) -> String {
        let mut table = Table::new([
            Column::text("SOURCE"),
            Column::text("DESTINATION"),
            Column::text("METHOD"),
            Column::text("PATH"),
            Column::number("COUNT"),
            Column::number("BEST"),
            Column::number("WORST"),
            Column::number("LAST"),
            Column::number("SUCCESS"),
        ]);
        for row in self.sorted().into_iter().take(lines) {
            let Row { key, count, best_ms, worst_ms, last_ms, success, failures } = row;
            let success = percent(success);
            table.push([
                key.source.into(),
                key.destination.into(),
                key.method.into(),
                key.path.into(),
                count.into(),
                millis(best_ms).into(),
                millis(worst_ms).into(),
                millis(last_ms).into(),
                if failures == 0 { Cell::good(success) } else { Cell::bad(success) },
            ]);
        }
        match table.is_empty() {
            true => "No request has ended yet.\n".to_owned(),
            false => table.render(room),
        }
    }
}

impl Row {
    fn new(key: Key, first_ms: f64) -> Self {
        Self { key, count: 0, best_ms: first_ms, worst_ms: first_ms, last_ms: first_ms, success: 1.0, failures: 0 }
    }

    fn take(&mut self, seen: &Seen) {
        self.count += 1;
        self.failures += u64::from(seen.has_failed());
        self.best_ms = self.best_ms.min(seen.duration_ms);
        self.worst_ms = self.worst_ms.max(seen.duration_ms);
        self.last_ms = seen.duration_ms;
        #[allow(clippy::cast_precision_loss)]
        let failed = self.failures as f64 / self.count as f64;
        self.success = 1.0 - failed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(path: &str, status: u16, duration_ms: f64) -> Line {
        let text = serde_json::json!({
            "source": {"workload": "web"}, "destination": {"workload": "cart"}, "flags": "-",
            "method": "GET", "path": path, "status": status, "duration_ms": duration_ms,
        });
        Line { proxy: "cart-1".to_owned(), text: text.to_string() }
    }

    #[test]
    fn requests_are_counted_by_who_asks_whom_what() {
        let mut board = Board::default();
        for line in [seen("/a?x=1", 200, 3.0), seen("/a?x=2", 503, 9.0), seen("/b", 404, 1.0), seen("/a", 200, 5.0)] {
            board.take(&line).expect("valid");
        }
        board.take(&Line { proxy: "cart-1".to_owned(), text: r#"{"dropped": 7}"#.to_owned() }).expect("valid");
        let expected = "\
SOURCE  DESTINATION  METHOD  PATH  COUNT   BEST  WORST   LAST  SUCCESS
web     cart         GET     /a        3  3.0ms  9.0ms  5.0ms   66.67%
web     cart         GET     /b        1  1.0ms  1.0ms  1.0ms  100.00%
";
        let text = anstream::adapter::strip_str(&board.table(Room::Columns(80), 10)).to_string();
        assert_eq!(text, expected);
        assert_eq!((board.seen, board.dropped), (4, 7));
    }

    #[test]
    fn rows_have_a_bound() {
        let mut board = Board::default();
        for number in 0..2 * ROWS {
            board.take(&seen(&format!("/{number}"), 200, 1.0)).expect("valid");
        }
        assert_eq!(board.rows.len(), ROWS + 1);
        let other = board.rows.values().find(|row| row.key.path == "other").expect("the rest");
        assert_eq!(other.count as usize, ROWS);
    }
}
