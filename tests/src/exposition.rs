//! Prometheus' text format, as a scraper reads it.

use std::collections::{BTreeMap, BTreeSet};

/// One line: a metric with its labels and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The metric, with the suffix of a histogram's part.
    pub metric: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// The value of a counter.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Written as a float, exact below 2^53.
    pub fn count(&self) -> usize {
        self.value as usize
    }

    /// The value of a label; empty when it is not there, as in PromQL.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// All samples of a scrape; fails the test at a line that is none.
pub fn samples(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| sample(line).unwrap_or_else(|| panic!("this is no sample: {line}"))).collect()
}

/// The sum of the series of a metric that have these labels; `None`: there is no such series.
pub fn figure(samples: &[Sample], metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let is_meant =
        |sample: &&Sample| sample.metric == metric && labels.iter().all(|(name, value)| sample.label(name) == *value);
    samples.iter().filter(is_meant).map(|sample| sample.value).reduce(|sum, value| sum + value)
}

/// The label names of each metric, over all of its series.
pub fn names<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> BTreeMap<String, BTreeSet<String>> {
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for sample in samples {
        names.entry(sample.metric.clone()).or_default().extend(sample.labels.keys().cloned());
    }
    names
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (metric, rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches(',');
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (name, after) = rest.split_once("=\"")?;
            let (value, after) = unquoted(after)?;
            labels.insert(name.to_owned(), value);
            rest = after;
        }
    }
    let value = rest.trim_start().split(' ').next()?.parse().ok()?;
    Some(Sample { metric: metric.to_owned(), labels, value })
}

/// A label's value, and what follows its closing quote.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_all_that_may_stand_in_a_label() {
        let text = "# HELP a x\n# TYPE a counter\na 1\nb{c=\"d\",e=\"f, \\\"g\\\" {h} \\\\ \\n\"} 2.5\nc_bucket{le=\"+Inf\"} +Inf\n";
        let read = samples(text);
        assert_eq!((read[0].metric.as_str(), read[0].value, read[0].label("x")), ("a", 1.0, ""));
        assert_eq!((read[1].label("c"), read[1].label("e")), ("d", "f, \"g\" {h} \\ \n"));
        assert_eq!((read[2].metric.as_str(), read[2].value), ("c_bucket", f64::INFINITY));
        assert_eq!((figure(&read, "b", &[("c", "d")]), figure(&read, "b", &[("c", "x")])), (Some(2.5), None));
        assert_eq!(names(&read)["b"], BTreeSet::from(["c".to_owned(), "e".to_owned()]));
    }
}
