//! What keeps a cluster from harm: circuit breakers, outlier detection, keep-alive.

use std::time::Duration;

use super::pb;
use super::refusal::{Problem, Result, Within, each, is_true, required, unsupported};
use super::scalar::{
    duration_to_xds, optional_duration, percent_from_xds, percent_to_xds, positive_duration, u32_or,
    whole_percent_from_xds, whole_percent_to_xds, wrap_u32,
};
use crate::defaults;
use crate::ir::{
    FailurePercentage, Fraction, Limits, Origins, OutlierDetection, RetryBudget, StringMatch, SuccessRate, TcpKeepalive,
};
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
        success_rate,
        failure_percentage,
        always_eject_one,
        check_readmits,
    } = outlier;
    let enforced = |is_on: bool| wrap_u32(if is_on { 100 } else { 0 });
    let enforcing = |count: &Option<u32>| enforced(count.is_some());
    let (rate, percentage) = (success_rate.as_ref(), failure_percentage.as_ref());
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
        enforcing_success_rate: enforced(rate.is_some_and(|rate| rate.origins.external())),
        enforcing_local_origin_success_rate: enforced(rate.is_some_and(|rate| rate.origins.local())),
        success_rate_minimum_hosts: rate.and_then(|rate| wrap_u32(rate.min_hosts)),
        success_rate_request_volume: rate.and_then(|rate| wrap_u32(rate.min_requests)),
        success_rate_stdev_factor: rate.and_then(|rate| wrap_u32(rate.factor)),
        enforcing_failure_percentage: percentage.and_then(|it| enforced(it.origins.external())),
        enforcing_failure_percentage_local_origin: percentage.and_then(|it| enforced(it.origins.local())),
        failure_percentage_threshold: percentage.and_then(|it| wrap_u32(it.threshold)),
        failure_percentage_minimum_hosts: percentage.and_then(|it| wrap_u32(it.min_hosts)),
        failure_percentage_request_volume: percentage.and_then(|it| wrap_u32(it.min_requests)),
        always_eject_one_host: always_eject_one.then_some(pb::protobuf::BoolValue { value: true }),
        // Envoy: on where nobody says anything.
        successful_active_health_check_uneject_host: (!check_readmits)
            .then_some(pb::protobuf::BoolValue { value: false }),
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
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        failure_percentage_threshold,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
        // Spreads readmissions over time; a half-open endpoint gets one request at first anyway.
        max_ejection_time_jitter: _,
        successful_active_health_check_uneject_host,
    } = outlier;
    unsupported(&[("monitors", &monitors), ("detect_degraded_hosts", &is_true(&detect_degraded_hosts))])?;
    let split = split_external_local_origin_errors;
    let rates = |name: &str, external, local, default_share| {
        let external = is_enforced(&format!("enforcing_{name}"), u32_or(external, default_share))?;
        let field = match name {
            "success_rate" => "enforcing_local_origin_success_rate",
            _ => "enforcing_failure_percentage_local_origin",
        };
        let local = is_enforced(field, u32_or(local, default_share))?;
        Ok::<_, Problem>(Origins::new(external, local && split))
    };
    let of_success = rates("success_rate", enforcing_success_rate, enforcing_local_origin_success_rate, 100)?;
    let of_failure =
        rates("failure_percentage", enforcing_failure_percentage, enforcing_failure_percentage_local_origin, 0)?;
    let success_rate = of_success.map(|origins| SuccessRate {
        origins,
        min_hosts: u32_or(success_rate_minimum_hosts, 5),
        min_requests: u32_or(success_rate_request_volume, 100),
        factor: u32_or(success_rate_stdev_factor, 1900),
    });
    let failure_percentage = of_failure.map(|origins| FailurePercentage {
        origins,
        threshold: u32_or(failure_percentage_threshold, 85).min(100),
        min_hosts: u32_or(failure_percentage_minimum_hosts, 5),
        min_requests: u32_or(failure_percentage_request_volume, 50),
    });
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
        success_rate,
        failure_percentage,
        always_eject_one: is_true(&always_eject_one_host),
        check_readmits: successful_active_health_check_uneject_host.is_none_or(|value| value.value),
    })
}

fn consecutive(field: &str, enforcing: u32, count: u32) -> Result<Option<u32>> {
    Ok(is_enforced(field, enforcing)?.then_some(count).filter(|count| *count > 0))
}

/// Envoy draws lots whether to eject; Leno ejects or does not.
fn is_enforced(field: &str, enforcing: u32) -> Result<bool> {
    match enforcing {
        0 => Ok(false),
        100 => Ok(true),
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
            let seconds = duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0));
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
