//! What a PromQL query names: metrics, their labels, and the values it asks for.
//!
//! Whether a query is well formed is Prometheus' to say. What Prometheus does not say is that a name is wrong: a metric or
//! a label that nobody emits is an empty panel and an alert that never fires. So this reads just enough of the language to
//! find every selector with its matchers, and the labels by which what it selects is grouped or matched. What it does not
//! understand it refuses rather than skips: a query that a test cannot check does not belong into an example.

use std::collections::BTreeSet;
use std::iter::Peekable;

/// The words after which labels in parentheses follow.
const CLAUSES: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Those that make one series out of many.
const AGGREGATIONS: [&str; 12] =
    ["sum", "min", "max", "avg", "group", "stddev", "stdvar", "count", "count_values", "bottomk", "topk", "quantile"];
/// Words that name neither a metric nor a function.
const WORDS: [&str; 9] = ["and", "or", "unless", "bool", "offset", "inf", "nan", "Inf", "NaN"];
/// Functions that make labels out of nothing: what comes of them cannot be checked against what is emitted.
const INVENTING: [&str; 3] = ["label_replace", "label_join", "count_values"];

/// One selector of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// The metric.
    pub metric: String,
    /// Label, operator and value of each matcher.
    pub matchers: Vec<Matcher>,
    /// Labels that the query wants of what is selected: to group, to match, to rank by.
    pub wanted: BTreeSet<String>,
    /// The functions around it, the innermost first.
    pub within: Vec<String>,
}

/// `label=~"value"`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    /// The label.
    pub label: String,
    /// `=`, `!=`, `=~` or `!~`
    pub operator: String,
    /// Without its quotes.
    pub value: String,
}

impl Selector {
    /// Every label that has to be there.
    pub fn labels(&self) -> BTreeSet<&str> {
        let matched = self.matchers.iter().map(|matcher| matcher.label.as_str());
        matched.chain(self.wanted.iter().map(String::as_str)).collect()
    }

    /// The selector alone, to be asked by itself.
    pub fn text(&self) -> String {
        let matchers: Vec<String> = self
            .matchers
            .iter()
            .map(|Matcher { label, operator, value }| format!("{label}{operator}{value:?}"))
            .collect();
        format!("{}{{{}}}", self.metric, matchers.join(","))
    }
}

/// The selectors of a query, in the order in which they stand, or why it is not understood.
pub fn selectors(query: &str) -> Result<Vec<Selector>, String> {
    let mut reader = Reader { tokens: tokens(query)?.into_iter().peekable(), within: Vec::new(), found: Vec::new() };
    reader.expression(None)?;
    Ok(reader.found)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A metric, a label, a function, a keyword.
    Word(String),
    Text(String),
    Number,
    /// `[5m]`, `[1h:1m]`
    Range,
    /// One of `= != =~ !~ == < <= > >= + - * / % ^ @ , ( ) { }`
    Sign(&'static str),
}

const SIGNS: [&str; 21] =
    ["!=", "=~", "!~", "==", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "^", "@", ",", "(", ")", "{", "}"];

fn tokens(query: &str) -> Result<Vec<Token>, String> {
    let mut found = Vec::new();
    let mut rest = query.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = if is_of_word(first) && !first.is_ascii_digit() {
            let length = rest.find(|other| !is_of_word(other)).unwrap_or(rest.len());
            (Some(Token::Word(rest[..length].to_owned())), length)
        } else if first.is_ascii_digit() {
            // Durations as well: `5m` after `offset`.
            let length = rest.find(|other: char| !other.is_ascii_alphanumeric() && other != '.').unwrap_or(rest.len());
            (Some(Token::Number), length)
        } else if matches!(first, '"' | '\'' | '`') {
            let (text, length) = quoted(rest, first)?;
            (Some(Token::Text(text)), length)
        } else if first == '[' {
            (Some(Token::Range), rest.find(']').ok_or("a range does not end")? + 1)
        } else if first == '#' {
            (None, rest.find('\n').unwrap_or(rest.len()))
        } else {
            let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign));
            let sign = sign.ok_or_else(|| format!("`{first}` is not understood"))?;
            (Some(Token::Sign(sign)), sign.len())
        };
        found.extend(token);
        rest = rest[length..].trim_start();
    }
    Ok(found)
}

fn is_of_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | ':')
}

/// A string and how long it is with its quotes.
fn quoted(rest: &str, quote: char) -> Result<(String, usize), String> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character == quote => return Ok((text, at + quote.len_utf8())),
            '\\' if quote != '`' => match characters.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, escaped)) => text.push(escaped),
                None => break,
            },
            other => text.push(other),
        }
    }
    Err(format!("a string does not end: {rest}"))
}

struct Reader {
    tokens: Peekable<std::vec::IntoIter<Token>>,
    /// The functions that are open, the outermost first.
    within: Vec<String>,
    found: Vec<Selector>,
}

impl Reader {
    /// Reads to the parenthesis that closes it, or to the end.
    fn expression(&mut self, closed_by: Option<&'static str>) -> Result<(), String> {
        let begin = self.found.len();
        let mut matched_on = BTreeSet::new();
        loop {
            match self.tokens.next() {
                None if closed_by.is_none() => break,
                None => return Err("a parenthesis is not closed".to_owned()),
                Some(Token::Sign(")")) if closed_by == Some(")") => break,
                Some(Token::Sign(")" | "}")) => return Err("a parenthesis is closed that is not open".to_owned()),
                Some(Token::Sign("(")) => self.expression(Some(")"))?,
                Some(Token::Sign("{")) => return Err("a selector without a metric".to_owned()),
                Some(Token::Word(word)) => self.word(word, &mut matched_on)?,
                Some(Token::Sign(_) | Token::Text(_) | Token::Number | Token::Range) => {}
            }
        }
        self.want(begin, &matched_on);
        Ok(())
    }

    fn word(&mut self, word: String, matched_on: &mut BTreeSet<String>) -> Result<(), String> {
        if INVENTING.contains(&word.as_str()) {
            return Err(format!("`{word}` makes labels that nobody emits"));
        }
        if WORDS.contains(&word.as_str()) {
            return Ok(());
        }
        if CLAUSES.contains(&word.as_str()) {
            // Of a binary operator: both sides need the labels. `group_left (x)` copies from one side alone.
            let labels = self.labels()?;
            if word.starts_with("group_") && !labels.is_empty() {
                return Err(format!("`{word}` with labels is not understood"));
            }
            matched_on.extend(labels);
            return Ok(());
        }
        if AGGREGATIONS.contains(&word.as_str()) {
            return self.aggregation(word);
        }
        if self.takes("(") {
            return self.call(word);
        }
        let matchers = if self.takes("{") { self.matchers()? } else { Vec::new() };
        let within = self.within.iter().rev().cloned().collect();
        self.found.push(Selector { metric: word, matchers, wanted: BTreeSet::new(), within });
        Ok(())
    }

    fn aggregation(&mut self, word: String) -> Result<(), String> {
        let begin = self.found.len();
        let mut labels = self.grouping()?;
        if !self.takes("(") {
            return Err(format!("`{word}` of what?"));
        }
        self.call(word)?;
        labels.extend(self.grouping()?);
        self.want(begin, &labels);
        Ok(())
    }

    fn call(&mut self, name: String) -> Result<(), String> {
        self.within.push(name);
        self.expression(Some(")"))?;
        self.within.pop();
        Ok(())
    }

    /// `by (a, b)`, if it stands here.
    fn grouping(&mut self) -> Result<BTreeSet<String>, String> {
        let is_grouping = |token: &Token| matches!(token, Token::Word(word) if word == "by" || word == "without");
        match self.tokens.next_if(is_grouping) {
            Some(_) => self.labels(),
            None => Ok(BTreeSet::new()),
        }
    }

    /// `(a, b)`, if it stands here.
    fn labels(&mut self) -> Result<BTreeSet<String>, String> {
        let mut labels = BTreeSet::new();
        if !self.takes("(") {
            return Ok(labels);
        }
        loop {
            match self.tokens.next() {
                Some(Token::Word(label)) => drop(labels.insert(label)),
                Some(Token::Sign(",")) => {}
                Some(Token::Sign(")")) => return Ok(labels),
                other => return Err(format!("{other:?} among labels")),
            }
        }
    }

    fn matchers(&mut self) -> Result<Vec<Matcher>, String> {
        let mut matchers = Vec::new();
        loop {
            let label = match self.tokens.next() {
                Some(Token::Sign("}")) => return Ok(matchers),
                Some(Token::Sign(",")) => continue,
                Some(Token::Word(label)) => label,
                other => return Err(format!("{other:?} among matchers")),
            };
            let (Some(Token::Sign(operator @ ("=" | "!=" | "=~" | "!~"))), Some(Token::Text(value))) =
                (self.tokens.next(), self.tokens.next())
            else {
                return Err(format!("the matcher of `{label}` is not understood"));
            };
            matchers.push(Matcher { label, operator: operator.to_owned(), value });
        }
    }

    fn takes(&mut self, sign: &'static str) -> bool {
        self.tokens.next_if_eq(&Token::Sign(sign)).is_some()
    }

    fn want(&mut self, begin: usize, labels: &BTreeSet<String>) {
        for selector in self.found.iter_mut().skip(begin) {
            selector.wanted.extend(labels.iter().cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Metric, its labels, and the functions around it.
    type Expected = (&'static str, &'static [&'static str], &'static [&'static str]);

    const QUERIES: &[(&str, &[Expected])] = &[
        ("1 + 2.5e3", &[]),
        ("up", &[("up", &[], &[])]),
        ("up == 0", &[("up", &[], &[])]),
        ("leno:errors:ratio_rate5m > (14.4 * 0.001)", &[("leno:errors:ratio_rate5m", &[], &[])]),
        (r#"a{b="c", d=~"e|f",}"#, &[("a", &["b", "d"], &[])]),
        (r#"a{b="} sum by (x) (y) #"}"#, &[("a", &["b"], &[])]),
        (r#"a{b='it\'s'} # and c"#, &[("a", &["b"], &[])]),
        ("rate(a_total[5m])", &[("a_total", &[], &["rate"])]),
        ("max_over_time(rate(a_total[1m])[1h:1m] offset 5m)", &[("a_total", &[], &["rate", "max_over_time"])]),
        ("sum by (x, y) (rate(a[5m]))", &[("a", &["x", "y"], &["rate", "sum"])]),
        ("sum(rate(a[5m])) by (x)", &[("a", &["x"], &["rate", "sum"])]),
        (
            "histogram_quantile(0.99, sum by (le) (rate(a_bucket{b=\"c\"}[5m])))",
            &[("a_bucket", &["b", "le"], &["rate", "sum", "histogram_quantile"])],
        ),
        ("sum by (x) (a) / sum by (y) (b)", &[("a", &["x"], &["sum"]), ("b", &["y"], &["sum"])]),
        ("a / on (x) group_left b", &[("a", &["x"], &[]), ("b", &["x"], &[])]),
        ("(a unless on (x) b) or c", &[("a", &["x"], &[]), ("b", &["x"], &[]), ("c", &[], &[])]),
        ("topk(5, sum by (x) (a))", &[("a", &["x"], &["sum", "topk"])]),
        ("clamp_min(a - time(), 0) and bool_total > bool 0", &[("a", &[], &["clamp_min"]), ("bool_total", &[], &[])]),
        ("-a ^ 2 @ 1700000000", &[("a", &[], &[])]),
    ];

    #[test]
    fn every_metric_and_every_label_is_found() {
        for (query, expected) in QUERIES {
            let found = selectors(query).unwrap_or_else(|why| panic!("{query}: {why}"));
            let found: Vec<_> = found
                .iter()
                .map(|selector| (selector.metric.as_str(), selector.labels(), selector.within.as_slice()))
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(metric, labels, within)| {
                    (*metric, labels.iter().copied().collect(), within.iter().map(|name| (*name).to_owned()).collect())
                })
                .collect::<Vec<(&str, BTreeSet<&str>, Vec<String>)>>();
            let expected: Vec<_> = expected.iter().map(|(a, b, c)| (*a, b.clone(), c.as_slice())).collect();
            assert_eq!(found, expected, "{query}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (query, why) in [
            ("sum(a", "not closed"),
            ("a)", "not open"),
            ("{job=\"x\"}", "without a metric"),
            ("a{b}", "the matcher of `b`"),
            ("a{b=c}", "the matcher of `b`"),
            ("a{b=\"c}", "does not end"),
            ("a[5m", "does not end"),
            ("sum by (x)", "of what"),
            ("label_replace(a, \"b\", \"$1\", \"c\", \"(.*)\")", "labels that nobody emits"),
            ("a * on (x) group_left (y) b", "`group_left` with labels"),
            ("a ? b", "`?` is not understood"),
        ] {
            let refused = selectors(query).expect_err(query);
            assert!(refused.contains(why), "{query}: {refused}");
        }
    }

    #[test]
    fn a_selector_can_be_asked_by_itself() {
        let found = selectors("sum by (x) (rate(a{b=~\"c\\\\.d\", e!='f'}[5m]))").expect("it is a query");
        assert_eq!(found[0].text(), "a{b=~\"c\\\\.d\",e!=\"f\"}");
    }
}
