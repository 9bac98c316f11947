//! What the access logs say: a line for each request, and nothing beside them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use leno_tests::eventually;
use serde_json::Value;

use super::kinds::{Order, There};

/// One line: status and flags.
type Line = (u16, String);

/// The lines of a run, by the number of the request.
pub(super) struct Log {
    /// Of the caller's sidecar.
    here: BTreeMap<usize, Vec<Line>>,
    /// Of the apps' sidecars, in the order in which they were written.
    there: BTreeMap<usize, Vec<Line>>,
}

impl Log {
    /// Reads the file that all sidecars write, once it has as many lines as requests were counted. `outbound` is where the
    /// caller's sidecar listens.
    pub(super) async fn read(file: &Path, outbound: SocketAddr, counted: usize) -> Self {
        let text = eventually("every request has its line", async || {
            let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
            let lines = text.lines().count();
            if lines >= counted && text.ends_with('\n') { Ok(text) } else { Err(format!("{lines} of {counted} lines")) }
        })
        .await;
        assert_eq!(text.lines().count(), counted, "lines and requests");
        let mut log = Self { here: BTreeMap::new(), there: BTreeMap::new() };
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let number = line["path"].as_str().and_then(|path| path.rsplit('/').next()?.parse().ok());
            let number: usize = number.unwrap_or_else(|| panic!("a line of no request: {line}"));
            let code = line["response_code"].as_u64().and_then(|code| u16::try_from(code).ok());
            let said = (code.unwrap_or_default(), line["response_flags"].as_str().unwrap_or_default().to_owned());
            let is_here = line["downstream_local_address"] == outbound.to_string();
            let lines = if is_here { &mut log.here } else { &mut log.there };
            lines.entry(number).or_default().push(said);
        }
        log
    }

    /// What is wrong with the lines of these requests.
    pub(super) fn complaints(&self, orders: &[Order]) -> Vec<String> {
        orders.iter().filter(|order| !self.agrees(order)).map(|order| self.told(order)).collect()
    }

    fn agrees(&self, order: &Order) -> bool {
        let here = self.here.get(&order.number).map(Vec::as_slice).unwrap_or_default();
        let there = self.there.get(&order.number).map(Vec::as_slice).unwrap_or_default();
        let said = |line: &Line, (code, flags): (u16, &str)| (line.0, line.1.as_str()) == (code, flags);
        let once_here = matches!(here, [line] if said(line, order.kind.here));
        once_here
            && match order.kind.there {
                There::Each(words) => {
                    words.len() == there.len() && there.iter().zip(words).all(|(line, word)| said(line, *word))
                }
                There::AtMost(word) => there.len() <= 1 && there.iter().all(|line| said(line, word)),
            }
    }

    fn told(&self, order: &Order) -> String {
        let (here, there) = (self.here.get(&order.number), self.there.get(&order.number));
        format!("{}: here {here:?}, there {there:?}", order.path())
    }
}
