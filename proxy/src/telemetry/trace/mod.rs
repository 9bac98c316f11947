//! Traces: which requests are told of as spans, and what the next one is told of its trace.
//!
//! ```text
//! worker:  headers ─context─▶ decision ─▶ headers          (sampled only: ids in the request's Detail)
//!          the request ends ─▶ Finished ─queue─┐            bounded; full: dropped and counted
//! control thread:                              └▶ otlp ─▶ batch ─▶ collector, over gRPC or HTTP
//! ```
//!
//! * [`context`]: the headers, in all their formats; [`id`]: the ids in them.
//! * [`spans`]: what a worker hands over; [`otlp`]: the spans it becomes; [`export`]: the task that sends them, by
//!   [`collector`]; [`figures`]: what became of them.
//!
//! **Which spans.** A request has one span on each side: `SERVER` on an inbound listener, `CLIENT` on an outbound one. Each
//! attempt is a `CLIENT` span below it (OpenTelemetry: one per request that is sent), and the header that an endpoint gets
//! names the span of that very attempt, so that what a retry caused stands below the retry.
//!
//! **Which requests.** The caller's decision counts, sampled or not; where there is none, chance decides, once, and the
//! answer goes on in `traceparent` with the flag clear, so that nobody behind us draws again and starts a trace in the
//! middle. `x-envoy-force-trace` forces one, from the own app or from a caller of the mesh only: a stranger's is removed. So
//! does the debug flag of B3 and Jaeger.
//!
//! **What it costs.** Without `tracing` one branch, and headers pass as they are. A request that comes with the flag clear
//! costs a look at its headers; one without any context two random numbers and one header. Only a sampled one is gathered
//! ([`Detail`](super::detail::Detail)), and even that is turned into spans on the control thread.

mod collector;
#[cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]
pub mod context;
pub mod export;
pub mod figures;
pub mod id;
mod otlp;
pub mod spans;

use http::{HeaderMap, HeaderName};
use leno_config::ir::{Direction, Fraction};

use crate::downstream::Connection;
use crate::random::Random;
use crate::worker::ListenerView;

use super::observe::Ended;
use context::{Arrived, Context, Formats};
use id::{SpanId, TraceId};
use spans::Finished;

/// Asks for a trace (Envoy).
const FORCE: HeaderName = HeaderName::from_static("x-envoy-force-trace");

/// The place of a request in its trace, on a listener that traces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// As the next one is told of it: of a request that is recorded its own span, else the caller's, or one that nobody
    /// has.
    pub context: Context,
    /// Each attempt has a span of its own.
    pub attempts: bool,
    formats: Formats,
    /// The caller's `traceparent` is the one that goes on.
    continued: bool,
    /// It came with an order that its caller may not give.
    is_strangers_wish: bool,
}

/// What becomes of a request on this listener; `None`: it does not trace.
pub fn begin(connection: &Connection, view: &ListenerView, headers: &HeaderMap) -> Option<Trace> {
    let tracing = view.tracing()?;
    let is_stranger = view.listener.config.direction == Direction::Inbound && connection.peer.is_none();
    let asked = headers.contains_key(FORCE);
    let random = &connection.worker.random;
    let trace = decide(context::extract(headers), asked && !is_stranger, tracing.sampling, tracing.attempts, random);
    Some(Trace { is_strangers_wish: asked && is_stranger, ..trace })
}

/// The decision. `sampling` is for those of which the caller has not decided.
pub fn decide(arrived: Arrived, forced: bool, sampling: Fraction, attempts: bool, random: &Random) -> Trace {
    let Arrived { parent, sampled, forced: ordered, formats, source } = arrived;
    let chance = || random.below(Fraction::ALL.millionths()) < sampling.millionths();
    let sampled = forced || sampled.unwrap_or_else(chance);
    let context = Context {
        trace: parent.map_or_else(|| TraceId::random(random), |parent| parent.trace),
        span: parent.filter(|_| !sampled).map_or_else(|| SpanId::random(random), |parent| parent.span),
        parent: parent.filter(|_| sampled).map(|parent| parent.span),
        sampled,
        ordered,
        random: parent.is_some_and(|parent| parent.random),
    };
    Trace { context, attempts, formats, continued: source == Formats::W3C, is_strangers_wish: false }
}

impl Trace {
    /// Whether it is recorded.
    pub fn is_sampled(&self) -> bool {
        self.context.sampled
    }

    /// A span of an attempt, if there is one: where requests are recorded, and each attempt of them.
    pub fn attempt(&self, random: &Random) -> Option<SpanId> {
        (self.is_sampled() && self.attempts).then(|| SpanId::random(random))
    }

    /// Tells the endpoint of the attempt's span.
    pub fn mark(&self, attempt: Option<SpanId>, headers: &mut HeaderMap) {
        let Some(span) = attempt else { return };
        let context = Context { span, parent: Some(self.context.span), ..self.context };
        context.write_all(headers, self.formats);
    }

    /// What the next one is told, as long as no attempt has a word of its own.
    pub fn write(&self, headers: &mut HeaderMap) {
        context::tidy(headers, self.continued);
        if self.is_strangers_wish {
            headers.remove(FORCE);
        }
        if self.context.sampled {
            self.context.write_all(headers, self.formats);
        } else if !self.continued {
            self.context.write(headers);
        }
    }
}

/// A request is over: if it is recorded, it is handed over to whoever sends spans.
pub fn ended(ended: Ended) {
    let Some(trace) = ended.detail.trace.filter(Trace::is_sampled) else { return };
    let connection = std::rc::Rc::clone(&ended.connection);
    connection.worker.telemetry().spans.hand_over(ended.detail.attempts.len(), || Finished::of(ended, trace));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(traceparent: &str) -> (Arrived, HeaderMap) {
        let mut headers = HeaderMap::new();
        if !traceparent.is_empty() {
            headers.insert("traceparent", traceparent.parse().expect("a value"));
        }
        (context::extract(&headers), headers)
    }

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const NOT_SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    #[test]
    fn the_callers_decision_counts_then_chance_and_an_order_before_all() {
        let random = Random::seeded(1);
        for (traceparent, forced, sampling, expected) in [
            (SAMPLED, false, Fraction::NONE, true),
            (NOT_SAMPLED, false, Fraction::ALL, false),
            (NOT_SAMPLED, true, Fraction::NONE, true),
            ("", false, Fraction::ALL, true),
            ("", false, Fraction::NONE, false),
            ("", true, Fraction::NONE, true),
            ("garbage", false, Fraction::ALL, true),
        ] {
            let found = decide(arrived(traceparent).0, forced, sampling, true, &random);
            assert_eq!(found.is_sampled(), expected, "{traceparent} {forced}");
        }
    }

    #[test]
    fn chance_is_as_fine_as_a_hundredth_of_a_percent() {
        let random = Random::seeded(7);
        for (percent, least, most) in [(0.01, 60, 140), (1.0, 9_500, 10_500), (50.0, 495_000, 505_000)] {
            let sampling = Fraction::from_percent(percent).expect("a percentage");
            let one = || decide(Arrived::default(), false, sampling, true, &random).is_sampled();
            let sampled = (0..1_000_000).filter(|_| one()).count();
            assert!((least..most).contains(&sampled), "{sampled} of a million at {percent} %");
        }
    }

    #[test]
    fn what_is_not_sampled_goes_on_as_it_came_or_with_the_flag_clear() {
        let random = Random::seeded(3);
        let (context, mut headers) = arrived(NOT_SAMPLED);
        let before = headers["traceparent"].as_bytes().as_ptr();
        decide(context, false, Fraction::ALL, true, &random).write(&mut headers);
        assert_eq!(headers["traceparent"], NOT_SAMPLED);
        assert_eq!(headers["traceparent"].as_bytes().as_ptr(), before, "not even copied");
        let (context, mut headers) = arrived("");
        let trace = decide(context, false, Fraction::NONE, true, &random);
        trace.write(&mut headers);
        assert!(headers["traceparent"].to_str().expect("ASCII").ends_with("-00"));
        assert_eq!(trace.attempt(&random), None);
    }

    #[test]
    fn each_attempt_is_told_of_its_own_span_in_the_callers_trace() {
        let random = Random::seeded(3);
        let (context, mut headers) = arrived(SAMPLED);
        let trace = decide(context, false, Fraction::NONE, true, &random);
        trace.write(&mut headers);
        let told = |headers: &HeaderMap| context::extract(headers).parent.expect("a parent");
        assert_eq!(told(&headers).span, trace.context.span);
        let mut spans = vec![trace.context.span, trace.context.parent.expect("the caller's")];
        for _ in 0..2 {
            let attempt = trace.attempt(&random);
            trace.mark(attempt, &mut headers);
            let parent = told(&headers);
            assert_eq!((parent.trace, Some(parent.span)), (trace.context.trace, attempt));
            assert!(!spans.contains(&parent.span));
            spans.push(parent.span);
        }
    }
}
