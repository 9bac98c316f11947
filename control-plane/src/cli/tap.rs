//! `leno tap`: requests and connections of one or many proxies, live.
//!
//! A proxy tells of what has ended, and only as much as it was asked for: it filters, it keeps to a rate, and it shows no
//! credentials. `leno top` (`top.rs`) counts the same lines.
//!
//! * [`lines`]: from the proxies to one stream of lines. [`seen`]: what a line says.

pub(super) mod lines;
pub(super) mod seen;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use self::lines::{Line, Taps};
use self::seen::Seen;
use super::Output;
use super::failure::Failure;
use super::mesh_view::millis;

/// Characters of the name of a workload, on either side.
const NAME: usize = 20;

/// Which requests and connections are wanted, and whose.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Wish {
    /// Proxies (NAME, NAME.NAMESPACE or node id) or workloads; none: all of the namespace
    #[arg(value_name = "PROXY")]
    pub(super) proxies: Vec<String>,
    /// HTTP address of the control plane
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:15014", env = "LENO_STATUS_ADDRESS")]
    pub(super) address: String,
    /// HTTP address of the admin interface of one proxy, in place of the control plane
    #[arg(long, value_name = "URL", conflicts_with_all = ["proxies", "all_namespaces"])]
    pub(super) proxy: Option<String>,
    /// Namespace of the proxies
    #[arg(short, long, default_value = "default", env = "LENO_NAMESPACE")]
    pub(super) namespace: String,
    /// Proxies of all namespaces
    #[arg(short = 'A', long)]
    pub(super) all_namespaces: bool,
    /// Only answers like this: 5xx, 404, >=500, <400 or 400-499
    #[arg(long)]
    status: Option<String>,
    /// Only requests with this method
    #[arg(long)]
    method: Option<String>,
    /// Only requests whose path begins like this
    #[arg(long)]
    path: Option<String>,
    /// Only requests to this host
    #[arg(long)]
    authority: Option<String>,
    /// Only with this response flag: UF, any, or - for none
    #[arg(long, allow_hyphen_values = true)]
    flag: Option<String>,
    /// Only what took at least so long, as 250ms
    #[arg(long, value_name = "TIME")]
    min_duration: Option<String>,
    /// A sample: so many of a hundred
    #[arg(long, value_name = "NUMBER")]
    percent: Option<String>,
    /// At most so many a second of each proxy
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    rate: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Direction {
    /// What comes to the workloads
    Inbound,
    /// What goes out from them
    Outbound,
    /// Both: a request between two sidecars is seen twice
    Both,
}

impl Wish {
    /// As a query of the proxy's `/tap`.
    pub(super) fn query(&self, direction: Direction, duration: Duration, rest: &[(&str, &str)]) -> String {
        let Self { status, method, path, authority, flag, min_duration, percent, rate, .. } = self;
        let filters = [
            ("status", status),
            ("method", method),
            ("path", path),
            ("authority", authority),
            ("flag", flag),
            ("min_duration", min_duration),
            ("percent", percent),
        ];
        let mut query = format!("duration={}s&rate={rate}", duration.as_secs());
        let filters = filters.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?)));
        let direction = match direction {
            Direction::Inbound => Some(("direction", "inbound")),
            Direction::Outbound => Some(("direction", "outbound")),
            Direction::Both => None,
        };
        for (key, value) in filters.chain(direction).chain(rest.iter().copied()) {
            query.push_str(&format!("&{key}={}", percent_encoded(value)));
        }
        query
    }
}

/// Everything but letters, digits and `-._~` (RFC 3986's unreserved characters).
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// `leno tap`
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    wish: Wish,
    /// Which way, seen from the proxies
    #[arg(long, value_enum, default_value_t = Direction::Both)]
    direction: Direction,
    /// For how long: 1s to 3600s
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,
    /// End after so many lines
    #[arg(long, value_name = "NUMBER")]
    max: Option<u64>,
    /// With the headers of requests and answers (-o json); credentials are never shown
    #[arg(long)]
    headers: bool,
    /// With what stands after the `?` of a path
    #[arg(long)]
    query: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Shows until the time is over, so many have been shown, or ctrl-c.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(show(arguments))
}

async fn show(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let Arguments { wish, direction, duration, max, headers, query, output } = arguments;
    let extra = [("headers", *headers), ("query", *query)];
    let extra = extra.iter().filter(|(_, wanted)| *wanted).map(|(key, _)| (*key, "true")).collect::<Vec<_>>();
    let query = wish.query(*direction, Duration::from_secs(*duration), &extra);
    let mut taps = Taps::open(wish, &query).await?;
    let (mut shown, mut dropped) = (0, 0);
    if *output == Output::Table {
        writeln!(anstream::stderr(), "tapping {}; ctrl-c ends it", taps.names())?;
    }
    while max.is_none_or(|max| shown < max) {
        let line = tokio::select! {
            line = taps.next() => line,
            _ = tokio::signal::ctrl_c() => break,
        };
        let Some(Line { proxy, text }) = line else { break };
        let seen: Seen = serde_json::from_str(&text).with_context(|| format!("{proxy} says what is not understood"))?;
        match seen.dropped {
            Some(more) => dropped += more,
            None => {
                shown += 1;
                print(*output, &proxy, &text, &seen)?;
            }
        }
    }
    if dropped > 0 {
        let more = "they came faster than --rate; a filter or --percent shows the right ones";
        writeln!(anstream::stderr(), "{dropped} more were not shown: {more}")?;
    }
    taps.outcome()?;
    Ok(ExitCode::SUCCESS)
}

fn print(output: Output, proxy: &str, text: &str, seen: &Seen) -> anyhow::Result<()> {
    let mut stdout = anstream::stdout();
    let whole = || -> anyhow::Result<Value> {
        let mut value: Value = serde_json::from_str(text)?;
        value["proxy"] = Value::from(proxy);
        Ok(value)
    };
    match output {
        Output::Table => writeln!(stdout, "{}", line(seen, NAME))?,
        Output::Wide => writeln!(stdout, "{}  {}", line(seen, 2 * NAME), more(seen, proxy))?,
        Output::Json => writeln!(stdout, "{}", whole()?)?,
        Output::Yaml => write!(stdout, "---\n{}", serde_yaml::to_string(&whole()?)?)?,
    }
    stdout.flush()?;
    Ok(())
}

/// `12:01:02.345 productpage          → reviews              GET     200 -      4.2ms /reviews/0`
fn line(seen: &Seen, name: usize) -> String {
    let time = seen.time.get(11..23).unwrap_or(&seen.time);
    let status = seen.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let text = format!(
        "{} {} → {} {} {} {} {:>8} {}",
        fitted(time, 12),
        fitted(seen.source.name(), name),
        fitted(seen.destination.name(), name),
        fitted(seen.method.as_deref().unwrap_or("TCP"), 7),
        fitted(&status, 3),
        fitted(&seen.flags, 4),
        millis(seen.duration_ms),
        clean(seen.path.as_deref().unwrap_or_default()),
    );
    text.trim_end().to_owned()
}

/// What `-o wide` tells beyond the line.
fn more(seen: &Seen, proxy: &str) -> String {
    let secured = if seen.source.identity.is_some() && seen.destination.identity.is_some() { "mTLS" } else { "clear" };
    let authority = clean(seen.authority.as_deref().unwrap_or("-"));
    let rule = clean(seen.rule.as_deref().unwrap_or("-"));
    let error = seen.error.as_deref().map(|error| format!(" \"{}\"", clean(error))).unwrap_or_default();
    format!("{authority} {secured} {} {rule} attempts={}{error}", clean(proxy), seen.attempts)
}

/// In so many characters: cut or filled.
fn fitted(text: &str, width: usize) -> String {
    let text = clean(text);
    match text.chars().count() > width {
        true => text.chars().take(width - 1).chain(['…']).collect(),
        false => format!("{text:width$}"),
    }
}

/// Much of what is shown was said by a peer: control characters are escaped.
fn clean(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut clean, character| {
        match character.is_control() {
            true => clean.extend(character.escape_default()),
            false => clean.push(character),
        }
        clean
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: &str = r#"{"time":"2026-11-22T12:01:02.345Z","kind":"request","direction":"inbound","flags":"-",
        "duration_ms":4.2,"source":{"workload":"productpage"},"destination":{"workload":"a-name-that-goes-on-and-on"},
        "method":"GET","path":"/reviews/\u001b[31m0","status":200,"attempts":1}"#;

    #[test]
    fn a_line_is_aligned_and_harmless() {
        let seen: Seen = serde_json::from_str(SEEN).expect("valid");
        assert_eq!(
            line(&seen, NAME),
            "12:01:02.345 productpage          → a-name-that-goes-on… GET     200 -       4.2ms /reviews/\\u{1b}[31m0"
        );
        let connection = Seen { method: None, status: None, path: None, ..seen };
        let text = line(&connection, NAME);
        assert!(text.ends_with("TCP     -   -       4.2ms"), "{text}");
    }

    #[test]
    fn a_wish_becomes_a_query() {
        #[derive(clap::Parser)]
        struct Parser {
            #[command(flatten)]
            wish: Wish,
        }
        let parsed = <Parser as clap::Parser>::parse_from([
            "tap", "shop", "--status", ">=500", "--path", "/a b&c", "--flag", "-", "--rate", "7",
        ]);
        let query = parsed.wish.query(Direction::Inbound, Duration::from_secs(9), &[("headers", "true")]);
        assert_eq!(
            query,
            "duration=9s&rate=7&status=%3E%3D500&path=%2Fa%20b%26c&flag=-&direction=inbound&headers=true"
        );
    }
}
