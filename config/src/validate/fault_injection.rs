//! Faults on purpose.

use super::findings::Findings;
use super::values::Zero;
use crate::diagnostic::codes;
use crate::ir::AbortStatus;
use crate::rules::{FaultAbort, FaultDelay, HttpFaultInjection, Path, closest};

pub(super) fn check(fault: &HttpFaultInjection, path: &Path, found: &mut Findings) {
    if fault.delay.is_none() && fault.abort.is_none() {
        found.add(codes::REQUIRED, path, "the fault is neither a delay nor an abort").help("add `delay` or `abort`");
    }
    if let Some(delay) = &fault.delay {
        check_delay(delay, &path.key("delay"), found);
    }
    if let Some(abort) = &fault.abort {
        check_abort(abort, &path.key("abort"), found);
    }
}

fn check_delay(delay: &FaultDelay, path: &Path, found: &mut Findings) {
    found.percent(&path.key("percentage"), delay.percentage.as_ref());
    if let Some(percent) = delay.percent {
        let path = path.key("percent");
        found.percentage(&path, f64::from(percent));
        found.add(codes::DEPRECATED, &path, "`percent` is going away").help("use `percentage: {value: …}`");
    }
    if delay.exponential_delay.is_some() {
        let path = path.key("exponentialDelay");
        found.add(codes::NO_EFFECT, &path, "nobody ever did `exponentialDelay`").on_key().help("use `fixedDelay`");
    } else if delay.fixed_delay.is_none() {
        found.add(codes::REQUIRED, path, "the delay has no length").help("add `fixedDelay`");
    }
    found.duration(&path.key("fixedDelay"), delay.fixed_delay.as_ref(), Zero::Refused);
    if delay.percentage.is_none() && delay.percent.is_none() {
        never(path, found);
    }
}

fn check_abort(abort: &FaultAbort, path: &Path, found: &mut Findings) {
    found.percent(&path.key("percentage"), abort.percentage.as_ref());
    if abort.percentage.is_none() {
        never(path, found);
    }
    let ways = [abort.http_status.is_some(), abort.grpc_status.is_some(), abort.http2_error.is_some()];
    match ways.into_iter().filter(|is_set| *is_set).count() {
        0 => {
            found.add(codes::REQUIRED, path, "the abort has no status").help("add `httpStatus` or `grpcStatus`");
        }
        1 => {}
        _ => {
            found.add(codes::EXCLUSIVE, path, "the abort has several statuses").help("keep one");
        }
    }
    if abort.http2_error.is_some() {
        let path = path.key("http2Error");
        found.add(codes::NO_EFFECT, &path, "nobody ever did `http2Error`").on_key().help("use `httpStatus`");
    }
    if let Some(status) = abort.http_status.filter(|status| !(200..=599).contains(status)) {
        let message = format!("{status} cannot be the status of an answer");
        found.add(codes::STATUS, &path.key("httpStatus"), message).help("it is 200 to 599");
    }
    let Some(status) = &abort.grpc_status else { return };
    if let Err(invalid) = AbortStatus::grpc(status) {
        let finding = found.add(codes::STATUS, &path.key("grpcStatus"), invalid.to_string());
        if let Some(meant) = closest(status, &AbortStatus::GRPC) {
            finding.help(format!("did you mean `{meant}`?"));
        }
    }
}

/// Istio's default share of a fault is none.
fn never(path: &Path, found: &mut Findings) {
    found
        .add(codes::NO_EFFECT, path, "without `percentage` the fault never happens")
        .help("add `percentage: {value: 100}`");
}
