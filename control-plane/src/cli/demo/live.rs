//! The live demo: steady traffic, and a table that follows it.

use std::collections::VecDeque;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::bookshop::{Bookshop, CONTROL_PLANE};
use super::expectation::{self, Expectation};
use super::load::{self, Order, Sample};
use super::report::Observed;
use super::topology::OBSERVED_CALLS;
use super::{Arguments, ONE_BY_HEADER_IN, Output, kinds, print, program, progress};

/// The table shows the requests of this long.
const WINDOW: Duration = Duration::from_secs(5);
/// And at most this many.
const MAX_SAMPLES: usize = 10_000;
/// Between two tables on a terminal.
const REFRESH: Duration = Duration::from_millis(500);
/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Pause of each of the callers: about a hundred requests a second in all.
const PAUSE: Duration = Duration::from_millis(75);

/// Runs until the requests are sent, or else until it is interrupted from outside.
pub(super) async fn run(bookshop: &mut Bookshop, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut screen = Screen::new(arguments.output);
    let mut rules = Rules::read(bookshop);
    let mut remaining = arguments.requests.map(|requests| requests.try_into().unwrap_or(usize::MAX));
    let (mut samples, mut _callers) = load::send(order(bookshop, &rules, remaining));
    let mut window = VecDeque::new();
    let mut tick = tokio::time::interval(screen.every());
    loop {
        tokio::select! {
            sample = samples.recv() => match sample {
                Some(sample) => {
                    remaining = remaining.map(|remaining: usize| remaining.saturating_sub(1));
                    window.push_back((Instant::now(), sample));
                    if window.len() > MAX_SAMPLES {
                        window.pop_front();
                    }
                }
                None => {
                    screen.show(&window, &rules)?;
                    return Ok(ExitCode::SUCCESS);
                }
            },
            _ = tick.tick() => {
                let kinds_before = kinds(&rules.expectation);
                rules.read_again(bookshop);
                if kinds(&rules.expectation) != kinds_before {
                    // Other headers are asked for now: what was sent until now answers another question.
                    window.clear();
                    (samples, _callers) = load::send(order(bookshop, &rules, remaining));
                }
                let now = Instant::now();
                while window.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
                    window.pop_front();
                }
                mourn(bookshop, &mut screen);
                screen.show(&window, &rules)?;
            }
        }
    }
}

/// Steady traffic of all kinds that the rules tell apart.
fn order(bookshop: &Bookshop, rules: &Rules, count: Option<usize>) -> Order {
    Order { to: bookshop.entry, kinds: kinds(&rules.expectation), count, pause: PAUSE, kind_of: mostly_plain }
}

/// One request in a few has the headers that a rule asks for, each such rule in turn.
fn mostly_plain(number: usize, kinds: usize) -> usize {
    if kinds > 1 && number.is_multiple_of(ONE_BY_HEADER_IN) { 1 + number / ONE_BY_HEADER_IN % (kinds - 1) } else { 0 }
}

/// Tells of children that died; the demo goes on, since killing some is part of it.
fn mourn(bookshop: &mut Bookshop, screen: &mut Screen) {
    for obituary in bookshop.newly_dead() {
        screen.interrupt();
        progress(&obituary.to_string());
        if obituary.name == CONTROL_PLANE {
            progress("the sidecars go on with the rules they have; to start it again:");
            progress(&format!("  {} {}", program(), bookshop.control_plane.arguments.join(" ")));
        }
    }
}

/// What the rules say now, and what is wrong with them.
struct Rules {
    expectation: Expectation,
    finding: Option<String>,
}

impl Rules {
    fn read(bookshop: &Bookshop) -> Self {
        let mut rules = Self { expectation: Expectation::default(), finding: None };
        rules.read_again(bookshop);
        rules
    }

    /// While the rules have errors, the mesh keeps the last good ones, and so does the expectation.
    fn read_again(&mut self, bookshop: &Bookshop) {
        match expectation::read(&bookshop.rules, &bookshop.caller().workload.node(), OBSERVED_CALLS) {
            Ok(expectation) => *self = Self { expectation, finding: None },
            Err(error) => self.finding = Some(error.to_string()),
        }
    }
}

/// Where tables go: over one another on a terminal, else one line after the other.
struct Screen {
    output: Output,
    terminal: bool,
    lines: usize,
}

impl Screen {
    fn new(output: Output) -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { output, terminal: std::io::stdout().is_terminal() && !dumb, lines: 0 }
    }

    fn every(&self) -> Duration {
        if self.terminal && self.output.is_for_people() { REFRESH } else { LINE_EVERY }
    }

    /// Something else is about to be printed; the next table stands below it.
    fn interrupt(&mut self) {
        self.lines = 0;
    }

    fn show(&mut self, window: &VecDeque<(Instant, Sample)>, rules: &Rules) -> anyhow::Result<()> {
        let mut observed = Observed::default();
        for (_, sample) in window {
            observed.add(sample, &rules.expectation);
        }
        match self.output {
            Output::Table | Output::Wide => {}
            Output::Json => return print(&format!("{}\n", observed.as_json(&rules.expectation))),
            Output::Yaml => {
                return print(&format!("---\n{}", serde_yaml::to_string(&observed.as_json(&rules.expectation))?));
            }
        }
        let mut text = observed.as_table(&rules.expectation);
        if let Some(finding) = &rules.finding {
            text.push_str(&format!("the rules have errors; the last good ones are in force:\n{finding}\n"));
        }
        if let Some(failure) = observed.failures.first() {
            text.push_str(&format!("a request failed: {failure}\n"));
        }
        if !self.terminal {
            return print(&text);
        }
        // Up over the last table, and clear from there.
        let back = if self.lines == 0 { String::new() } else { format!("\x1b[{}A\x1b[J", self.lines) };
        self.lines = text.lines().count();
        print(&format!("{back}{text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_in_ten_has_the_headers_of_a_rule_each_rule_in_turn() {
        let kinds: Vec<usize> = (0..40).map(|number| mostly_plain(number, 3)).collect();
        assert_eq!(kinds.iter().filter(|kind| **kind == 0).count(), 36);
        assert_eq!([kinds[0], kinds[10], kinds[20], kinds[30]], [1, 2, 1, 2]);
        assert!((0..40).all(|number| mostly_plain(number, 1) == 0));
    }
}
