//! What `/stats/prometheus` shows of access logs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{MetricFamily, MetricType};

use crate::telemetry::text::{counter, family};

use super::writer::{Counts, Hub};

const WRITTEN: &str = "leno_access_log_written_total";
const DROPPED: &str = "leno_access_log_dropped_total";

/// The collector that a registry holds.
#[derive(Debug)]
pub struct LogMetrics {
    counts: Arc<Counts>,
    descriptions: Vec<Desc>,
}

impl LogMetrics {
    /// Over all logs of a process.
    pub fn new(hub: &Hub) -> Result<Self, prometheus::Error> {
        let describe = |name: &str| Desc::new(name.to_owned(), "leno".to_owned(), Vec::new(), HashMap::new());
        let descriptions = [WRITTEN, DROPPED].into_iter().map(describe).collect::<Result<_, _>>()?;
        Ok(Self { counts: Arc::clone(hub.counts()), descriptions })
    }
}

impl Collector for LogMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Counts { written, dropped } = &*self.counts;
        let help = "Lines of access logs that could not be written: a full disk, or a reader that does not keep up.";
        [(WRITTEN, "Lines of access logs that were written.", written), (DROPPED, help, dropped)]
            .into_iter()
            .map(|(name, help, count)| {
                let mut family = family(name, help, MetricType::COUNTER);
                family.mut_metric().push(counter(&[], count.load(Ordering::Relaxed)));
                family
            })
            .collect()
    }
}
