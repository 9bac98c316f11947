//! The rows of [`Figures`](super::Figures), made of the series.

use std::collections::BTreeMap;

use leno_config::ir;

use super::connections::{CLOSED, FIGURES as TCP_FIGURES, OPENED, RECEIVED, SENT, TcpTotal};
use super::figures::{Direction, Distribution, Party, RequestRow, RouteRow, Service, TcpRow};
use super::labels::Labels;
use super::party::{Link, UNKNOWN};
use super::requests::{RequestSums, RequestTotal, Spoken};
use super::text::to_f64;
use crate::error::Flags;

/// Between whom, and by which service.
type Between = (Direction, Party, Party, Service, &'static str, &'static str);

/// Requests by who talks to whom.
pub(super) fn requests(labels: &Labels, totals: &[RequestTotal]) -> Vec<RequestRow> {
    let mut rows = BTreeMap::<(Between, Spoken, u16, Flags, Option<u8>), RequestSums>::new();
    for total in totals {
        let key = &total.key;
        let between = between(labels, key.direction, &total.names.link.value, total.names.target.value.figure());
        rows.entry((between, key.spoken, key.code, key.flags, key.grpc)).or_default().add(&total.figures);
    }
    let row = |((between, spoken, code, flags, grpc_status), sums): ((Between, Spoken, _, Flags, _), RequestSums)| {
        let (direction, source, destination, service, security, group) = between;
        RequestRow {
            direction,
            source,
            destination,
            service,
            protocol: spoken.as_str().to_owned(),
            security: security.to_owned(),
            group: group.to_owned(),
            code,
            flags: flags.to_string(),
            grpc_status,
            requests: sums.requests(),
            duration: duration(&sums),
            request_bytes: sums.request_bytes(),
            response_bytes: sums.response_bytes(),
            request_messages: sums.request_messages(),
            response_messages: sums.response_messages(),
        }
    };
    rows.into_iter().map(row).collect()
}

/// Requests by route.
pub(super) fn routes(totals: &[RequestTotal]) -> Vec<RouteRow> {
    let mut rows = BTreeMap::<(Direction, String, String, Service, u16, Flags), RequestSums>::new();
    for total in totals {
        let (key, names) = (&total.key, &total.names);
        let (target, route) = (&names.target.value, names.route.value.clone());
        let row = (way(key.direction), route, target.cluster.clone(), target.figure(), key.code, key.flags);
        rows.entry(row).or_default().add(&total.figures);
    }
    let row = |((direction, route, cluster, service, code, flags), sums): ((_, _, _, _, _, Flags), RequestSums)| {
        let (requests, duration) = (sums.requests(), duration(&sums));
        RouteRow { direction, route, cluster, service, code, flags: flags.to_string(), requests, duration }
    };
    rows.into_iter().map(row).collect()
}

/// TCP connections by who talks to whom.
pub(super) fn connections(labels: &Labels, totals: &[TcpTotal]) -> Vec<TcpRow> {
    let mut rows = BTreeMap::<(Between, Flags), [u64; TCP_FIGURES]>::new();
    for total in totals {
        let key = &total.key;
        let between = between(labels, key.direction, &total.names.link.value, total.names.target.value.figure());
        let sums = rows.entry((between, key.flags)).or_default();
        sums.iter_mut().zip(&total.figures).for_each(|(sum, figure)| *sum = sum.wrapping_add(*figure));
    }
    let row = |((between, flags), sums): ((Between, Flags), [u64; TCP_FIGURES])| {
        let (direction, source, destination, service, security, group) = between;
        let figure = |at: usize| sums.get(at).copied().unwrap_or_default();
        TcpRow {
            direction,
            source,
            destination,
            service,
            security: security.to_owned(),
            group: group.to_owned(),
            flags: flags.to_string(),
            opened: figure(OPENED),
            closed: figure(CLOSED),
            received: figure(RECEIVED),
            sent: figure(SENT),
        }
    };
    rows.into_iter().map(row).collect()
}

/// The own workload, on no connection in particular.
pub(super) fn own(labels: &Labels) -> Party {
    labels.own().figure(UNKNOWN)
}

fn between(labels: &Labels, direction: ir::Direction, link: &Link, service: Service) -> Between {
    let own = labels.own().figure(&link.own_principal);
    let other = link.party.figure(&link.principal);
    let (source, destination) = match direction {
        ir::Direction::Inbound => (other, own),
        ir::Direction::Outbound => (own, other),
    };
    (way(direction), source, destination, service, link.protection.as_str(), link.group)
}

fn way(direction: ir::Direction) -> Direction {
    match direction {
        ir::Direction::Inbound => Direction::Inbound,
        ir::Direction::Outbound => Direction::Outbound,
    }
}

fn duration(sums: &RequestSums) -> Distribution {
    Distribution { buckets: sums.durations().to_vec(), sum: to_f64(sums.micros()) / 1e3 }
}
