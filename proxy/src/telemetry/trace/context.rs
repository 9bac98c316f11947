//! The trace that a caller says its request belongs to, and how the next one is told.
//!
//! **In**, the first that is there and valid counts: `traceparent` (W3C Trace Context), `b3` (one header), `x-b3-…` (several
//! headers), `uber-trace-id` (Jaeger). **Out** goes `traceparent`, always, since that is what everything new reads, and
//! besides it each format that came in, since an app that speaks only that one must find its own trace again. A format that
//! came in is rewritten even where another one was believed: two headers must not tell of two traces.
//!
//! `tracestate` travels along as it is, up to [`MOST_STATE`] bytes (§3.3.1.1 asks for 512), and only with a valid
//! `traceparent`: what belongs to a trace that is not continued is removed. `baggage` and `grpc-trace-bin` are the apps' own
//! and pass untouched.
//!
//! Reading is strict and bounded, and never fails a request: what is not exactly one of the forms is as if it were not
//! there. Nothing here allocates but the values of headers that are written.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::id::{SpanId, TraceId};

/// A longer `tracestate` ends here.
pub const MOST_STATE: usize = 512;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const B3_FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");
const UBER: HeaderName = HeaderName::from_static("uber-trace-id");

/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const TRACEPARENT_LENGTH: usize = 55;
/// The bits of `trace-flags` that mean something: sampled, and that the trace id is random (level 2).
const RANDOM_FLAG: u8 = 0b10;
const SAMPLED_FLAG: u8 = 0b01;

/// What a request says of its trace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrived {
    /// The caller's span, where it names one.
    pub parent: Option<Parent>,
    /// Whether the caller records it; `None`: it leaves that to us.
    pub sampled: Option<bool>,
    /// It shall be recorded, whatever else is said (B3's and Jaeger's debug flag).
    pub forced: bool,
    /// How it says so.
    pub formats: Formats,
    /// Of these, the one that is believed.
    pub source: Formats,
}

/// The span that a request continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub span: SpanId,
    /// The trace id is known to be random.
    pub random: bool,
}

/// Which formats a request came with, valid or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Formats(u8);

impl Formats {
    /// `traceparent`
    pub const W3C: Self = Self(1);
    /// One header of B3.
    pub const B3: Self = Self(2);
    /// Several of them.
    pub const B3_MULTI: Self = Self(4);
    /// Jaeger's.
    pub const UBER: Self = Self(8);

    /// Whether all of `other` came.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A span as the next one is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Its trace.
    pub trace: TraceId,
    /// Itself.
    pub span: SpanId,
    /// What it continues, of which B3 tells as well.
    pub parent: Option<SpanId>,
    /// Whether it is recorded.
    pub sampled: bool,
    /// That was an order (B3's and Jaeger's debug flag), which goes on.
    pub ordered: bool,
    /// The trace id is known to be random.
    pub random: bool,
}

/// Reads what came. Behind a `traceparent` that is not sampled nothing else is looked for: nothing will be written either.
pub fn extract(headers: &HeaderMap) -> Arrived {
    let mut arrived = Arrived::default();
    for (format, read) in READERS {
        if arrived.is_settled() {
            break;
        }
        let Some(found) = read(headers) else { continue };
        arrived.formats = arrived.formats.with(format);
        let Read::Valid { parent, sampled, forced } = found else { continue };
        arrived.forced |= forced;
        // Ids count for more than a bare decision.
        if arrived.parent.is_none() && (parent.is_some() || arrived.sampled.is_none()) {
            (arrived.parent, arrived.sampled, arrived.source) = (parent, sampled, format);
        }
    }
    arrived
}

impl Arrived {
    /// It goes on as it came.
    fn is_settled(&self) -> bool {
        self.source == Formats::W3C && self.sampled == Some(false)
    }
}

/// Removes what belongs to another trace, or is too long to travel.
pub fn tidy(headers: &mut HeaderMap, continued: bool) {
    if let Some(first) = headers.get(TRACESTATE) {
        let mut rest = headers.get_all(TRACESTATE).iter().skip(1);
        let length = rest.try_fold(first.len(), |sum, value| {
            (sum < MOST_STATE).then(|| sum.saturating_add(1).saturating_add(value.len()))
        });
        if !continued || length.is_none_or(|length| length > MOST_STATE) {
            headers.remove(TRACESTATE);
        }
    }
}

impl Context {
    /// Tells of it in W3C's form.
    pub fn write(&self, headers: &mut HeaderMap) {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let [_, _, _, trace @ .., _, _, _] = &mut text;
        let (trace, rest) = trace.split_at_mut(32);
        let (_, span) = rest.split_at_mut(1);
        hex(&self.trace.bytes(), trace);
        hex(&self.span.bytes(), span);
        let random = if self.random { RANDOM_FLAG } else { 0 };
        let [.., high, low] = &mut text;
        [*high, *low] = digits(u8::from(self.sampled) | random);
        headers.insert(TRACEPARENT, value(&text));
    }

    /// Tells of it in W3C's form and in each other one that came.
    pub fn write_all(&self, headers: &mut HeaderMap, formats: Formats) {
        self.write(headers);
        if formats.has(Formats::B3) {
            headers.insert(B3, self.b3());
        }
        if formats.has(Formats::B3_MULTI) {
            let (mut long, mut span) = ([0; 32], [0; 16]);
            headers.insert(B3_TRACE, value(self.short_trace(&mut long)));
            hex(&self.span.bytes(), &mut span);
            headers.insert(B3_SPAN, value(&span));
            match self.parent {
                Some(parent) => {
                    hex(&parent.bytes(), &mut span);
                    headers.insert(B3_PARENT, value(&span));
                }
                None => drop(headers.remove(B3_PARENT)),
            }
            // A debug flag goes on and implies the decision, which is not said as well (B3, "Debug Flag").
            if headers.get(B3_FLAGS).is_some_and(|flags| flags == "1") {
                headers.remove(B3_SAMPLED);
            } else {
                headers.insert(B3_SAMPLED, HeaderValue::from_static(if self.sampled { "1" } else { "0" }));
            }
        }
        if formats.has(Formats::UBER) {
            headers.insert(UBER, self.uber());
        }
    }

    /// `TRACE-SPAN-SAMPLED[-PARENT]`
    fn b3(&self) -> HeaderValue {
        let (mut long, mut digits) = ([0; 32], [0; 16]);
        let mut text = Text::default();
        text.add(self.short_trace(&mut long));
        hex(&self.span.bytes(), &mut digits);
        text.add(b"-").add(&digits).add(if self.ordered {
            b"-d"
        } else if self.sampled {
            b"-1"
        } else {
            b"-0"
        });
        if let Some(parent) = self.parent {
            hex(&parent.bytes(), &mut digits);
            text.add(b"-").add(&digits);
        }
        value(text.as_bytes())
    }

    /// `TRACE:SPAN:PARENT:FLAGS`; the parent is deprecated there, and 0.
    fn uber(&self) -> HeaderValue {
        let (mut long, mut digits) = ([0; 32], [0; 16]);
        let mut text = Text::default();
        text.add(self.short_trace(&mut long));
        hex(&self.span.bytes(), &mut digits);
        text.add(b":").add(&digits);
        text.add(if self.ordered {
            b":0:3"
        } else if self.sampled {
            b":0:1"
        } else {
            b":0:0"
        });
        value(text.as_bytes())
    }

    /// Whoever made an id of 16 digits reads only those.
    fn short_trace<'t>(&self, digits: &'t mut [u8; 32]) -> &'t [u8] {
        hex(&self.trace.bytes(), digits.as_mut_slice());
        let (_, short) = digits.split_at(16);
        if self.trace.high() == 0 { short } else { digits.as_slice() }
    }
}

/// What one format says.
enum Read {
    /// It is there, and nonsense.
    Garbage,
    Valid {
        parent: Option<Parent>,
        sampled: Option<bool>,
        forced: bool,
    },
}

type Reader = fn(&HeaderMap) -> Option<Read>;

/// In the order in which they are believed.
const READERS: [(Formats, Reader); 4] =
    [(Formats::W3C, w3c), (Formats::B3, b3), (Formats::B3_MULTI, b3_multi), (Formats::UBER, uber)];

/// `None`: it is not there. Twice is as bad as garbage, since nobody knows which one the app would take.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<Result<&'h [u8], Read>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(if values.next().is_some() { Err(Read::Garbage) } else { Ok(first.as_bytes()) })
}

fn w3c(headers: &HeaderMap) -> Option<Read> {
    Some(only(headers, &TRACEPARENT)?.map_or_else(|bad| bad, |text| traceparent(text).unwrap_or(Read::Garbage)))
}

/// W3C Trace Context §3.2: of a version that is newer than ours, what ours has in common with it.
fn traceparent(text: &[u8]) -> Option<Read> {
    let head = text.get(..TRACEPARENT_LENGTH)?;
    let is_lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    let version = number(head.get(..2)?)?;
    let ends = match (version, text.get(TRACEPARENT_LENGTH)) {
        (0xff, _) => false,
        (_, None) => true,
        (0, Some(_)) => false,
        (_, Some(next)) => *next == b'-',
    };
    let dashes = [2, 35, 52].iter().all(|at| head.get(*at) == Some(&b'-'));
    if !(ends && dashes && head.iter().all(is_lower)) {
        return None;
    }
    let trace = TraceId::new(number(head.get(3..35)?)?)?;
    let span = span(head.get(36..52)?)?;
    let flags = number(head.get(53..55)?)?;
    let random = flags & u128::from(RANDOM_FLAG) != 0;
    let sampled = Some(flags & u128::from(SAMPLED_FLAG) != 0);
    Some(Read::Valid { parent: Some(Parent { trace, span, random }), sampled, forced: false })
}

fn b3(headers: &HeaderMap) -> Option<Read> {
    Some(only(headers, &B3)?.map_or_else(|bad| bad, |text| b3_text(text).unwrap_or(Read::Garbage)))
}

/// `TRACE-SPAN`, `TRACE-SPAN-STATE`, `TRACE-SPAN-STATE-PARENT`, or the state alone.
fn b3_text(text: &[u8]) -> Option<Read> {
    let mut parts = text.split(|byte| *byte == b'-');
    let first = parts.next()?;
    let Some(second) = parts.next() else {
        let (sampled, forced) = b3_state(first)?;
        return Some(Read::Valid { parent: None, sampled: Some(sampled), forced });
    };
    let parent = Parent { trace: b3_trace(first)?, span: b3_span(second)?, random: false };
    let state = parts.next().map(|state| b3_state(state).ok_or(())).transpose().ok()?;
    if let Some(grandparent) = parts.next() {
        b3_span(grandparent)?;
    }
    if parts.next().is_some() {
        return None;
    }
    let (sampled, forced) = (state.map(|(sampled, _)| sampled), state.is_some_and(|(_, forced)| forced));
    Some(Read::Valid { parent: Some(parent), sampled, forced })
}

/// Whether it is sampled, and whether that is an order. `true` and `false` are of old versions.
fn b3_state(text: &[u8]) -> Option<(bool, bool)> {
    match text {
        b"1" | b"true" => Some((true, false)),
        b"0" | b"false" => Some((false, false)),
        b"d" => Some((true, true)),
        _ => None,
    }
}

fn b3_multi(headers: &HeaderMap) -> Option<Read> {
    let parts = [B3_TRACE, B3_SPAN, B3_SAMPLED, B3_FLAGS].map(|name| only(headers, &name));
    if parts.iter().all(Option::is_none) {
        return None;
    }
    let read = || {
        let [trace, span, sampled, flags] = parts.map(Option::transpose);
        let (trace, span, sampled, flags) = (trace.ok()?, span.ok()?, sampled.ok()?, flags.ok()?);
        let parent = match (trace, span) {
            (Some(trace), Some(span)) => Some(Parent { trace: b3_trace(trace)?, span: b3_span(span)?, random: false }),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return None,
        };
        let forced = flags == Some(b"1");
        let state = sampled.map(|text| b3_state(text).ok_or(())).transpose().ok()?;
        let sampled = if forced { Some(true) } else { state.map(|(sampled, _)| sampled) };
        Some(Read::Valid { parent, sampled, forced })
    };
    Some(read().unwrap_or(Read::Garbage))
}

fn b3_trace(text: &[u8]) -> Option<TraceId> {
    matches!(text.len(), 16 | 32).then(|| number(text)).flatten().and_then(TraceId::new)
}

fn b3_span(text: &[u8]) -> Option<SpanId> {
    (text.len() == 16).then(|| span(text)).flatten()
}

fn uber(headers: &HeaderMap) -> Option<Read> {
    Some(only(headers, &UBER)?.map_or_else(|bad| bad, |text| uber_text(text).unwrap_or(Read::Garbage)))
}

/// `TRACE:SPAN:PARENT:FLAGS`, whose ids may lack leading zeros and whose colons may be escaped (some clients do so).
fn uber_text(text: &[u8]) -> Option<Read> {
    // The longest there is: 32, 16 and 16 digits, 2 of flags, three colons of three bytes.
    let mut plain = [0_u8; 75];
    let mut length = 0;
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let escaped = rest.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"%3a"));
        *plain.get_mut(length)? = if escaped { b':' } else { *first };
        length = length.saturating_add(1);
        rest = if escaped { rest.get(3..)? } else { after };
    }
    let mut parts = plain.get(..length)?.split(|byte| *byte == b':');
    let (trace, own, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let right = parts.next().is_none() && trace.len() <= 32 && own.len() <= 16 && parent.len() <= 16;
    if !right || flags.len() > 2 || !parent.is_empty() && number(parent).is_none() {
        return None;
    }
    let flags = number(flags)?;
    let parent = Parent { trace: TraceId::new(number(trace)?)?, span: span(own)?, random: false };
    let forced = flags & 2 != 0;
    Some(Read::Valid { parent: Some(parent), sampled: Some(forced || flags & 1 != 0), forced })
}

fn span(digits: &[u8]) -> Option<SpanId> {
    u64::try_from(number(digits)?).ok().and_then(SpanId::new)
}

/// A number in at most 32 hexadecimal digits.
fn number(digits: &[u8]) -> Option<u128> {
    if digits.is_empty() || digits.len() > 32 {
        return None;
    }
    digits.iter().try_fold(0, |sum: u128, digit| Some(sum << 4 | u128::from(char::from(*digit).to_digit(16)?)))
}

/// Two digits a byte.
fn hex(bytes: &[u8], text: &mut [u8]) {
    for (byte, pair) in bytes.iter().zip(text.chunks_exact_mut(2)) {
        pair.copy_from_slice(&digits(*byte));
    }
}

fn digits(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 15].map(|half| if half < 10 { b'0' | half } else { b'a'.wrapping_add(half.wrapping_sub(10)) })
}

#[expect(clippy::expect_used, reason = "digits, dashes and colons")]
fn value(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).expect("invariant: digits, dashes and colons are a header value")
}

/// A short text in the making: the longest is B3's, of 32 + 1 + 16 + 2 + 1 + 16 bytes.
#[derive(Default)]
struct Text {
    // Two halves, since arrays have a default up to 32 bytes only.
    bytes: [[u8; 32]; 3],
    length: usize,
}

impl Text {
    fn add(&mut self, more: &[u8]) -> &mut Self {
        let end = self.length.saturating_add(more.len());
        if let Some(free) = self.bytes.as_flattened_mut().get_mut(self.length..end) {
            free.copy_from_slice(more);
            self.length = end;
        }
        self
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.as_flattened().get(..self.length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
