//! What several kinds share, and the macro that all their messages are written with.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ir::Invalid;

/// Whether a field is at its default and need not be written.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A message of a kind: every field may be left out (what is required is said by [`crate::validate`], with a place and
/// a remedy), names are camel case, and what is at its default is not written. Presence that means something, as in
/// `{}` for a header that is just there, is an `Option`. The comments are also the descriptions in the JSON Schema.
macro_rules! message {
    ($($(#[doc = $about:literal])* pub struct $name:ident {
        $($(#[doc = $doc:literal])* $(#[serde(rename = $rename:literal)])? pub $field:ident: $type:ty,)*
    })+) => {$(
        $(#[doc = $about])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                $(#[serde(rename = $rename)])?
                #[serde(skip_serializing_if = "crate::rules::common::is_default")]
                pub $field: $type,
            )*
        }

        impl crate::rules::schema::Describe for $name {
            fn describe(definitions: &mut crate::rules::schema::Definitions) -> serde_json::Value {
                use crate::rules::schema::{camel_case, fields, sentence};
                definitions.part(stringify!($name), |definitions| fields(&[$($about),*], [$({
                    let renamed = [$($rename)?].first().map(|name: &&str| (*name).to_owned());
                    let name = renamed.unwrap_or_else(|| camel_case(stringify!($field)));
                    (name, sentence(&[$($doc),*]), <$type>::describe(definitions))
                }),*]))
            }
        }
    )+};
}

/// A closed set of words, written in capitals as protobuf writes them. One word is marked as the default.
macro_rules! words {
    ($($(#[doc = $about:literal])* pub enum $name:ident {
        $($(#[doc = $doc:literal])* $(#[default $($default:tt)?])? $word:ident = $text:literal,)+
    })+) => {$(
        $(#[doc = $about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[doc = $doc])* $(#[default $($default)?])? #[serde(rename = $text)] $word,)+ }

        impl $name {
            /// As it is written in a rule.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$word => $text,)+ }
            }
        }

        impl crate::rules::schema::Describe for $name {
            fn describe(definitions: &mut crate::rules::schema::Definitions) -> serde_json::Value {
                use crate::rules::schema::{choice, sentence};
                definitions.part(stringify!($name), |_| choice(&[$($about),*], &[$(($text, sentence(&[$($doc),*]))),+]))
            }
        }
    )+};
}

pub(super) use {message, words};

/// A duration as Go writes it: `1h30m`, `1.5s`, `100ms`. The text is kept; whether it is one says [`Self::parse`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DurationText(pub String);

impl DurationText {
    /// The duration; refuses negative ones and what does not fit.
    pub fn parse(&self) -> Result<Duration, Invalid> {
        let text = self.0.as_str();
        if text == "0" {
            return Ok(Duration::ZERO);
        }
        if text.starts_with('-') {
            return Err(Invalid(format!("`{text}` is negative")));
        }
        let mut rest = text.strip_prefix('+').unwrap_or(text);
        let mut total = 0_u128;
        let wrong = || Invalid(format!("`{text}` is not a duration such as `10s`, `1.5s`, `250ms` or `1h30m`"));
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, after) = rest.split_at(digits);
            let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
            let (unit, after) = after.split_at(unit_end);
            let part = nanoseconds(number, unit).ok_or_else(wrong)?;
            total = total.checked_add(part).ok_or_else(wrong)?;
            rest = after;
        }
        // Go's limit, about 292 years; a longer one is a slip of the pen.
        match u64::try_from(total) {
            Ok(total) if i64::try_from(total).is_ok() => Ok(Duration::from_nanos(total)),
            _ => Err(Invalid(format!("`{text}` is longer than 292 years"))),
        }
    }
}

/// `number` of `unit` in nanoseconds, exact to the nanosecond.
fn nanoseconds(number: &str, unit: &str) -> Option<u128> {
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 20 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // Digits behind the fifteenth are below a nanosecond even of hours.
    let fraction = fraction.get(..15).unwrap_or(fraction);
    let parts: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let denominator = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    whole.checked_mul(scale)?.checked_add(parts.checked_mul(scale)?.checked_div(denominator)?)
}

impl fmt::Display for DurationText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

message! {
    /// A percentage.
    pub struct Percent {
        /// 0 to 100.
        pub value: Option<f64>,
    }

    /// A port by its number.
    pub struct PortSelector {
        /// 1 to 65 535.
        pub number: Option<u32>,
    }

    /// A condition on a text: one of the three, or none for "is there".
    pub struct StringMatch {
        /// Equal.
        pub exact: Option<String>,
        /// Begins with.
        pub prefix: Option<String>,
        /// Matches as a whole (RE2).
        pub regex: Option<String>,
    }

    /// Where traffic goes.
    pub struct Destination {
        /// A service; a short name stands in the namespace of the rule.
        pub host: String,
        /// A subset of a DestinationRule.
        pub subset: Option<String>,
        /// Needed where the service has several.
        pub port: Option<PortSelector>,
    }

    /// Workloads by their labels (`Sidecar`, `ServiceEntry`).
    pub struct WorkloadSelector {
        /// All of them have to be there; empty: every workload of the namespace.
        pub labels: BTreeMap<String, String>,
    }

    /// A gateway or waypoint that a policy is for.
    pub struct PolicyTargetReference {
        /// Group of its kind.
        pub group: Option<String>,
        /// Its kind.
        pub kind: String,
        /// Its name.
        pub name: String,
        /// Its namespace; only the policy's own.
        pub namespace: Option<String>,
    }

    /// Workloads by their labels (`DestinationRule` and the newer kinds).
    pub struct LabelSelector {
        /// All of them have to be there.
        pub match_labels: BTreeMap<String, String>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("250ms", 250_000_000),
            ("1h30m", 5_400_000_000_000),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("+1ns", 1),
        ] {
            assert_eq!(DurationText(text.into()).parse(), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "s", "10", "10 s", "1.2.3s", "-1s", "1d", "1e3s", "+", "99999999999999999999999h", "9999999h"]
        {
            assert!(DurationText(text.into()).parse().is_err(), "{text}");
        }
    }
}
