//! How a log line writes a time.

use super::FormatError;

/// What `%START_TIME(…)%` may say: strftime's directives that make sense of a moment in UTC, and Envoy's `%3f`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeFormat {
    text: String,
    parts: Vec<TimePart>,
}

/// One part of a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimePart {
    /// As it stands.
    Literal(String),
    /// `2026`
    Year,
    /// `26`
    YearOfCentury,
    /// `01` to `12`
    Month,
    /// `Jan`
    MonthName,
    /// `01` to `31`
    Day,
    /// ` 1` to `31`
    DayWithSpace,
    /// `Mon`
    Weekday,
    /// `001` to `366`
    DayOfYear,
    /// `00` to `23`
    Hour,
    /// `00` to `59`
    Minute,
    /// `00` to `59`
    Second,
    /// Since 1970.
    UnixSeconds,
    /// So many digits of the second's fraction, 1 to 9.
    Fraction(u8),
    /// `+0000`: all times are UTC.
    Offset,
    /// `UTC`
    Zone,
}

impl TimeFormat {
    /// Envoy's: `2026-11-22T18:04:05.123Z`. It is written without parentheses.
    pub fn iso() -> Self {
        Self { text: String::new(), parts: parts("%Y-%m-%dT%H:%M:%S.%3fZ").unwrap_or_default() }
    }

    /// From what stands in the parentheses; empty: [`iso`](Self::iso).
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        if text.is_empty() {
            return Ok(Self::iso());
        }
        Ok(Self { parts: parts(text)?, text: text.to_owned() })
    }

    /// What stands in the parentheses.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Part by part.
    pub fn parts(&self) -> &[TimePart] {
        &self.parts
    }
}

fn parts(text: &str) -> Result<Vec<TimePart>, FormatError> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text.chars();
    while let Some(next) = rest.next() {
        if next != '%' {
            literal.push(next);
            continue;
        }
        let directive = rest.next();
        if directive == Some('%') {
            literal.push('%');
            continue;
        }
        if !literal.is_empty() {
            parts.push(TimePart::Literal(std::mem::take(&mut literal)));
        }
        match directive {
            Some(digit @ '1'..='9') if rest.next() == Some('f') => {
                let digits = digit.to_digit(10).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(3);
                parts.push(TimePart::Fraction(digits));
            }
            Some(one) => parts.extend(directives(one).ok_or_else(|| unknown(one))?),
            None => return Err(unknown(' ')),
        }
    }
    if !literal.is_empty() {
        parts.push(TimePart::Literal(literal));
    }
    Ok(parts)
}

fn directives(letter: char) -> Option<Vec<TimePart>> {
    let between = |text: &str| TimePart::Literal(text.to_owned());
    Some(match letter {
        'Y' => vec![TimePart::Year],
        'y' => vec![TimePart::YearOfCentury],
        'm' => vec![TimePart::Month],
        'b' | 'h' => vec![TimePart::MonthName],
        'd' => vec![TimePart::Day],
        'e' => vec![TimePart::DayWithSpace],
        'a' => vec![TimePart::Weekday],
        'j' => vec![TimePart::DayOfYear],
        'H' => vec![TimePart::Hour],
        'M' => vec![TimePart::Minute],
        'S' => vec![TimePart::Second],
        's' => vec![TimePart::UnixSeconds],
        'f' => vec![TimePart::Fraction(9)],
        'z' => vec![TimePart::Offset],
        'Z' => vec![TimePart::Zone],
        'F' => vec![TimePart::Year, between("-"), TimePart::Month, between("-"), TimePart::Day],
        'T' => vec![TimePart::Hour, between(":"), TimePart::Minute, between(":"), TimePart::Second],
        'R' => vec![TimePart::Hour, between(":"), TimePart::Minute],
        _ => return None,
    })
}

fn unknown(letter: char) -> FormatError {
    FormatError::new(format!("`%{letter}` is not a part of a time"))
        .help("use `%Y-%m-%dT%H:%M:%S.%3fZ`, `%s.%3f`, or leave the parentheses out")
}
