//! What keeps a cluster from harm: limits, outlier detection, health checks.

use std::collections::BTreeSet;

use leno_config::ir::*;
use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;

use super::{duration, fraction, name, path, text, whole_percent};

pub(super) fn limits() -> impl Strategy<Value = Limits> {
    let limit = || of(0..u32::MAX);
    let budget = (fraction(), any::<u32>()).prop_map(|(share, min_concurrency)| RetryBudget { share, min_concurrency });
    (limit(), limit(), limit(), limit(), of(budget)).prop_map(
        |(connections, pending, requests, retries, retry_budget)| Limits {
            connections,
            pending,
            requests,
            retries,
            retry_budget,
        },
    )
}

pub(super) fn outlier() -> impl Strategy<Value = OutlierDetection> {
    let count = || of(1..100_u32);
    let codes = btree_set(100..=599_u16, 0..4).prop_map(|codes: BTreeSet<u16>| codes.into_iter().collect());
    let counts = (count(), count(), count());
    let times = (duration(), duration(), duration());
    let rest = (any::<bool>(), any::<bool>());
    (counts, outlier_rates(), times, whole_percent(), codes, rest).prop_map(
        |(
            (consecutive_5xx, consecutive_gateway, consecutive_local),
            (split_local, success_rate, failure_percentage),
            (interval, base_ejection, max_ejection),
            max_ejection_share,
            status_codes,
            (always_eject_one, check_readmits),
        )| OutlierDetection {
            consecutive_5xx,
            consecutive_gateway,
            consecutive_local,
            split_local,
            interval,
            base_ejection,
            max_ejection,
            max_ejection_share,
            status_codes,
            success_rate,
            failure_percentage,
            always_eject_one,
            check_readmits,
        },
    )
}

/// Rates; those of local errors only where they are told apart.
fn outlier_rates() -> impl Strategy<Value = (bool, Option<SuccessRate>, Option<FailurePercentage>)> {
    let origins = || prop::sample::select(vec![Origins::External, Origins::Local, Origins::Both]);
    let rate =
        (origins(), 0..50_u32, 0..500_u32, 0..5_000_u32).prop_map(|(origins, min_hosts, min_requests, factor)| {
            SuccessRate { origins, min_hosts, min_requests, factor }
        });
    let percentage =
        (origins(), 0..=100_u32, 0..50_u32, 0..500_u32).prop_map(|(origins, threshold, min_hosts, min_requests)| {
            FailurePercentage { origins, threshold, min_hosts, min_requests }
        });
    (any::<bool>(), of(rate), of(percentage)).prop_map(|(split, rate, percentage)| {
        let possible = |origins: Origins| Origins::new(origins.external(), origins.local() && split);
        (
            split,
            rate.and_then(|rate| Some(SuccessRate { origins: possible(rate.origins)?, ..rate })),
            percentage.and_then(|it| Some(FailurePercentage { origins: possible(it.origins)?, ..it })),
        )
    })
}

pub(super) fn health_check() -> impl Strategy<Value = HealthCheck> {
    let ranges = || {
        let range =
            (100..600_u16, 0..50_u16).prop_map(|(first, more)| StatusRange { first, last: (first + more).min(599) });
        vec(range, 0..3)
    };
    let http =
        (of(name()), path(), ranges(), ranges(), any::<bool>()).prop_map(|(host, path, expected, retriable, http2)| {
            HealthProbe::Http(HttpProbe { host, path, expected, retriable, http2 })
        });
    let bytes = || vec(any::<u8>(), 1..8);
    let tcp = (of(bytes()), vec(bytes(), 0..3))
        .prop_map(|(send, receive)| HealthProbe::Tcp(TcpProbe { send: send.unwrap_or_default(), receive }));
    let grpc =
        (text(), of(name())).prop_map(|(service, authority)| HealthProbe::Grpc(GrpcProbe { service, authority }));
    let times = (duration(), duration(), duration());
    (prop_oneof![http, tcp, grpc], times, (1..10_u32, 1..10_u32), 0..=100_u32).prop_map(
        |(probe, (interval, idle_interval, timeout), (unhealthy_threshold, healthy_threshold), jitter_percent)| {
            HealthCheck {
                probe,
                interval,
                idle_interval,
                timeout,
                unhealthy_threshold,
                healthy_threshold,
                jitter_percent,
            }
        },
    )
}
