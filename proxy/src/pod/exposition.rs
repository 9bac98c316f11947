//! Prometheus' two text formats, read just well enough to put two expositions together.
//!
//! Lines stay as they were written: values, timestamps, exemplars and label values are passed on byte for byte, since a
//! series whose label changes from `le="1"` to `le="1.0"` is another series. What is understood is where a line belongs:
//! which family a sample is of, by the metadata above it and the suffixes that its type allows, and which series it is.
//!
//! Sources: "Exposition formats" of Prometheus (text format 0.0.4) and OpenMetrics 1.0. Metric and label names in quotes
//! (UTF-8 names of Prometheus 3) are taken as they stand.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use http::HeaderValue;

/// Which of the formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// `text/plain; version=0.0.4`
    Text,
    /// `application/openmetrics-text`
    OpenMetrics,
}

/// Why an exposition cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} {what}")]
pub(super) struct Malformed {
    /// From 1.
    pub(super) line: usize,
    /// What is wrong with it, as the rest of a sentence.
    pub(super) what: &'static str,
}

/// All families of one exposition, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Exposition<'a> {
    pub(super) families: Vec<Family<'a>>,
    by_name: HashMap<Cow<'a, str>, usize>,
}

/// One family: what is said of it, and its samples.
#[derive(Debug, Default)]
pub(super) struct Family<'a> {
    pub(super) name: Cow<'a, str>,
    /// `counter`, `gauge`, …; `None`: not said.
    pub(super) kind: Option<&'a str>,
    help: Option<Cow<'a, str>>,
    unit: Option<&'a str>,
    pub(super) samples: Vec<Sample<'a>>,
}

/// One sample.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample<'a> {
    pub(super) name: &'a str,
    /// What stands between the braces.
    labels: &'a str,
    line: &'a str,
}

/// What a series is known by, apart from its name: its labels in the order of their names.
pub(super) type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Format {
    /// What an answer's `content-type` says; a server that says nothing is taken to speak the older format, as scrapers do.
    /// `None`: it is neither.
    pub(super) fn of(content_type: Option<&HeaderValue>) -> Option<Self> {
        let Some(value) = content_type else { return Some(Self::Text) };
        let value = value.to_str().ok()?;
        let media = value.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/openmetrics-text") {
            Some(Self::OpenMetrics)
        } else if media.eq_ignore_ascii_case("text/plain") {
            Some(Self::Text)
        } else {
            None
        }
    }

    /// The `content-type` of an answer in it.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => prometheus::TEXT_FORMAT,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// Whether a sample with this suffix to its family's name belongs to a family of this kind.
    fn allows(self, kind: Option<&str>, suffix: &str) -> bool {
        if suffix.is_empty() {
            return true;
        }
        let suffixes: &[&str] = match (self, kind.unwrap_or_default()) {
            (_, "histogram") => &["_bucket", "_sum", "_count", "_created"],
            (_, "summary") => &["_sum", "_count", "_created"],
            (Self::OpenMetrics, "counter") => &["_total", "_created"],
            (Self::OpenMetrics, "gaugehistogram") => &["_bucket", "_gsum", "_gcount"],
            (Self::OpenMetrics, "info") => &["_info"],
            _ => &[],
        };
        suffixes.contains(&suffix)
    }
}

impl<'a> Exposition<'a> {
    /// Reads an exposition. One wrong line makes all of it unusable: a scraper would refuse it too.
    pub(super) fn parse(text: &'a str, format: Format) -> Result<Self, Malformed> {
        let mut exposition = Self::default();
        let mut current = None;
        let mut ended = false;
        let mut last = 0;
        for (at, line) in text.lines().enumerate() {
            last = at.saturating_add(1);
            let wrong = |what| Malformed { line: last, what };
            let trimmed = line.trim();
            if trimmed.is_empty() {
                continue;
            }
            if ended {
                return Err(wrong("stands after `# EOF`"));
            }
            match trimmed.strip_prefix('#') {
                Some(comment) if format == Format::OpenMetrics && comment.trim() == "EOF" => ended = true,
                Some(comment) => current = exposition.describe(comment).or(current),
                None => {
                    let sample = Sample::parse(trimmed, format).map_err(wrong)?;
                    current = Some(exposition.add(sample, current, format));
                }
            }
        }
        if format == Format::OpenMetrics && !ended {
            return Err(Malformed { line: last, what: "is the last one and not `# EOF`: the text is cut short" });
        }
        Ok(exposition)
    }

    /// The family of this name.
    pub(super) fn family(&self, name: &str) -> Option<&Family<'a>> {
        self.by_name.get(name).and_then(|at| self.families.get(*at))
    }

    /// The same, to add to it.
    pub(super) fn family_mut(&mut self, name: &str) -> Option<&mut Family<'a>> {
        self.by_name.get(name).and_then(|at| self.families.get_mut(*at))
    }

    /// Adds a family whose name is new.
    pub(super) fn push(&mut self, family: Family<'a>) {
        self.by_name.insert(family.name.clone(), self.families.len());
        self.families.push(family);
    }

    /// The same in OpenMetrics, where a counter's family is named without `_total` and other counters are of unknown kind.
    /// For expositions without timestamps, which the two formats count differently.
    pub(super) fn into_openmetrics(self) -> Self {
        let mut converted = Self::default();
        for mut family in self.families {
            let is_total = |sample: &Sample<'_>| sample.name.ends_with("_total");
            match (family.kind, family.name.strip_suffix("_total").map(str::to_owned)) {
                (Some("counter"), Some(name)) if family.samples.iter().all(is_total) => family.name = name.into(),
                (Some("counter" | "untyped"), _) => family.kind = Some("unknown"),
                _ => {}
            }
            family.help = family.help.map(|help| quoted(&help).into());
            converted.push(family);
        }
        converted
    }

    /// As text.
    pub(super) fn write(&self, format: Format) -> String {
        let samples = self.families.iter().flat_map(|family| &family.samples);
        let mut out = String::with_capacity(
            samples.map(|sample| sample.line.len().saturating_add(1)).sum::<usize>().saturating_add(4096),
        );
        for Family { name, kind, help, unit, samples } in &self.families {
            let said = [("HELP", help.as_deref()), ("TYPE", *kind), ("UNIT", *unit)];
            for (what, text) in said.iter().filter_map(|(what, text)| Some((what, (*text)?))) {
                // Writing to a String does not fail.
                let _ = writeln!(out, "# {what} {name} {text}");
            }
            for sample in samples {
                out.push_str(sample.line);
                out.push('\n');
            }
        }
        if format == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }

    /// Takes what a comment says of a family; where that family stands. Any other comment is nobody's.
    fn describe(&mut self, comment: &'a str) -> Option<usize> {
        let (what, rest) = split(comment.trim_start());
        if !["HELP", "TYPE", "UNIT"].contains(&what) {
            return None;
        }
        let (name, text) = split(rest);
        if name.is_empty() {
            return None;
        }
        let at = self.at(name);
        let family = self.families.get_mut(at)?;
        match what {
            // What is said twice was said first.
            "HELP" => family.help = family.help.take().or(Some(text.into())),
            "TYPE" => family.kind = family.kind.or(Some(text)),
            _ => family.unit = family.unit.or(Some(text)),
        }
        Some(at)
    }

    /// Adds a sample to its family: the one that was spoken of last, one that was spoken of before, or its own.
    fn add(&mut self, sample: Sample<'a>, current: Option<usize>, format: Format) -> usize {
        let belongs = |family: &Family<'_>| {
            sample.name.strip_prefix(&*family.name).is_some_and(|suffix| format.allows(family.kind, suffix))
        };
        let of_current = current.filter(|at| self.families.get(*at).is_some_and(belongs));
        let at = of_current.or_else(|| self.described(sample.name, belongs)).unwrap_or_else(|| self.at(sample.name));
        if let Some(family) = self.families.get_mut(at) {
            family.samples.push(sample);
        }
        at
    }

    /// Where the family stands that a sample belongs to, by its name with and without its last part.
    fn described(&self, sample: &str, belongs: impl Fn(&Family<'_>) -> bool) -> Option<usize> {
        let shorter = sample.rfind('_').and_then(|end| sample.get(..end));
        let known = [Some(sample), shorter].into_iter().flatten().filter_map(|name| self.by_name.get(name));
        known.copied().find(|at| self.families.get(*at).is_some_and(&belongs))
    }

    /// Where the family of this name stands; it is made if there is none.
    fn at(&mut self, name: &'a str) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        self.push(Family { name: name.into(), ..Family::default() });
        self.families.len().saturating_sub(1)
    }
}

impl<'a> Sample<'a> {
    /// Its labels, to be compared.
    pub(super) fn labels(&self) -> Labels<'a> {
        let mut labels = Labels::new();
        let mut rest = self.labels;
        while let Some((name, value)) = rest.split_once('=') {
            let Some((value, after)) = string(value.trim_start()) else { break };
            // Left of the first label of a name in quotes stands the metric's own name.
            let name = name.rsplit(',').next().unwrap_or_default().trim();
            labels.push((name, value));
            rest = after;
        }
        labels.sort_unstable();
        labels
    }

    fn parse(line: &'a str, format: Format) -> Result<Self, &'static str> {
        let (name, rest) = match line.strip_prefix('{') {
            // The name is in quotes and stands among the labels.
            Some(inside) => (string(inside.trim_start()).ok_or("begins with a name that does not end")?.0, line),
            None => {
                let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
                line.split_at(end.unwrap_or(line.len()))
            }
        };
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("does not begin with the name of a metric");
        }
        let rest = rest.trim_start();
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(inside) => {
                let end = closing(inside).ok_or("has labels that do not end")?;
                (inside.get(..end).unwrap_or_default(), inside.get(end.saturating_add(1)..).unwrap_or_default())
            }
            None => ("", rest),
        };
        let (rest, exemplar) = match (format, rest.split_once(" # ")) {
            (Format::OpenMetrics, Some((rest, exemplar))) => (rest, Some(exemplar)),
            _ => (rest, None),
        };
        if exemplar.is_some_and(|exemplar| !exemplar.trim_start().starts_with('{')) {
            return Err("has an exemplar without labels");
        }
        let mut words = rest.split_ascii_whitespace();
        let value = words.next().ok_or("has no value")?;
        if !is_number(value) {
            return Err("has a value that is not a number");
        }
        match (words.next(), words.next()) {
            (None, _) => {}
            (Some(time), None) if is_number(time) => {}
            _ => return Err("has more behind its value than a time"),
        }
        Ok(Self { name, labels, line })
    }
}

/// As Go reads floating-point numbers, which is what both formats refer to.
fn is_number(text: &str) -> bool {
    let hexadecimal = || text.trim_start_matches(['+', '-']).to_ascii_lowercase().starts_with("0x");
    text.parse::<f64>().is_ok() || hexadecimal()
}

/// The first word, and what follows it.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    match text.split_once(|c: char| c.is_ascii_whitespace()) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

/// What stands in quotes at the beginning, still escaped, and what follows.
fn string(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let end = unescaped(inside, |byte| byte == b'"')?;
    Some((inside.get(..end)?, inside.get(end.saturating_add(1)..)?))
}

/// Where the brace stands that closes labels.
fn closing(labels: &str) -> Option<usize> {
    let mut in_quotes = false;
    unescaped(labels, |byte| {
        in_quotes ^= byte == b'"';
        byte == b'}' && !in_quotes
    })
}

/// Where the first byte stands that is looked for, of those without a backslash before them.
fn unescaped(text: &str, mut is_it: impl FnMut(u8) -> bool) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let counts = !escaped;
        escaped = byte == b'\\' && counts;
        counts && is_it(byte)
    })
}

/// OpenMetrics wants the quotes in a description escaped, the older format forbids that.
fn quoted(help: &str) -> String {
    let mut out = String::with_capacity(help.len());
    let mut escaped = false;
    for character in help.chars() {
        if character == '"' && !escaped {
            out.push('\\');
        }
        escaped = character == '\\' && !escaped;
        out.push(character);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<'a>(exposition: &'a Exposition<'_>) -> Vec<(&'a str, usize)> {
        exposition.families.iter().map(|family| (&*family.name, family.samples.len())).collect()
    }

    #[test]
    fn samples_belong_to_the_family_whose_type_has_their_suffix() {
        let text = "# HELP took_ms How long\n# TYPE took_ms histogram\ntook_ms_bucket{le=\"+Inf\"} 1\ntook_ms_sum 2\n\
                    took_ms_count 1\n\n# a comment\nup 1 1395066363000\nunder_count 3\n# TYPE under gauge\nunder 4\n";
        let exposition = Exposition::parse(text, Format::Text).expect("valid");
        assert_eq!(names(&exposition), [("took_ms", 3), ("up", 1), ("under_count", 1), ("under", 1)]);
    }

    #[test]
    fn what_was_scattered_stands_together_and_is_described_once() {
        let text = "# TYPE a counter\na{x=\"1\"} 1\n# TYPE b gauge\nb 1\n# TYPE a counter\na{x=\"2\"} 2\n";
        let written = Exposition::parse(text, Format::Text).expect("valid").write(Format::Text);
        assert_eq!(written, "# TYPE a counter\na{x=\"1\"} 1\na{x=\"2\"} 2\n# TYPE b gauge\nb 1\n");
    }

    #[test]
    fn openmetrics_keeps_exemplars_and_times_and_ends_with_its_last_line() {
        let text = "# TYPE foo counter\n# UNIT foo seconds\nfoo_total 17.0 1520879607.789 # {trace_id=\"a } b\"} 0.67\n\
                    foo_created 1520430000.123\n# TYPE v info\nv_info{version=\"1\"} 1\n# EOF\n";
        let exposition = Exposition::parse(text, Format::OpenMetrics).expect("valid");
        assert_eq!(names(&exposition), [("foo", 2), ("v", 1)]);
        assert_eq!(
            exposition.write(Format::OpenMetrics).replace("# UNIT foo seconds\n", ""),
            text.replace("# UNIT foo seconds\n", "")
        );
    }

    #[test]
    fn the_older_format_becomes_the_newer_one() {
        let text = "# HELP a_total Said \"so\"\n# TYPE a_total counter\na_total 1\n# TYPE b counter\nb 2\n\
                    # TYPE c untyped\nc 3\n# TYPE d gauge\nd 4\n";
        let converted = Exposition::parse(text, Format::Text).expect("valid").into_openmetrics();
        assert_eq!(
            converted.write(Format::OpenMetrics),
            "# HELP a Said \\\"so\\\"\n# TYPE a counter\na_total 1\n# TYPE b unknown\nb 2\n# TYPE c unknown\nc 3\n\
             # TYPE d gauge\nd 4\n# EOF\n"
        );
    }

    #[test]
    fn labels_are_compared_whatever_their_order_and_what_is_in_them() {
        let labels = |line| Sample::parse(line, Format::Text).expect("valid").labels();
        assert_eq!(labels("a{b=\"1\",c=\"x,y=\\\"}\"} 1"), labels("a{ c = \"x,y=\\\"}\", b=\"1\", } 1"));
        assert_ne!(labels("a{b=\"1\"} 1"), labels("a{b=\"2\"} 1"));
        assert_eq!(labels("a 1"), labels("a{} 1"));
        let quoted = Sample::parse("{\"my.metric\",b=\"1\"} 1", Format::Text).expect("valid");
        assert_eq!((quoted.name, quoted.labels()), ("my.metric", vec![("b", "1")]));
    }

    #[test]
    fn a_line_that_no_scraper_would_take_is_named() {
        let rows = [
            ("<html>", "does not begin with the name of a metric"),
            ("a 1\n{\"error\": 1}", "has no value"),
            ("a", "has no value"),
            ("a one", "has a value that is not a number"),
            ("a 1 soon", "has more behind its value than a time"),
            ("a 1 2 3", "has more behind its value than a time"),
            ("a{b=\"1} 1", "has labels that do not end"),
            ("1a 1", "does not begin with the name of a metric"),
            ("{\"a 1", "begins with a name that does not end"),
        ];
        for (text, expected) in rows {
            let error = Exposition::parse(text, Format::Text).expect_err(text);
            assert_eq!((error.what, error.line), (expected, text.lines().count()), "{text}");
        }
        for text in ["a NaN", "a +Inf", "a -Inf", "a 1e-5", "a 0x1p-2", "a 1 -5", "a\t1"] {
            assert!(Exposition::parse(text, Format::Text).is_ok(), "{text}");
        }
        let cut = Exposition::parse("a 1\n", Format::OpenMetrics).expect_err("no end");
        assert!(cut.to_string().contains("cut short"), "{cut}");
        let more = Exposition::parse("a 1\n# EOF\nb 1\n", Format::OpenMetrics).expect_err("more");
        assert_eq!(more.to_string(), "line 3 stands after `# EOF`");
    }

    #[test]
    fn the_content_type_says_the_format() {
        let rows = [
            (None, Some(Format::Text)),
            (Some("text/plain; version=0.0.4; charset=utf-8"), Some(Format::Text)),
            (Some("text/plain"), Some(Format::Text)),
            (Some("application/openmetrics-text; version=1.0.0"), Some(Format::OpenMetrics)),
            (Some("Application/OpenMetrics-Text"), Some(Format::OpenMetrics)),
            (Some("text/html"), None),
            (Some("application/vnd.google.protobuf; encoding=delimited"), None),
        ];
        for (value, expected) in rows {
            let header = value.map(HeaderValue::from_static);
            assert_eq!(Format::of(header.as_ref()), expected, "{value:?}");
        }
    }
}
