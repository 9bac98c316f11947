//! What Prometheus' own libraries say of every process: since when it runs, and what it takes of the machine. Read out of
//! `/proc/self` at each scrape; what cannot be read is left out.

use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge};

/// Of this process.
#[derive(Debug)]
pub(super) struct Process {
    start: Gauge,
    /// By which `leno check` compares clocks.
    clock: Gauge,
    memory: IntGauge,
    files: IntGauge,
    threads: IntGauge,
}

impl Process {
    /// `start` is when it was started, nearly enough.
    pub(super) fn new(start: SystemTime) -> Result<Self, prometheus::Error> {
        let process = Self {
            start: Gauge::new("process_start_time_seconds", "When the process was started, in Unix time.")?,
            clock: Gauge::new("leno_control_plane_clock_seconds", "What the clock says, in Unix time.")?,
            memory: IntGauge::new("process_resident_memory_bytes", "Memory that is resident.")?,
            files: IntGauge::new("process_open_fds", "File descriptors that are open.")?,
            threads: IntGauge::new("process_threads", "Threads.")?,
        };
        process.start.set(unix(start));
        Ok(process)
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.memory, &self.files, &self.threads];
        let clocks = self.start.desc().into_iter().chain(self.clock.desc());
        clocks.chain(gauges.into_iter().flat_map(Collector::desc)).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let files = std::fs::read_dir("/proc/self/fd").ok().and_then(|open| i64::try_from(open.count()).ok());
        let values = [
            (&self.memory, field(&status, "VmRSS:").map(|kib| kib.saturating_mul(1024))),
            (&self.files, files),
            (&self.threads, field(&status, "Threads:")),
        ];
        self.clock.set(unix(SystemTime::now()));
        let mut families = self.start.collect();
        families.extend(self.clock.collect());
        for (gauge, value) in values {
            if let Some(value) = value {
                gauge.set(value);
                families.extend(gauge.collect());
            }
        }
        families
    }
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The number of a line such as `VmRSS: 1234 kB`.
fn field(status: &str, key: &str) -> Option<i64> {
    status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_says_what_it_takes() {
        let process = Process::new(SystemTime::now()).unwrap();
        for family in process.collect() {
            let value = family.get_metric().first().map(|metric| metric.get_gauge().get_value());
            assert!(value.is_some_and(|value| value > 0.0), "{}", family.name());
        }
        assert_eq!(field("VmRSS:\t  12 kB\nThreads:\t3\n", "Threads:"), Some(3));
    }
}
