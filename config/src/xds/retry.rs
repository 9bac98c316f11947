//! When a request is tried again: Envoy's retry policy.

use std::collections::BTreeSet;

use super::pb;
use super::refusal::{Problem, Result, Within, each, nonempty, required, unsupported};
use super::scalar::{duration_from_xds, duration_to_xds, optional_duration, positive_duration, u32_or, wrap_u32};
use super::{any, matcher};
use crate::defaults;
use crate::ir::{RateLimitedBackoff, ResetFormat, ResetHeader, RetryOn, RetryPolicy};
use pb::previous_hosts::PreviousHostsPredicate;
use pb::previous_priorities::PreviousPrioritiesConfig;
use pb::route::retry_policy::{
    self, RateLimitedRetryBackOff, ResetHeaderFormat, RetryBackOff, RetryHostPredicate, RetryPriority,
};

/// Istio: `retryRemoteLocalities` looks further at every second attempt.
const PRIORITY_UPDATE_FREQUENCY: i32 = 2;

pub(super) fn to_xds(policy: &RetryPolicy) -> pb::route::RetryPolicy {
    let RetryPolicy {
        on,
        attempts,
        per_try_timeout,
        status_codes,
        answer_headers,
        request_headers,
        backoff_base,
        backoff_max,
        rate_limited,
        avoid_previous_hosts,
        host_selection_attempts,
        other_localities,
    } = policy;
    pb::route::RetryPolicy {
        retry_on: on.iter().map(|on| on.as_str()).collect::<Vec<_>>().join(","),
        num_retries: wrap_u32(*attempts),
        per_try_timeout: per_try_timeout.map(duration_to_xds),
        retriable_status_codes: status_codes.iter().map(|code| u32::from(*code)).collect(),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(duration_to_xds(*backoff_base)),
            max_interval: Some(duration_to_xds(*backoff_max)),
        }),
        rate_limited_retry_back_off: rate_limited.as_ref().map(rate_limited_to_xds),
        retriable_headers: answer_headers.iter().map(matcher::header_to_xds).collect(),
        retriable_request_headers: request_headers.iter().map(matcher::header_to_xds).collect(),
        retry_host_predicate: avoid_previous_hosts.then(previous_hosts).into_iter().collect(),
        host_selection_retry_max_attempts: (*host_selection_attempts).into(),
        retry_priority: other_localities.then(previous_priorities),
        ..Default::default()
    }
}

/// `None` where no condition is named, so that nothing is ever tried again.
pub(super) fn from_xds(policy: pb::route::RetryPolicy) -> Result<Option<RetryPolicy>> {
    let pb::route::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = policy;
    unsupported(&[
        ("per_try_idle_timeout", &positive_duration("per_try_idle_timeout", per_try_idle_timeout)?),
        ("retry_options_predicates", &retry_options_predicates),
        ("refresh_cluster_on_retry", &refresh_cluster_on_retry),
    ])?;
    let (backoff_base, backoff_max) = backoff_from_xds(retry_back_off).within("retry_back_off")?;
    let policy = RetryPolicy {
        on: on_from_xds(&retry_on).within("retry_on")?,
        attempts: u32_or(num_retries, 1),
        per_try_timeout: positive_duration("per_try_timeout", per_try_timeout)?,
        status_codes: each("retriable_status_codes", retriable_status_codes, status_from_xds)?.into_iter().collect(),
        answer_headers: each("retriable_headers", retriable_headers, matcher::header_from_xds)?,
        request_headers: each("retriable_request_headers", retriable_request_headers, matcher::header_from_xds)?,
        backoff_base,
        backoff_max,
        rate_limited: rate_limited_retry_back_off
            .map(rate_limited_from_xds)
            .transpose()
            .within("rate_limited_retry_back_off")?,
        avoid_previous_hosts: !each("retry_host_predicate", retry_host_predicate, host_predicate_from_xds)?.is_empty(),
        host_selection_attempts: host_attempts_from_xds(host_selection_retry_max_attempts)?,
        other_localities: retry_priority.map(priority_from_xds).transpose().within("retry_priority")?.is_some(),
    };
    Ok(Some(policy).filter(|policy| !policy.on.is_empty()))
}

fn on_from_xds(words: &str) -> Result<BTreeSet<RetryOn>> {
    let words = words.split(',').map(str::trim).filter(|word| !word.is_empty());
    Ok(words.map(RetryOn::parse).collect::<std::result::Result<_, _>>()?)
}

fn status_from_xds(code: u32) -> Result<u16> {
    u16::try_from(code)
        .ok()
        .filter(|code| (100..=599).contains(code))
        .ok_or_else(|| Problem::new("", format!("a status is between 100 and 599, this is {code}")))
}

fn backoff_from_xds(backoff: Option<RetryBackOff>) -> Result<(std::time::Duration, std::time::Duration)> {
    let Some(RetryBackOff { base_interval, max_interval }) = backoff else {
        let base = defaults::RETRY_BACKOFF_BASE;
        return Ok((base, base.saturating_mul(defaults::RETRY_BACKOFF_FACTOR)));
    };
    let base = duration_from_xds(required("base_interval", base_interval)?).within("base_interval")?;
    let max = optional_duration("max_interval", max_interval)?
        .unwrap_or_else(|| base.saturating_mul(defaults::RETRY_BACKOFF_FACTOR));
    if base.is_zero() {
        return Err(Problem::new("base_interval", "is greater than 0"));
    }
    if max < base {
        return Err(Problem::new("max_interval", "is at least base_interval"));
    }
    Ok((base, max))
}

fn rate_limited_to_xds(backoff: &RateLimitedBackoff) -> RateLimitedRetryBackOff {
    let RateLimitedBackoff { headers, max } = backoff;
    let header = |ResetHeader { name, format }: &ResetHeader| retry_policy::ResetHeader {
        name: name.to_string(),
        format: match format {
            ResetFormat::Seconds => ResetHeaderFormat::Seconds.into(),
            ResetFormat::UnixTimestamp => ResetHeaderFormat::UnixTimestamp.into(),
        },
    };
    RateLimitedRetryBackOff {
        reset_headers: headers.iter().map(header).collect(),
        max_interval: Some(duration_to_xds(*max)),
    }
}

fn rate_limited_from_xds(backoff: RateLimitedRetryBackOff) -> Result<RateLimitedBackoff> {
    let RateLimitedRetryBackOff { reset_headers, max_interval } = backoff;
    let headers = each("reset_headers", reset_headers, reset_header_from_xds)?;
    if headers.is_empty() {
        return Err(Problem::new("reset_headers", "names at least one header"));
    }
    let max = positive_duration("max_interval", max_interval)?.unwrap_or(defaults::RETRY_RATE_LIMITED_MAX);
    Ok(RateLimitedBackoff { headers, max })
}

fn reset_header_from_xds(header: retry_policy::ResetHeader) -> Result<ResetHeader> {
    let retry_policy::ResetHeader { name, format } = header;
    let bad = |_| Problem::new("name", "is not a header name (RFC 9110 §5.1)");
    Ok(ResetHeader {
        name: nonempty("name", name)?.parse().map_err(bad)?,
        format: match ResetHeaderFormat::try_from(format) {
            Ok(ResetHeaderFormat::Seconds) => ResetFormat::Seconds,
            Ok(ResetHeaderFormat::UnixTimestamp) => ResetFormat::UnixTimestamp,
            Err(_) => return Err(Problem::new("format", format!("Leno does not know format {format}"))),
        },
    })
}

/// Envoy: 0 is the default, which is 1.
fn host_attempts_from_xds(attempts: i64) -> Result<u32> {
    u32::try_from(attempts).map(|attempts| attempts.max(1)).map_err(|_| {
        Problem::new("host_selection_retry_max_attempts", format!("{attempts} is negative or far too large"))
    })
}

fn previous_hosts() -> RetryHostPredicate {
    RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(any::pack(
            &PreviousHostsPredicate {},
        ))),
    }
}

fn host_predicate_from_xds(predicate: RetryHostPredicate) -> Result<()> {
    use retry_policy::retry_host_predicate::ConfigType;
    let RetryHostPredicate { name, config_type } = predicate;
    match config_type {
        Some(ConfigType::TypedConfig(config)) if any::is::<PreviousHostsPredicate>(&config) => Ok(()),
        // Written without a type, the name is all there is.
        None if name == "envoy.retry_host_predicates.previous_hosts" => Ok(()),
        _ => Err(Problem::new("", format!("Leno knows the predicate previous_hosts, not `{name}`"))),
    }
}

fn previous_priorities() -> RetryPriority {
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(retry_policy::retry_priority::ConfigType::TypedConfig(any::pack(
            &PreviousPrioritiesConfig { update_frequency: PRIORITY_UPDATE_FREQUENCY },
        ))),
    }
}

fn priority_from_xds(priority: RetryPriority) -> Result<()> {
    let RetryPriority { name, config_type } = priority;
    let retry_policy::retry_priority::ConfigType::TypedConfig(config) = required("typed_config", config_type)?;
    if !any::is::<PreviousPrioritiesConfig>(&config) {
        return Err(Problem::new("", format!("Leno knows previous_priorities, not `{name}`")));
    }
    // After how many attempts to look further: a matter of tuning, for which Leno has its own value.
    let PreviousPrioritiesConfig { update_frequency: _ } = any::unpack(&config).within("typed_config")?;
    Ok(())
}
