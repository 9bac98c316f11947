//! What the demo says: the table, the JSON, and what to try.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::bookshop::Bookshop;
use super::expectation::{Expectation, Split, all_versions};
use super::load::Sample;
use super::observation::{Tally, nearest_rank};
use super::topology::SERVICE_PORT;

/// All that was observed of some requests.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Requests without particular headers.
    pub(super) requests: usize,
    /// Requests of any kind that failed.
    pub(super) failed: usize,
    /// The first failures, in words.
    pub(super) failures: Vec<String>,
    /// Times of whole requests, in milliseconds.
    times: Vec<f64>,
    /// By service, requests without particular headers.
    services: BTreeMap<String, Tally>,
    /// By place in [`Expectation::by_header`].
    by_header: BTreeMap<usize, Tally>,
}

/// Failures that are told in words; the rest is counted.
const TOLD: usize = 5;

impl Observed {
    /// Adds one sample. Kind 0 is without headers; kind `n` is the header case `n - 1`.
    pub(super) fn add(&mut self, sample: &Sample, expectation: &Expectation) {
        self.requests += usize::from(sample.kind == 0);
        let seen = match &sample.outcome {
            Ok(seen) => seen,
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < TOLD {
                    self.failures.push(error.clone());
                }
                return;
            }
        };
        self.times.push(sample.took.as_secs_f64() * 1000.0);
        let case = sample.kind.checked_sub(1);
        for call in seen {
            match case {
                None => self.services.entry(call.service.clone()).or_default().count(&call.version, call.ms),
                Some(case) => {
                    if expectation.by_header.get(case).is_some_and(|known| known.service == call.service) {
                        self.by_header.entry(case).or_default().count(&call.version, call.ms);
                    }
                }
            }
        }
    }

    /// In words, all that does not agree with the rules.
    pub(super) fn disagreements(&self, expectation: &Expectation) -> Vec<String> {
        let mut found = Vec::new();
        if self.failed > 0 {
            found.push(format!("{} requests failed; the first: {}", self.failed, self.failures.join("; ")));
        }
        let nothing = Tally::default();
        for (service, expected) in &expectation.services {
            let tally = self.services.get(service).unwrap_or(&nothing);
            if tally.total() == 0 {
                found.push(format!("{service} was never reached"));
            }
            found.extend(tally.disagreements(service, expected));
        }
        for (at, case) in expectation.by_header.iter().enumerate() {
            let tally = self.by_header.get(&at).unwrap_or(&nothing);
            found.extend(tally.disagreements(&format!("`{}` → {}", case.title(), case.service), &case.split));
        }
        found
    }

    /// The JSON of `leno demo -o json`.
    pub(super) fn as_json(&self, expectation: &Expectation) -> Value {
        let nothing = Tally::default();
        let mut services = serde_json::Map::new();
        for (service, expected) in &expectation.services {
            let tally = self.services.get(service).unwrap_or(&nothing);
            let mut versions = serde_json::Map::new();
            for version in all_versions(expected, tally.versions()) {
                let row = json!({
                    "expected": expected.get(version).copied().unwrap_or(0.0),
                    "observed": tally.share(version),
                    "requests": tally.requests(version),
                    "p50_ms": tally.quantile(version, 0.5),
                    "p99_ms": tally.quantile(version, 0.99),
                });
                versions.insert(version.to_owned(), row);
            }
            services.insert(service.clone(), Value::Object(versions));
        }
        let mut header_match = serde_json::Map::new();
        for (at, case) in expectation.by_header.iter().enumerate() {
            let tally = self.by_header.get(&at).unwrap_or(&nothing);
            let counts: BTreeMap<&str, usize> =
                tally.versions().map(|version| (version, tally.requests(version))).collect();
            header_match.insert(case.title(), json!(counts));
        }
        json!({
            "requests": self.requests,
            "failed": self.failed,
            "service": services,
            "header_match": header_match,
        })
    }

    /// The table: what the rules say beside what is observed.
    pub(super) fn as_table(&self, expectation: &Expectation) -> String {
        let nothing = Tally::default();
        let mut text = format!(
            "{:<28} {:>10} {:>10} {:>10} {:>9} {:>9}\n",
            "productpage calls", "rules say", "observed", "requests", "p50 ms", "p99 ms"
        );
        let mut rows = |what: &str, expected: &Split, tally: &Tally| {
            let versions = all_versions(expected, tally.versions());
            let say = percents(versions.iter().map(|version| expected.get(*version).copied().unwrap_or(0.0)));
            let are = percents(versions.iter().map(|version| tally.share(version)));
            for ((version, says), is) in versions.into_iter().zip(say).zip(are) {
                let quantile = |q| tally.quantile(version, q).map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1}"));
                let _ = writeln!(
                    text,
                    "{:<28} {:>10} {:>10} {:>10} {:>9} {:>9}",
                    format!("{what} {version}"),
                    says,
                    is,
                    tally.requests(version),
                    quantile(0.5),
                    quantile(0.99),
                );
            }
        };
        for (service, expected) in &expectation.services {
            let tally = self.services.get(service).unwrap_or(&nothing);
            rows(service, expected, tally);
        }
        for (at, case) in expectation.by_header.iter().enumerate() {
            let tally = self.by_header.get(&at).unwrap_or(&nothing);
            rows(&format!("{} →", case.title()), &case.split, tally);
        }
        let _ = writeln!(text, "{}", self.summary());
        text
    }

    /// `success 100.00 % of 2200 requests, p50 3.1 ms, p99 8.0 ms`
    pub(super) fn summary(&self) -> String {
        let total = self.times.len() + self.failed;
        // Exact to 2⁵³ requests.
        #[allow(clippy::cast_precision_loss)]
        let success = 100.0 * self.times.len() as f64 / total.max(1) as f64;
        let quantile = |q| nearest_rank(&self.times, q).map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        let (p50, p99) = (quantile(0.5), quantile(0.99));
        format!("success {success:.2} % of {total} requests, p50 {p50}, p99 {p99}")
    }
}

/// Shares (0 to 1) as percents with one digit, which add up as the shares do: what rounding down leaves goes to those
/// that lost most.
fn percents(shares: impl Iterator<Item = f64>) -> Vec<String> {
    let exact: Vec<f64> = shares.map(|share| share.clamp(0.0, 1.0) * 1000.0).collect();
    let mut tenths: Vec<f64> = exact.iter().map(|exact| exact.floor()).collect();
    let mut left = exact.iter().sum::<f64>().round() - tenths.iter().sum::<f64>();
    let mut losers: Vec<usize> = (0..exact.len()).collect();
    let loss = |at: &usize| exact.get(*at).map_or(0.0, |exact| exact.fract());
    losers.sort_by(|one, other| loss(other).total_cmp(&loss(one)));
    for at in losers {
        if let Some(tenths) = tenths.get_mut(at).filter(|_| left >= 1.0) {
            *tenths += 1.0;
            left -= 1.0;
        }
    }
    tenths.into_iter().map(|tenths| format!("{:.1}%", tenths / 10.0)).collect()
}

/// What is running where, and what to try; every line works while the demo runs.
pub(super) fn introduction(bookshop: &Bookshop, program: &str) -> String {
    let control_plane = &bookshop.control_plane;
    let mut text = String::new();
    let _ = writeln!(text, "\n{:<16} {:>8} {:>8}  addresses", "process", "app", "sidecar");
    let _ = writeln!(
        text,
        "{:<16} {:>8} {:>8}  xDS {} (TLS), {} (clear text), http://{}/metrics",
        "control plane", control_plane.pid, "", control_plane.tls, control_plane.xds, control_plane.http
    );
    for running in &bookshop.workloads {
        let _ = writeln!(
            text,
            "{:<16} {:>8} {:>8}  inbound :{}, outbound :{}, admin http://{}",
            running.workload.name(),
            running.app_pid,
            running.sidecar_pid,
            running.ports.inbound,
            running.ports.outbound,
            running.admin,
        );
        let _ = writeln!(text, "{:<16} {:>8} {:>8}  {}", "", "", "", running.identity);
    }
    let caller = bookshop.caller();
    let rules = bookshop.rules.first().map(|path| path.display().to_string()).unwrap_or_default();
    let _ = write!(
        text,
        "
Try:
  edit the weights in {rules}/routes.yaml and watch the split follow
  curl -s http://{entry}/productpage -H 'host: productpage:{SERVICE_PORT}' -H 'end-user: jason'
  curl -s http://reviews:{SERVICE_PORT}/reviews/0 -x http://127.0.0.1:{outbound} -H 'end-user: jason'
  curl -s http://{admin}/config_dump
  curl -s http://{admin}/stats/prometheus
  curl -s http://{admin}/certs          # who this sidecar is, and whom it believes
  {program} status --address http://{http}
  {program} explain GET http://reviews:{SERVICE_PORT}/reviews/0 -f {rules}
  kill {pid}     # the control plane: traffic keeps flowing
Logs and states: {scratch}
",
        entry = bookshop.entry,
        outbound = caller.ports.outbound,
        admin = caller.admin,
        http = control_plane.http,
        pid = control_plane.pid,
        scratch = bookshop.scratch.display(),
    );
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::demo::expectation::HeaderCase;
    use crate::cli::demo::load::Seen;

    fn expectation() -> Expectation {
        Expectation {
            services: BTreeMap::from([(
                "reviews".to_owned(),
                Split::from([("v1".to_owned(), 0.8), ("v2".to_owned(), 0.2)]),
            )]),
            by_header: vec![HeaderCase {
                headers: [("end-user".parse().unwrap(), "jason".parse().unwrap())].into_iter().collect(),
                service: "reviews".to_owned(),
                split: Split::from([("v2".to_owned(), 1.0)]),
            }],
        }
    }

    fn observed(counts: &[(usize, &str, usize)], failures: usize) -> Observed {
        let mut observed = Observed::default();
        for (kind, version, count) in counts {
            let seen = Seen { service: "reviews".into(), version: (*version).into(), ms: 2.0 };
            let sample = Sample { kind: *kind, took: Duration::from_millis(3), outcome: Ok(vec![seen]) };
            (0..*count).for_each(|_| observed.add(&sample, &expectation()));
        }
        let failure = Sample { kind: 0, took: Duration::ZERO, outcome: Err("503: UH".into()) };
        (0..failures).for_each(|_| observed.add(&failure, &expectation()));
        observed
    }

    #[test]
    fn the_json_has_the_shape_that_scripts_read() {
        let json = observed(&[(0, "v1", 1600), (0, "v2", 400), (1, "v2", 200)], 0).as_json(&expectation());
        assert_eq!(json["requests"], 2000);
        assert_eq!(json["failed"], 0);
        assert_eq!(
            json["service"]["reviews"]["v1"],
            json!({"expected": 0.8, "observed": 0.8, "requests": 1600, "p50_ms": 2.0, "p99_ms": 2.0})
        );
        assert_eq!(json["header_match"], json!({"end-user: jason": {"v2": 200}}));
    }

    #[test]
    fn the_check_fails_on_a_failure_a_wrong_split_a_wrong_header_and_on_silence() {
        let agree = observed(&[(0, "v1", 1600), (0, "v2", 400), (1, "v2", 200)], 0);
        assert_eq!(agree.disagreements(&expectation()), Vec::<String>::new());
        for (what, wrong) in [
            ("failure", observed(&[(0, "v1", 1600), (0, "v2", 400), (1, "v2", 200)], 1)),
            ("split", observed(&[(0, "v1", 1000), (0, "v2", 1000), (1, "v2", 200)], 0)),
            ("header", observed(&[(0, "v1", 1600), (0, "v2", 400), (1, "v2", 199), (1, "v1", 1)], 0)),
            ("silence", observed(&[], 0)),
        ] {
            assert!(!wrong.disagreements(&expectation()).is_empty(), "{what}");
        }
    }

    #[test]
    fn percents_of_one_service_add_up_to_100() {
        for (shares, expected) in [
            (vec![1.0 / 3.0; 3], vec!["33.4%", "33.3%", "33.3%"]),
            (vec![1.0 / 6.0; 6], vec!["16.7%", "16.7%", "16.7%", "16.7%", "16.6%", "16.6%"]),
            (vec![0.8, 0.2], vec!["80.0%", "20.0%"]),
            (vec![0.29 + 0.1, 0.61], vec!["39.0%", "61.0%"]),
            (vec![0.0, 0.0], vec!["0.0%", "0.0%"]),
            (vec![0.12345, 0.87655], vec!["12.3%", "87.7%"]),
            (vec![], vec![]),
        ] {
            assert_eq!(percents(shares.iter().copied()), expected, "{shares:?}");
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_version_and_header() {
        let table = observed(&[(0, "v1", 8), (0, "v2", 2), (1, "v2", 1)], 0).as_table(&expectation());
        for row in ["reviews v1", "reviews v2", "end-user: jason → v2", "success 100.00 % of 11 requests"] {
            assert!(table.contains(row), "{row} is missing in\n{table}");
        }
    }
}
