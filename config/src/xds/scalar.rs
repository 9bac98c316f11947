//! Durations, shares and wrapped numbers.

use std::time::Duration;

use super::pb;
use super::refusal::{Problem, Result, Within};
use crate::ir::Fraction;

/// Longest duration that protobuf allows: ten thousand years.
const LONGEST: u64 = 315_576_000_000;

pub(super) fn duration_to_xds(duration: Duration) -> pb::protobuf::Duration {
    let seconds = i64::try_from(duration.as_secs().min(LONGEST)).unwrap_or(i64::MAX);
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or(i32::MAX);
    pb::protobuf::Duration { seconds, nanos }
}

pub(super) fn duration_from_xds(duration: pb::protobuf::Duration) -> Result<Duration> {
    let pb::protobuf::Duration { seconds, nanos } = duration;
    let bad = || Problem::new("", format!("a duration of {seconds} s and {nanos} ns is negative or out of range"));
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds <= LONGEST).ok_or_else(bad)?;
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000).ok_or_else(bad)?;
    Ok(Duration::new(seconds, nanos))
}

/// A duration that may be missing.
pub(super) fn optional_duration(field: &str, duration: Option<pb::protobuf::Duration>) -> Result<Option<Duration>> {
    duration.map(duration_from_xds).transpose().within(field)
}

/// A duration of which 0 means the same as none at all.
pub(super) fn positive_duration(field: &str, duration: Option<pb::protobuf::Duration>) -> Result<Option<Duration>> {
    Ok(optional_duration(field, duration)?.filter(|duration| !duration.is_zero()))
}

/// A limit in time as Envoy writes most of them: 0 is no limit, and unset is `default`.
pub(super) fn limit_from_xds(
    field: &str,
    duration: Option<pb::protobuf::Duration>,
    default: Duration,
) -> Result<Option<Duration>> {
    let duration = optional_duration(field, duration)?.unwrap_or(default);
    Ok(Some(duration).filter(|duration| !duration.is_zero()))
}

/// The reverse: no limit is 0.
pub(super) fn limit_to_xds(limit: Option<Duration>) -> Option<pb::protobuf::Duration> {
    Some(duration_to_xds(limit.unwrap_or_default()))
}

pub(super) fn wrap_bool(value: bool) -> Option<pb::protobuf::BoolValue> {
    Some(pb::protobuf::BoolValue { value })
}

pub(super) fn wrap_u32(value: u32) -> Option<pb::protobuf::UInt32Value> {
    Some(pb::protobuf::UInt32Value { value })
}

pub(super) fn wrap_u64(value: u64) -> Option<pb::protobuf::UInt64Value> {
    Some(pb::protobuf::UInt64Value { value })
}

pub(super) fn u32_or(value: Option<pb::protobuf::UInt32Value>, default: u32) -> u32 {
    value.map_or(default, |value| value.value)
}

pub(super) fn u64_or(value: Option<pb::protobuf::UInt64Value>, default: u64) -> u64 {
    value.map_or(default, |value| value.value)
}

pub(super) fn fraction_to_xds(fraction: Fraction) -> pb::kinds::FractionalPercent {
    pb::kinds::FractionalPercent {
        numerator: fraction.millionths(),
        denominator: pb::kinds::fractional_percent::DenominatorType::Million.into(),
    }
}

pub(super) fn fraction_from_xds(fraction: pb::kinds::FractionalPercent) -> Result<Fraction> {
    use pb::kinds::fractional_percent::DenominatorType;
    let pb::kinds::FractionalPercent { numerator, denominator } = fraction;
    let millionths_each = match DenominatorType::try_from(denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(Problem::new("denominator", format!("Leno does not know denominator {denominator}"))),
    };
    Ok(Fraction::from_millionths(numerator.saturating_mul(millionths_each))?)
}

pub(super) fn runtime_fraction_to_xds(fraction: Fraction) -> pb::core::RuntimeFractionalPercent {
    pb::core::RuntimeFractionalPercent { default_value: Some(fraction_to_xds(fraction)), runtime_key: String::new() }
}

/// The share that holds without a runtime layer, which Leno has none of; everything where it is not said.
pub(super) fn runtime_fraction_from_xds(fraction: Option<pb::core::RuntimeFractionalPercent>) -> Result<Fraction> {
    let Some(pb::core::RuntimeFractionalPercent { default_value, runtime_key: _ }) = fraction else {
        return Ok(Fraction::ALL);
    };
    // Envoy: a message without a default is 0 %.
    default_value.map_or(Ok(Fraction::NONE), |value| fraction_from_xds(value).within("default_value"))
}

pub(super) fn percent_to_xds(fraction: Fraction) -> pb::kinds::Percent {
    pb::kinds::Percent { value: f64::from(fraction.millionths()) / 10_000.0 }
}

pub(super) fn percent_from_xds(percent: pb::kinds::Percent) -> Result<Fraction> {
    Ok(Fraction::from_percent(percent.value)?)
}

/// Whole percents, which is all that some fields of Envoy hold; the rest is rounded.
pub(super) fn whole_percent_to_xds(fraction: Fraction) -> u32 {
    fraction.millionths().saturating_add(5_000) / 10_000
}

pub(super) fn whole_percent_from_xds(percent: u32) -> Result<Fraction> {
    Ok(Fraction::from_percent(f64::from(percent))?)
}
