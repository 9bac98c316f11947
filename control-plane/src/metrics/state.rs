//! How things stand at this moment: who is connected, who waits, how large the snapshots are.

use std::sync::{Arc, OnceLock, Weak};

use leno_config::xds::Kind;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts};

use super::count;
use crate::ads::push::Hub;
use crate::ads::variant::Protocol;

/// Looks at the hub at each scrape.
#[derive(Debug)]
pub(super) struct States {
    hub: Arc<OnceLock<Weak<Hub>>>,
    connected: IntGaugeVec,
    pilot_connected: IntGauge,
    waiting: IntGauge,
    unanswered: IntGauge,
    resources: IntGaugeVec,
    bytes: IntGaugeVec,
}

impl States {
    /// All at zero until there is a hub.
    pub(super) fn new(hub: Arc<OnceLock<Weak<Hub>>>) -> Result<Self, prometheus::Error> {
        let options = |name: &str, help: &str| Opts::new(format!("leno_control_plane_{name}"), help);
        let connected = options("connected_proxies", "Proxies that hold a discovery stream.");
        let waiting = options("waiting_proxies", "Proxies for which something is ready and not sent yet: the queue.");
        let unanswered = options("unanswered_proxies", "Proxies that have not answered what they were sent.");
        let resources = options("snapshot_resources", "Different resources in the snapshots that are kept.");
        let bytes = options("snapshot_bytes", "Their size as it is sent.");
        let states = Self {
            hub,
            connected: IntGaugeVec::new(connected, &["variant", "dialect"])?,
            pilot_connected: IntGauge::new("pilot_xds", "Proxies that hold a discovery stream.")?,
            waiting: IntGauge::with_opts(waiting)?,
            unanswered: IntGauge::with_opts(unanswered)?,
            resources: IntGaugeVec::new(resources, &["type"])?,
            bytes: IntGaugeVec::new(bytes, &["type"])?,
        };
        states.look(None);
        Ok(states)
    }

    fn look(&self, hub: Option<&Arc<Hub>>) {
        let streams = hub.map(|hub| hub.streams()).unwrap_or_default();
        for protocol in [Protocol::Delta, Protocol::World] {
            for dialect in ["envoy", "grpc"] {
                let of = streams.iter().filter(|it| it.protocol == protocol && it.dialect.label() == dialect);
                self.connected.with_label_values(&[protocol.label(), dialect]).set(count(of.count()));
            }
        }
        self.pilot_connected.set(count(streams.len()));
        let newest = hub.and_then(|hub| hub.newest());
        let number = newest.as_ref().map_or(0, |generation| generation.number());
        self.waiting.set(count(streams.iter().filter(|stream| stream.waits_for(number)).count()));
        self.unanswered.set(count(streams.iter().filter(|stream| stream.session().owes_an_answer()).count()));
        let sizes = newest.map(|generation| generation.size()).unwrap_or_default();
        for kind in Kind::PUSH_ORDER {
            let size = sizes.get(&kind).copied().unwrap_or_default();
            self.resources.with_label_values(&[kind.label()]).set(count(size.resources));
            self.bytes.with_label_values(&[kind.label()]).set(count(size.bytes));
        }
    }

    fn gauges(&self) -> [&dyn Collector; 6] {
        [&self.connected, &self.pilot_connected, &self.waiting, &self.unanswered, &self.resources, &self.bytes]
    }
}

impl Collector for States {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look(self.hub.get().and_then(Weak::upgrade).as_ref());
        self.gauges().into_iter().flat_map(Collector::collect).collect()
    }
}
