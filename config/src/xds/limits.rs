//! What keeps a cluster from harm: circuit breakers, outlier detection, keep-alive.

use std::time::Duration;

use super::pb;
use super::refusal::{Problem, Result, Within, each, is_true, required, unsupported};
use super::scalar::{
    duration_to_xds, optional_duration, percent_from_xds, percent_to_xds, positive_duration, u32_or,
    whole_percent_from_xds, whole_percent_to_xds, wrap_u32,
};
use crate::defaults;
use crate::ir::{Fraction, Limits, OutlierDetection, RetryBudget, StringMatch, TcpKeepalive};
use pb::cluster::CircuitBreakers;
use pb::cluster::circuit_breakers::{Thresholds, thresholds};
use pb::core::RoutingPriority;
use pb::predicate::{HttpHeadersMatch, MatchPredicate, match_predicate};
use pb::route::header_matcher::HeaderMatchSpecifier;

/// Envoy: connections, pending requests and requests where nobody says anything.
const ENVOY_LIMIT: u32 = 1024;
/// Envoy: retries where nobody says anything.
const ENVOY_RETRIES: u32 = 3;

/// Istio writes every limit: left out, Envoy's own would hold.
pub(super) fn breakers_to_xds(limits: &Limits) -> CircuitBreakers {
    let Limits { connections, pending, requests, retries, retry_budget } = limits;
    let limit = |limit: &Option<u32>| wrap_u32(limit.unwrap_or(u32::MAX));
    CircuitBreakers {
        thresholds: vec![Thresholds {
            max_connections: limit(connections),
            max_pending_requests: limit(pending),
            max_requests: limit(requests),
            max_retries: limit(retries),
            retry_budget: retry_budget.as_ref().map(|RetryBudget { share, min_concurrency }| thresholds::RetryBudget {
                budget_percent: Some(percent_to_xds(*share)),
                min_retry_concurrency: wrap_u32(*min_concurrency),
                budget_interval: None,
            }),
            track_remaining: true,
            ..Default::default()
        }],
        per_host_thresholds: Vec::new(),
    }
}

pub(super) fn breakers_from_xds(breakers: Option<CircuitBreakers>) -> Result<Limits> {
    let CircuitBreakers { thresholds, per_host_thresholds } = breakers.unwrap_or_default();
    unsupported(&[("per_host_thresholds", &per_host_thresholds)])?;
    let limits = each("thresholds", thresholds, thresholds_from_xds)?;
    // No route has priority HIGH, so only the other limits count; of several, Envoy takes the first.
    match limits.into_iter().flatten().next() {
        Some(limits) => Ok(limits),
        None => Ok(envoy_limits()),
    }
}

fn envoy_limits() -> Limits {
    let limit = Some(ENVOY_LIMIT);
    Limits { connections: limit, pending: limit, requests: limit, retries: Some(ENVOY_RETRIES), retry_budget: None }
}

/// The limits of priority DEFAULT.
fn thresholds_from_xds(thresholds: Thresholds) -> Result<Option<Limits>> {
    let Thresholds {
        priority,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        max_connection_pools,
        // Statistics.
        track_remaining: _,
    } = thresholds;
    unsupported(&[("max_connection_pools", &max_connection_pools)])?;
    let limit = |value, default| Some(u32_or(value, default)).filter(|limit| *limit != u32::MAX);
    let limits = Limits {
        connections: limit(max_connections, ENVOY_LIMIT),
        pending: limit(max_pending_requests, ENVOY_LIMIT),
        requests: limit(max_requests, ENVOY_LIMIT),
        retries: limit(max_retries, ENVOY_RETRIES),
        retry_budget: retry_budget.map(budget_from_xds).transpose().within("retry_budget")?,
    };
    match RoutingPriority::try_from(priority) {
        Ok(RoutingPriority::Default) => Ok(Some(limits)),
        Ok(RoutingPriority::High) => Ok(None),
        Err(_) => Err(Problem::new("priority", format!("Leno does not know priority {priority}"))),
    }
}

fn budget_from_xds(budget: thresholds::RetryBudget) -> Result<RetryBudget> {
    let thresholds::RetryBudget { budget_percent, budget_interval, min_retry_concurrency } = budget;
    unsupported(&[("budget_interval", &positive_duration("budget_interval", budget_interval)?)])?;
    let default = || Fraction::from_percent(defaults::RETRY_BUDGET_PERCENT).map_err(Problem::from);
    Ok(RetryBudget {
        share: budget_percent.map_or_else(default, percent_from_xds).within("budget_percent")?,
        min_concurrency: u32_or(min_retry_concurrency, defaults::RETRY_BUDGET_MIN),
    })
}

/// Istio: ejection by success rate is switched off, whatever is on.
pub(super) fn outlier_to_xds(outlier: &OutlierDetection) -> pb::cluster::OutlierDetection {
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway,
        consecutive_local,
        split_local,
        interval,
        base_ejection,
        max_ejection,
        max_ejection_share,
        status_codes: _, // Travel as a matcher in the HTTP options.
    } = outlier;
    let enforcing = |count: &Option<u32>| wrap_u32(if count.is_some() { 100 } else { 0 });
    pb::cluster::OutlierDetection {
        consecutive_5xx: consecutive_5xx.and_then(wrap_u32),
        enforcing_consecutive_5xx: enforcing(consecutive_5xx),
        consecutive_gateway_failure: consecutive_gateway.and_then(wrap_u32),
        enforcing_consecutive_gateway_failure: enforcing(consecutive_gateway),
        consecutive_local_origin_failure: consecutive_local.and_then(wrap_u32),
        enforcing_consecutive_local_origin_failure: enforcing(consecutive_local),
        split_external_local_origin_errors: *split_local,
        interval: Some(duration_to_xds(*interval)),
        base_ejection_time: Some(duration_to_xds(*base_ejection)),
        max_ejection_time: Some(duration_to_xds(*max_ejection)),
        max_ejection_percent: wrap_u32(whole_percent_to_xds(*max_ejection_share)),
        enforcing_success_rate: wrap_u32(0),
        enforcing_local_origin_success_rate: wrap_u32(0),
        ..Default::default()
    }
}

pub(super) fn outlier_from_xds(
    outlier: pb::cluster::OutlierDetection,
    status_codes: Vec<u16>,
) -> Result<OutlierDetection> {
    let pb::cluster::OutlierDetection {
        consecutive_5xx,
        interval,
        base_ejection_time,
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
        max_ejection_time,
        monitors,
        always_eject_one_host,
        detect_degraded_hosts,
        // How success rate and failure percentage are measured. They are refused where they are asked for in words;
        // Envoy's default, which turns the success rate on, is not: it only ejects more.
        success_rate_minimum_hosts: _,
        success_rate_request_volume: _,
        success_rate_stdev_factor: _,
        failure_percentage_threshold: _,
        failure_percentage_minimum_hosts: _,
        failure_percentage_request_volume: _,
        // Spreads readmissions over time.
        max_ejection_time_jitter: _,
        // Of active health checks.
        successful_active_health_check_uneject_host: _,
    } = outlier;
    unsupported(&[
        ("enforcing_success_rate", &u32_or(enforcing_success_rate, 0)),
        ("enforcing_local_origin_success_rate", &u32_or(enforcing_local_origin_success_rate, 0)),
        ("enforcing_failure_percentage", &u32_or(enforcing_failure_percentage, 0)),
        ("enforcing_failure_percentage_local_origin", &u32_or(enforcing_failure_percentage_local_origin, 0)),
        ("monitors", &monitors),
        ("always_eject_one_host", &is_true(&always_eject_one_host)),
        ("detect_degraded_hosts", &is_true(&detect_degraded_hosts)),
    ])?;
    let default = defaults::OUTLIER_CONSECUTIVE_5XX;
    let base_ejection = duration_or("base_ejection_time", base_ejection_time, defaults::OUTLIER_BASE_EJECTION)?;
    let enforced = |field, enforcing, default_share, count| consecutive(field, u32_or(enforcing, default_share), count);
    Ok(OutlierDetection {
        consecutive_5xx: enforced(
            "enforcing_consecutive_5xx",
            enforcing_consecutive_5xx,
            100,
            u32_or(consecutive_5xx, default),
        )?,
        consecutive_gateway: enforced(
            "enforcing_consecutive_gateway_failure",
            enforcing_consecutive_gateway_failure,
            0,
            u32_or(consecutive_gateway_failure, default),
        )?,
        consecutive_local: enforced(
            "enforcing_consecutive_local_origin_failure",
            enforcing_consecutive_local_origin_failure,
            100,
            u32_or(consecutive_local_origin_failure, default),
        )?,
        split_local: split_external_local_origin_errors,
        interval: duration_or("interval", interval, defaults::OUTLIER_INTERVAL)?,
        base_ejection,
        // Envoy: never below the first ejection.
        max_ejection: optional_duration("max_ejection_time", max_ejection_time)?
            .unwrap_or_else(|| defaults::OUTLIER_MAX_EJECTION.max(base_ejection)),
        max_ejection_share: whole_percent_from_xds(u32_or(max_ejection_percent, 10)).within("max_ejection_percent")?,
        status_codes,
    })
}

/// Envoy draws lots whether to eject; Leno ejects or does not.
fn consecutive(field: &str, enforcing: u32, count: u32) -> Result<Option<u32>> {
    match enforcing {
        0 => Ok(None),
        100 => Ok(Some(count).filter(|count| *count > 0)),
        share => Err(Problem::new(field, format!("is 0 or 100, this is {share}"))),
    }
}

fn duration_or(field: &str, duration: Option<pb::protobuf::Duration>, default: Duration) -> Result<Duration> {
    match optional_duration(field, duration)?.unwrap_or(default) {
        Duration::ZERO => Err(Problem::new(field, "is greater than 0")),
        duration => Ok(duration),
    }
}

/// The statuses that count as errors, as a condition on the answer; `None`: Envoy's own, 5xx.
pub(super) fn statuses_to_xds(codes: &[u16]) -> Option<MatchPredicate> {
    let one = |code: &u16| MatchPredicate {
        rule: Some(match_predicate::Rule::HttpResponseHeadersMatch(HttpHeadersMatch {
            headers: vec![pb::route::HeaderMatcher {
                name: ":status".to_owned(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(super::matcher::string_to_xds(
                    &StringMatch::exact(code.to_string()),
                ))),
                ..Default::default()
            }],
        })),
    };
    match codes {
        [] => None,
        [only] => Some(one(only)),
        several => Some(MatchPredicate {
            rule: Some(match_predicate::Rule::OrMatch(match_predicate::MatchSet {
                rules: several.iter().map(one).collect(),
            })),
        }),
    }
}

/// Conditions on `:status` alone.
pub(super) fn statuses_from_xds(predicate: MatchPredicate) -> Result<Vec<u16>> {
    let MatchPredicate { rule } = predicate;
    match required("rule", rule)? {
        match_predicate::Rule::OrMatch(match_predicate::MatchSet { rules }) => {
            each("or_match.rules", rules, status_from_xds)
        }
        single => Ok(vec![status_from_xds(MatchPredicate { rule: Some(single) })?]),
    }
}

fn status_from_xds(predicate: MatchPredicate) -> Result<u16> {
    let bad = || Problem::new("", "Leno counts answers by status: write `:status` with an exact code");
    let Some(match_predicate::Rule::HttpResponseHeadersMatch(HttpHeadersMatch { mut headers })) = predicate.rule else {
        return Err(bad());
    };
    let (Some(header), true) = (headers.pop(), headers.is_empty()) else { return Err(bad()) };
    let pb::route::HeaderMatcher { name, invert_match, treat_missing_header_as_empty: _, header_match_specifier } =
        header;
    let Some(HeaderMatchSpecifier::StringMatch(matcher)) = header_match_specifier else { return Err(bad()) };
    match super::matcher::string_from_xds(matcher)? {
        StringMatch::Exact { value, .. } if name == ":status" && !invert_match => {
            value.parse().ok().filter(|code| (100..=599).contains(code)).ok_or_else(bad)
        }
        _ => Err(bad()),
    }
}

/// Envoy counts in whole seconds; a part of a second counts as one.
pub(super) fn keepalive_to_xds(keepalive: &TcpKeepalive) -> pb::core::TcpKeepalive {
    let TcpKeepalive { probes, time, interval } = keepalive;
    let seconds = |duration: &Option<Duration>| {
        duration.and_then(|duration| {
            let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
            wrap_u32(u32::try_from(seconds).unwrap_or(u32::MAX))
        })
    };
    pb::core::TcpKeepalive {
        keepalive_probes: probes.and_then(wrap_u32),
        keepalive_time: seconds(time),
        keepalive_interval: seconds(interval),
    }
}

pub(super) fn keepalive_from_xds(keepalive: pb::core::TcpKeepalive) -> TcpKeepalive {
    let pb::core::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval } = keepalive;
    let seconds = |value: pb::protobuf::UInt32Value| Duration::from_secs(value.value.into());
    TcpKeepalive {
        probes: keepalive_probes.map(|probes| probes.value),
        time: keepalive_time.map(seconds),
        interval: keepalive_interval.map(seconds),
    }
}
