//! What was seen: counts and times per version, and whether they agree with what the rules say.

use std::collections::BTreeMap;

use super::expectation::Split;

/// Standard deviations that a count may be off. Chance alone goes further once in 16 000 checks.
const SIGMAS: f64 = 4.0;

/// The requests that some versions of one service answered.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tally {
    versions: BTreeMap<String, Vec<f64>>,
}

impl Tally {
    /// One answer and its time in milliseconds.
    pub(super) fn count(&mut self, version: &str, ms: f64) {
        self.versions.entry(version.to_owned()).or_default().push(ms);
    }

    /// The versions seen, in order.
    pub(super) fn versions(&self) -> impl Iterator<Item = &str> {
        self.versions.keys().map(String::as_str)
    }

    /// Answers in total.
    pub(super) fn total(&self) -> usize {
        self.versions.values().map(Vec::len).sum()
    }

    /// Answers of one version.
    pub(super) fn requests(&self, version: &str) -> usize {
        self.versions.get(version).map_or(0, Vec::len)
    }

    /// Its share, 0 to 1.
    pub(super) fn share(&self, version: &str) -> f64 {
        as_float(self.requests(version)) / as_float(self.total().max(1))
    }

    /// A quantile (0 to 1) of its times, in milliseconds; `None` when it never answered.
    pub(super) fn quantile(&self, version: &str, quantile: f64) -> Option<f64> {
        nearest_rank(self.versions.get(version)?, quantile)
    }

    /// In words, what does not agree with the rules; empty when all does.
    ///
    /// Each version's count is binomial with its expected share, so it may be off by a few standard deviations. A share
    /// of 0 or 1 has none: there every request counts.
    pub(super) fn disagreements(&self, what: &str, expected: &Split) -> Vec<String> {
        let total = as_float(self.total());
        let mut found = Vec::new();
        for version in super::expectation::all_versions(expected, self.versions()) {
            let share = expected.get(version).copied().unwrap_or(0.0);
            let seen = as_float(self.requests(version));
            let allowed = SIGMAS * (total * share * (1.0 - share)).max(0.0).sqrt();
            if (seen - total * share).abs() > allowed + 1e-6 {
                found.push(format!(
                    "{what} {version}: {seen} of {total} requests, expected {:.0} ± {allowed:.0}",
                    total * share
                ));
            }
        }
        found
    }
}

/// The smallest value that at least this share of the values does not exceed.
pub(super) fn nearest_rank(values: &[f64], quantile: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Not negative and at most the length, so the cast keeps the value.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let rank = (quantile.clamp(0.0, 1.0) * as_float(sorted.len())).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

fn as_float(count: usize) -> f64 {
    // Exact to 2⁵³ requests.
    #[allow(clippy::cast_precision_loss)]
    let float = count as f64;
    float
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(counts: &[(&str, usize)]) -> Tally {
        let mut tally = Tally::default();
        for (version, count) in counts {
            for _ in 0..*count {
                tally.count(version, 1.0);
            }
        }
        tally
    }

    #[test]
    fn a_split_may_be_off_by_chance_but_not_by_more() {
        let expected = Split::from([("v1".into(), 0.8), ("v2".into(), 0.2)]);
        // The standard deviation of 2 000 requests at 80 % is 17.9.
        for (v1, agrees) in [(1600, true), (1665, true), (1535, true), (1680, false), (1520, false)] {
            let found = tally(&[("v1", v1), ("v2", 2000 - v1)]).disagreements("reviews", &expected);
            assert_eq!(found.is_empty(), agrees, "{v1}: {found:?}");
        }
    }

    #[test]
    fn a_version_that_should_get_nothing_gets_nothing() {
        let expected = Split::from([("v2".into(), 1.0)]);
        assert_eq!(tally(&[("v2", 200)]).disagreements("jason", &expected), Vec::<String>::new());
        let found = tally(&[("v2", 199), ("v1", 1)]).disagreements("jason", &expected);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("v1: 1 of 200 requests, expected 0"), "{found:?}");
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values = [5.0, 1.0, 3.0, 2.0, 4.0];
        for (quantile, expected) in [(0.0, 1.0), (0.5, 3.0), (0.99, 5.0), (1.0, 5.0)] {
            assert_eq!(nearest_rank(&values, quantile), Some(expected), "{quantile}");
        }
        assert_eq!(nearest_rank(&[], 0.5), None);
    }
}
