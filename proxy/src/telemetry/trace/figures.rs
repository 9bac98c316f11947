//! What became of spans.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use crate::telemetry::text::{counter, family};

const EXPORTED: &str = "leno_spans_exported_total";
const DROPPED: &str = "leno_spans_dropped_total";

/// Why a span was not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The collector does not keep up.
    QueueFull,
    /// The collector could not be reached, or did not take them, as often as that was tried.
    ExportFailed,
    /// The collector said that it does not want them.
    Rejected,
    /// There is no such cluster, or nobody in it.
    NoCollector,
    /// The proxy left before they could be sent.
    Leaving,
}

impl Lost {
    const ALL: [Self; 5] = [Self::QueueFull, Self::ExportFailed, Self::Rejected, Self::NoCollector, Self::Leaving];

    /// As the label `reason` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::ExportFailed => "export_failed",
            Self::Rejected => "rejected",
            Self::NoCollector => "no_collector",
            Self::Leaving => "leaving",
        }
    }
}

/// Counters of a process.
#[derive(Debug, Default)]
pub struct SpanFigures {
    exported: AtomicU64,
    lost: [AtomicU64; Lost::ALL.len()],
}

impl SpanFigures {
    /// So many have arrived.
    pub fn exported(&self, spans: usize) {
        self.exported.fetch_add(spans as u64, Ordering::Relaxed);
    }

    /// So many will not.
    pub fn lost(&self, reason: Lost, spans: usize) {
        if let Some(counter) = self.lost.get(reason as usize) {
            counter.fetch_add(spans as u64, Ordering::Relaxed);
        }
    }

    /// How many were lost for this reason.
    pub fn count(&self, reason: Lost) -> u64 {
        self.lost.get(reason as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// The collector that a registry holds.
#[derive(Debug)]
pub struct SpanMetrics {
    figures: Arc<SpanFigures>,
    descriptions: Vec<Desc>,
}

impl SpanMetrics {
    /// Over these counters.
    pub fn new(figures: Arc<SpanFigures>) -> Result<Self, prometheus::Error> {
        let descriptions = [EXPORTED, DROPPED]
            .into_iter()
            .map(|name| Desc::new(name.to_owned(), "leno".to_owned(), Vec::new(), HashMap::new()))
            .collect::<Result<_, _>>()?;
        Ok(Self { figures, descriptions })
    }
}

impl Collector for SpanMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let count = self.figures.exported.load(Ordering::Relaxed);
        let mut exported = family(EXPORTED, "Spans that the collector has taken.", MetricType::COUNTER);
        exported.mut_metric().push(counter(&[], count));
        let mut dropped = family(DROPPED, "Spans that were lost, by reason.", MetricType::COUNTER);
        for reason in Lost::ALL {
            dropped.mut_metric().push(counter(&[("reason", reason.as_str())], self.figures.count(reason)));
        }
        vec![exported, dropped]
    }
}
