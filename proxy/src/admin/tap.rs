//! `GET /tap`: requests and connections as they end, one JSON object a line, until the time is over or the reader leaves.
//!
//! | parameter | |
//! |---|---|
//! | `duration` | how long, as `60s` (the default), `5m`, at most `1h` |
//! | `max` | ends after so many |
//! | `rate` | at most so many a second (100); the others are counted and told as `{"dropped": N}` |
//! | `percent` | a sample of those that the filter takes |
//! | `status` | `5xx`, `404`, `>=500`, `<400`, `400-499` |
//! | `method`, `authority` | as they stand in the request |
//! | `path` | how it begins |
//! | `flag` | `UF`, `any`, or `-` for none |
//! | `min_duration` | `250ms` |
//! | `direction` | `inbound` or `outbound` |
//! | `headers` | with the headers of request and answer; credentials are never shown |
//! | `query` | with what stands after the `?` |

mod line;

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderValue};
use leno_config::ir::Direction;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, timeout_at};

use crate::telemetry::tap::{Filter, Listening, MAX_TAPS, Wish};

use super::Shared;
use super::answer::{AdminBody, Answer, text};
use super::query::{Query, QueryError};

use line::Own;

/// What the page understands.
pub(super) const PARAMETERS: &[&str] = &[
    "duration",
    "max",
    "rate",
    "percent",
    "status",
    "method",
    "path",
    "authority",
    "flag",
    "min_duration",
    "direction",
    "headers",
    "query",
];

/// How long, when nobody says.
const DURATION: Duration = Duration::from_secs(60);
/// How long at most.
pub(super) const LONGEST: Duration = Duration::from_secs(3600);
/// A rate beyond this is no rate.
const MAX_RATE: u32 = 10_000;
/// Lines that wait for the reader.
const LINES: usize = 16;
/// How often is told what was dropped.
const TOLD: Duration = Duration::from_secs(1);

/// How a tap is told, and for how long.
struct Telling {
    end: Instant,
    max: u64,
    query: bool,
    own: Own,
}

/// `GET /tap`. Has to be called within a runtime, on which the tap goes on.
pub(super) fn answer(shared: &Shared, query: &Query) -> Result<Answer, QueryError> {
    let wish = wish(query)?;
    let duration = query.duration("duration")?.unwrap_or(DURATION);
    if duration.is_zero() || duration > LONGEST {
        let given = query.value("duration").unwrap_or_default();
        return Err(Query::wrong("duration", given, "say more than nothing and at most 1h"));
    }
    let telling = Telling {
        end: Instant::now() + duration,
        max: query.parsed("max", "a number")?.unwrap_or(u64::MAX),
        query: query.switch("query")?,
        own: Own::of(shared),
    };
    let Some(listening) = shared.telemetry.taps.open(wish) else {
        let says = format!("there are {MAX_TAPS} taps already; try again when one has ended\n");
        return Ok(text(StatusCode::TOO_MANY_REQUESTS, says));
    };
    let (lines, body) = mpsc::channel(LINES);
    tokio::spawn(tell(listening, lines, telling));
    let mut answer = Answer::new(AdminBody::stream(body));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(answer)
}

fn wish(query: &Query) -> Result<Wish, QueryError> {
    let percent: f64 = query.parsed("percent", "a number")?.unwrap_or(100.0);
    if !(percent > 0.0 && percent <= 100.0) {
        return Err(Query::wrong(
            "percent",
            query.value("percent").unwrap_or_default(),
            "is not above 0 and up to 100",
        ));
    }
    let rate = query.parsed("rate", "a number")?.unwrap_or(Wish::default().rate);
    if rate == 0 || rate > MAX_RATE {
        let given = query.value("rate").unwrap_or_default();
        return Err(Query::wrong("rate", given, format!("say how many a second, 1 to {MAX_RATE}")));
    }
    let direction = query.one_of("direction", &["inbound", "outbound"])?;
    let filter = Filter {
        status: query.parsed("status", "a status; write 5xx, 404, >=500, <400 or 400-499")?,
        method: query.parsed("method", "a method")?,
        path: query.value("path").map(str::to_owned),
        authority: query.value("authority").map(str::to_owned),
        flag: query.parsed("flag", "a flag; write one as UF, any, or - for none")?,
        min_duration: query.duration("min_duration")?,
        direction: direction.map(|word| if word == "inbound" { Direction::Inbound } else { Direction::Outbound }),
    };
    // Within 1 to a million.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let sample = ((percent * 10_000.0).round() as u32).max(1);
    Ok(Wish { filter, sample, rate, headers: query.switch("headers")? })
}

/// Writes lines until the end, or until nobody reads. A reader that is slow loses lines and holds up nobody else.
async fn tell(mut listening: Listening, lines: mpsc::Sender<Bytes>, telling: Telling) {
    let mut told = 0;
    let mut tick = interval_at(Instant::now() + TOLD, TOLD);
    while told < telling.max {
        let line = tokio::select! {
            seen = listening.next() => {
                let Some(seen) = seen else { break };
                told += 1;
                line::of(&seen, &telling.own, telling.query)
            }
            _ = tick.tick() => match listening.dropped() {
                0 => continue,
                dropped => line::dropped(dropped),
            },
            () = tokio::time::sleep_until(telling.end) => break,
            () = lines.closed() => return,
        };
        // Over, or the reader has left.
        if !matches!(timeout_at(telling.end, lines.send(line)).await, Ok(Ok(()))) {
            break;
        }
    }
    let dropped = listening.dropped();
    if dropped > 0 {
        // Who has left need not hear of it, and who does not read cannot.
        let _ = lines.try_send(line::dropped(dropped));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_what_the_query_says() {
        let read = |text: &str| Query::of(text, PARAMETERS).and_then(|query| wish(&query));
        let plain = read("").expect("everything");
        assert_eq!(plain, Wish::default());
        let all = read(
            "status=>=500&method=GET&path=/api&authority=shop&flag=UF&min_duration=250ms&direction=inbound&headers=1&percent=0.5&rate=7",
        );
        let all = all.expect("valid");
        assert_eq!((all.sample, all.rate, all.headers), (5_000, 7, true));
        assert_eq!(all.filter.min_duration, Some(Duration::from_millis(250)));
        assert_eq!(all.filter.direction, Some(Direction::Inbound));
        assert!(all.filter.status.is_some_and(|status| status.takes(503)));
        for bad in [
            "percent=0",
            "percent=101",
            "percent=NaN",
            "rate=0",
            "rate=10001",
            "status=abc",
            "flag=XX",
            "method=G%20T",
            "direction=up",
            "min_duration=5",
            "headers=maybe",
            "staus=5xx",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
